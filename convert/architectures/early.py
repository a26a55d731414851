"""Key tables of AlexNet and SqueezeNet: torchvision."""

from __future__ import annotations

from typing import Any

from bcos_jax.ops import StandardOps

from ..tables.axes import CONV, DENSE, DENSE_AS_1X1, DENSE_AS_CONV, dense_window
from ..tables.keys import Keys
from ..tables.parts import Rules, biased
from ..tables.rules import Table

Pairs = tuple[tuple[str, str], ...]


def _alex_net(model: Any) -> tuple[Table, Pairs]:
  pairs, place = [], 0
  for i, (*_, pooled) in enumerate(model.convs, 1):
    pairs.append((f"features.{place}", f"conv{i}"))
    place += 2 + pooled  # the sequence has ReLUs and pools too
  rules: Rules = [rule for source, ours in pairs for rule in biased(source, ours, CONV)]
  table = (
    *rules,
    *biased("classifier.1", "fc1", dense_window(model.window)),
    *biased("classifier.4", "fc2", DENSE_AS_CONV),
    *biased("classifier.6", "head", DENSE),
  )
  return table, tuple(pairs)


def _squeeze_net(model: Any) -> tuple[Table, Pairs]:
  rules = biased("features.0", "stem", CONV)
  pairs = []
  for i, row in enumerate(model.rows):
    if row:
      pairs.append((f"features.{i + 2}", f"fire{i}"))
      for source, ours in (
        ("squeeze", "squeeze"),
        ("expand1x1", "expand1"),
        ("expand3x3", "expand3"),
      ):
        rules += biased(f"features.{i + 2}.{source}", f"fire{i}/{ours}", CONV)
  return (*rules, *biased("classifier.1", "head", DENSE_AS_1X1)), tuple(pairs)


ALEX_NET = (Keys("torchvision", StandardOps(), per=_alex_net),)
SQUEEZE_NET = (Keys("torchvision", StandardOps(), per=_squeeze_net),)

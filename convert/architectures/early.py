"""Key tables of AlexNet, SqueezeNet and ShuffleNetV2: torchvision."""

from __future__ import annotations

from typing import Any

from bcos_jax.ops import StandardOps

from ..tables.axes import CONV, DENSE, DENSE_AS_1X1, DENSE_AS_CONV, dense_window
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, weight
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


_SHUFFLE_BLOCK = {
  "kept_depthwise": ("branch1.0", "branch1.1"),
  "kept_conv": ("branch1.2", "branch1.3"),
  "conv1": ("branch2.0", "branch2.1"),
  "depthwise": ("branch2.3", "branch2.4"),
  "conv2": ("branch2.5", "branch2.6"),
}


def _shuffle_net() -> Table:
  rules = biased("fc", "head", DENSE)
  layers = {"stem": ("conv1.0", "conv1.1"), "last": ("conv5.0", "conv5.1")}
  for ours, (conv, norm) in _SHUFFLE_BLOCK.items():
    block = "stage{i}.{j}"
    layers[f"stage{{i}}_{{j}}/{ours}"] = (f"{block}.{conv}", f"{block}.{norm}")
  for ours, (conv, norm) in layers.items():
    rules += [weight(conv, ours, CONV), *batch_norm(norm, f"{ours}_bn")]
  return tuple(rules)


_SHUFFLE_MODULES = (("stage{i}.{j}", "stage{i}_{j}"),)
SHUFFLE_NET = (Keys("torchvision", StandardOps(), _shuffle_net(), _SHUFFLE_MODULES),)
ALEX_NET = (Keys("torchvision", StandardOps(), per=_alex_net),)
SQUEEZE_NET = (Keys("torchvision", StandardOps(), per=_squeeze_net),)

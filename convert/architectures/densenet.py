"""Key tables of DenseNets: torchvision, timm, B-cos v2 and B-cosification."""

from __future__ import annotations

from typing import Any

from bcos_jax.ops import BcosOps, StandardOps

from ..readers import timm
from ..tables.axes import CONV, DENSE, DENSE_AS_1X1
from ..tables.keys import Keys
from ..tables.parts import Rules, batch_norm, biased, uncentered_batch_norm, weight
from ..tables.rules import Table

_BLOCKS = 4


def _names(renumbered: bool) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
  """Returns the convolutions and the norms, below `features`.

  B-cosification renumbers the children of each sequence: the stem has the numbers 0 to 3 (with
  ReLU and pool), blocks and transitions take turns from 4 on, and a transition's children are
  norm, ReLU, convolution and pool.
  """
  stem, end = (("0", "1"), f"{3 + 2 * _BLOCKS}") if renumbered else (("conv0", "norm0"), "norm5")
  convs, norms = [(stem[0], "conv0")], [(stem[1], "norm0")]
  for i in range(1, _BLOCKS + 1):
    block = f"{2 + 2 * i}" if renumbered else f"denseblock{i}"
    for k in (1, 2):
      layer, ours = f"{block}.denselayer{{j}}", f"block{i}_layer{{j}}"
      convs.append((f"{layer}.conv{k}", f"{ours}/conv{k}"))
      norms.append((f"{layer}.norm{k}", f"{ours}/norm{k}"))
  for i in range(1, _BLOCKS):
    transition = f"{3 + 2 * i}" if renumbered else f"transition{i}"
    norm, conv = ("0", "2") if renumbered else ("norm", "conv")
    convs.append((f"{transition}.{conv}", f"transition{i}/conv"))
    norms.append((f"{transition}.{norm}", f"transition{i}/norm"))
  return convs, [*norms, (end, "norm5")]


def _standard() -> Table:
  convs, norms = _names(renumbered=False)
  rules: Rules = [weight(f"features.{source}", target, CONV) for source, target in convs]
  for source, target in norms:
    rules += batch_norm(f"features.{source}", target)
  return (*rules, *biased("classifier", "head", DENSE))


def _bcos(prefix: str, renumbered: bool) -> Table:
  convs, norms = _names(renumbered)
  features = f"{prefix}features"
  rules: Rules = [weight(f"{features}.{source}.linear", target, CONV) for source, target in convs]
  for source, target in norms:
    rules += uncentered_batch_norm(f"{features}.{source}", target)
  return (*rules, weight(f"{prefix}classifier.linear", "head", DENSE_AS_1X1))


STANDARD = _standard()
BCOS_V2 = _bcos("", renumbered=False)
BCOSIFICATION = _bcos("model.", renumbered=True)

MODULES = (
  ("features.conv0", "conv0"),
  ("features.denseblock{i}.denselayer{j}", "block{i}_layer{j}"),
  ("features.transition{i}", "transition{i}"),
)
"""What torchvision's (and timm's) and our modules have in common."""

_FITS: dict[str, Any] = {"fits": lambda model: len(model.blocks) <= _BLOCKS}
_FOUR: dict[str, Any] = {"fits": lambda model: len(model.blocks) == _BLOCKS}

READERS = {
  timm.KIND: timm.reader({"global_pool": timm.cnn_pool}, only={"act_layer": (None, "relu")})
}

KEYS = (
  Keys("torchvision", StandardOps(), STANDARD, MODULES, **_FITS),
  Keys("timm", StandardOps(), STANDARD, MODULES, **_FITS),
  Keys("bcos_v2", BcosOps.v2(), BCOS_V2, **_FITS),
  # The number of the last norm counts the blocks.
  Keys("bcosification", BcosOps(), BCOSIFICATION, **_FOUR),
  # B-cosification starts from conventional networks, so it has their keys too.
  Keys("bcosification", StandardOps(), STANDARD, **_FITS),
)

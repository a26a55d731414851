"""Equivalence at B=1 of B-cos twins, layer by layer, for every architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
import zlib

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

import bcos_jax

from .. import BcosOps, StandardOps, models, render
from ..variables import abstract_variables
from .lab import Lab
from .study import Findings
from .tables import Table

SIDE, CLASSES = 16, 5
_VITS = ("vit", "vit_reg_gap", "vit_max", "beit", "deit", "dinov2", "dinov3", "siglip", "clip")
_SMALLER: dict[str, dict[str, Any]] = {
  "resnet8": {"width": 8},
  **{f"{family}_test": {"patch_size": 4, "depth": 1} for family in _VITS},
  "aloe_test": {"conv_stem": (8, 16), "depth": 1},
  "swin_test": {"patch_size": 2},
  "swin_v2_test": {"patch_size": 2},
  "clip_resnet_test": {"num_classes": 0, "features": CLASSES},
}
"""What makes some of the networks smaller still, or fit images of `SIDE` pixels."""

_IMAGES = 4


def networks() -> dict[str, dict[str, Any]]:
  """Returns one small network of every kind that reads images, and what makes it smaller still."""
  small = [
    name
    for found in models.architectures()
    if found.module.reads == "images"
    for name in found.test_variants
  ]
  return {name: _SMALLER.get(name, {}) for name in ("resnet8", *small)}


def create(name: str, ops: bcos_jax.Ops, **fields: Any) -> nn.Module:
  """Returns one of `networks()`, for images of `SIDE` pixels and `CLASSES` classes."""
  sizes = {"num_classes": CLASSES, "image_size": SIDE}
  return bcos_jax.create(name, ops=ops, **{**sizes, **_SMALLER.get(name, {}), **fields})


def study(lab: Lab) -> Findings:
  """Compares networks with their twins at B=1, everything kept, on what every module returns.

  Args:
    lab: Its network at full size or, if it names none, one small network of every kind.
  """
  rows = []
  for name in [lab.network] if lab.network else networks():
    model = (bcos_jax.create if lab.network else create)(name, ops=StandardOps())
    rows.append((name, *_compare(model, lab.seed)))
    lab.say(f"  {name:<24} {rows[-1][1]:>4} modules, largest difference {rows[-1][2]:.1e}")
  table = Table(
    {
      "network": "",
      "modules compared": "d",
      "largest difference": ".1e",
      "where": "",
      "outputs": ".1e",
      "outputs, B=2": ".2f",
    },
    rows,
  )
  worst = max(rows, key=lambda row: row[2])
  return Findings(
    title="Equivalence: the B-cos twin at B=1",
    question="Every network has random weights, biases and statistics, none of them trivial. Its "
    "twin is made by `bcosify` with `BcosOps.equivalent()`: B=1, biases and max pooling kept, "
    "six input channels. Compared is what every module returns on "
    f"{_IMAGES} random pictures, |difference| / |value| in the Euclidean norm, in float32. The "
    "last column is the same comparison with B=2, where the function changes before it is "
    "fine-tuned.",
    table=table,
    answer=(
      f"{len(rows)} networks, {sum(row[1] for row in rows)} modules: the largest difference is "
      f"{worst[2]:.1e}, in {worst[3]} of {worst[0]}.",
    ),
    plots={
      "equivalence": (
        "Largest relative difference of a module of each network",
        render.bars(
          {row[0]: row[2] for row in rows},
          levels={"one float32 rounding": float(np.finfo(np.float32).eps)},
          x="relative difference at B=1",
          log=True,
        ),
      )
    },
  )


def _compare(model: nn.Module, seed: int) -> tuple[int, float, str, float, float]:
  """Returns the number of modules, the largest difference, its module, and that of the outputs."""
  variables = scattered(model, seed)
  size = model.input_spec.shape[1:3] if hasattr(model, "image_size") else (SIDE, SIDE)
  colors = model.ops.encoding.colors
  images = np.random.default_rng(seed).random((_IMAGES, *size, colors), np.float32)
  seen, outputs = _traced(model, variables, images)
  twin, twin_outputs = _traced(
    *bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent()), images
  )
  _, changed = _traced(*bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent(b=2.0)), images)
  shared = {
    path: difference(seen[path], twin[path])
    for path in seen.keys() & twin.keys()
    if seen[path].shape == twin[path].shape
  }
  worst = max(shared, key=lambda name: shared[name])
  return (
    len(shared),
    shared[worst],
    worst,
    difference(outputs, twin_outputs),
    difference(outputs, changed),
  )


def difference(value: np.ndarray, other: np.ndarray) -> float:
  """Returns |value - other| / |value|; 0 where both are nothing."""
  value, other = (np.asarray(a, np.float64) for a in (value, other))
  size = np.linalg.norm(value)
  return float(np.linalg.norm(value - other) / size) if size else float(np.linalg.norm(other))


def scattered(model: nn.Module, seed: int) -> dict[str, Any]:
  """Returns random variables none of which is trivial, norms' statistics and biases included."""
  leaves = {}
  shapes: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  for path, leaf in shapes.items():
    kind = path.rpartition("/")[2]
    z = np.random.default_rng([seed, zlib.crc32(path.encode())]).standard_normal(leaf.shape)
    spread = {"bias": 0.1, "mean": 0.02}.get(kind, 0.5)
    value = {
      "kernel": z * np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1)),
      "scale": 1 + 0.1 * z,
      "var": 1 + spread * np.abs(z),
      "logit_scale": 2 + 0.3 * z,
    }.get(kind, spread * z)
    leaves[path] = np.asarray(value, leaf.dtype)
  return traverse_util.unflatten_dict(leaves, sep="/")


def _traced(
  model: nn.Module, variables: Mapping[str, Any], images: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Returns what every module returns, by path, and the outputs."""

  @jax.jit
  def run(variables, images):
    return model.apply(
      variables,
      model.ops.encoding(images),
      capture_intermediates=True,
      mutable=["intermediates"],
    )

  with jax.default_matmul_precision("highest"):
    outputs, state = run(variables, images)
  flat: dict[Any, Any] = traverse_util.flatten_dict(state["intermediates"])
  seen = {
    "/".join(path[:-1]) or "the network": np.asarray(values[0])
    for path, values in flat.items()
    if path[-1] == "__call__" and hasattr(values[0], "shape")
  }
  return seen, np.asarray(outputs)

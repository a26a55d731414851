"""Exact explanations of the features of patches, and of linear read-outs of them.

Aligned backbones serve segmentation and depth through linear maps of their patch features. Such a
map is linear, and so is the network in explanation mode: what it reads out at any place is
explained exactly, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..inputs import check_images, side_of
from ..models import BaseNetwork
from .images import Explanation, explain
from .targets import Variables, output_shapes

Array = jax.Array


def backbone(model: nn.Module) -> nn.Module:
  """Returns the network whose outputs are the features of patches, float32 [N, h, w, D].

  It takes the variables of `model`; those of its head and pooling are left over. The features are
  those after the last norm, and after CLIP's projection where there is one.

  Raises:
    InputError: An architecture whose features have no places of their own.
  """
  unpooled = model.unpooled() if isinstance(model, BaseNetwork) else None
  if unpooled is None:
    raise InputError(
      f"{type(model).__name__} has no features of patches.",
      "Use a vision transformer such as dinov3_vitb16, or a CLIP ResNet.",
    )
  return unpooled


def explain_patches(
  model: nn.Module,
  variables: Variables,
  images: Any,
  kernel: np.ndarray | Array,
  *,
  at: Sequence[tuple[int, int]] | np.ndarray | None = None,
  regions: np.ndarray | Array | None = None,
  batch_size: int | None = None,
) -> Explanation:
  """Explains linear read-outs of patch features, at places.

  Target k is the mean, over region k, of `features @ kernel[:, k]`: one forward pass and K
  backward passes. One direction is read out at every place, or every direction at one place. A
  constant that a probe adds is in no pixel: add it to `value` yourself.

  Args:
    model: A network with features of patches; see `backbone`.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    kernel: Directions [D] or [D, K], such as the columns of a segmentation or depth probe; a
      column of the identity explains one feature.
    at: Rows and columns of patches, int [K, 2], counted from zero.
    regions: Weights of patches of at least zero, [K, h, w], such as masks of objects. With neither
      `at` nor `regions`, all patches count alike.
    batch_size: Images at a time, to bound memory; None takes all at once.

  Returns:
    The explanation, with an axis of targets: value [N, K], contributions [N, K, H, W]; logits are
    the features [N, h, w, D].

  Raises:
    InputError: Arrays that fit neither the network nor each other, places outside the picture, an
      empty region, both `at` and `regions`, and what `backbone` and `explain` refuse.
  """
  model = backbone(model)
  side = side_of(check_images(images, model.ops.encoding))
  *grid, width = output_shapes(model, side).shape[1:]
  directions = _directions(kernel, width)
  if at is not None and regions is not None:
    raise InputError(
      "Both `at` and `regions` are given, expected one of them.", "Pass patches or regions."
    )
  if at is not None:
    regions = _single_patches(at, tuple(grid))
  weights = _regions(np.ones((1, *grid)) if regions is None else regions, tuple(grid))
  if 1 not in (len(weights), directions.shape[1]) and len(weights) != directions.shape[1]:
    raise InputError(
      f"{directions.shape[1]} directions at {len(weights)} places; expected equal numbers, or one "
      "of either.",
      "Give a direction for each place.",
    )
  target = jax.tree_util.Partial(_read_out, directions, weights)
  ex = explain(model, variables, images, target, batch_size)
  assert isinstance(ex, Explanation)  # of images
  return ex


def _read_out(directions: Array, weights: Array, features: Array) -> Array:
  """Returns the sums [N, K] over places of features [N, h, w, D] along directions [D, K]."""
  seen = jnp.einsum("nhwd,khw->nkd", features, weights)
  return jnp.sum(seen * directions.T, axis=-1)


def _directions(kernel: np.ndarray | Array, width: int) -> np.ndarray:
  directions = np.asarray(kernel, np.float32)
  directions = directions[:, None] if directions.ndim == 1 else directions
  if directions.ndim != 2 or len(directions) != width or not directions.size:
    raise InputError(
      f"kernel has shape {np.shape(kernel)}, the network has {width} features.",
      f"Give directions [{width}] or [{width}, K].",
    )
  return directions


def _single_patches(
  at: Sequence[tuple[int, int]] | np.ndarray, grid: tuple[int, int]
) -> np.ndarray:
  """Returns float32 [K, h, w], one at the patch of each row and column."""
  places = np.asarray(at)
  fits = places.ndim == 2 and places.shape[1:] == (2,) and np.issubdtype(places.dtype, np.integer)
  if not fits or not len(places) or (places < 0).any() or (places >= grid).any():
    raise InputError(
      f"at={places.tolist()!r:.80}; the picture has {grid[0]} rows and {grid[1]} columns of "
      "patches.",
      "Count rows and columns from 0, for example at=[(0, 1)].",
    )
  weights = np.zeros((len(places), *grid), np.float32)
  weights[np.arange(len(places)), places[:, 0], places[:, 1]] = 1
  return weights


def _regions(regions: np.ndarray | Array, grid: tuple[int, int]) -> np.ndarray:
  """Returns weights float32 [K, h, w] that sum to one for each region."""
  weights = np.asarray(regions, np.float32)
  if weights.ndim != 3 or weights.shape[1:] != grid or not (weights >= 0).all():
    raise InputError(
      f"regions has shape {weights.shape}, expected weights of at least zero, [K, {grid[0]}, "
      f"{grid[1]}].",
      "Give one weight per patch, such as the share of it that an object covers.",
    )
  total = weights.sum(axis=(1, 2), keepdims=True)
  if not (total > 0).all():
    raise InputError("A region is empty: all its weights are zero.", "Remove such targets.")
  return weights / total

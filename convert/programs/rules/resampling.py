"""Pictures at other sizes: nearest, linear and cubic interpolation as matrices along each axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math

import jax.numpy as jnp
import numpy as np

from ..operators import operator


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
  near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
  far = ((distance - 5) * distance + 8) * distance * a - 4 * a
  return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _triangle(distance: np.ndarray) -> np.ndarray:
  return np.maximum(0, 1 - distance)


_KERNELS: dict[str, tuple[Callable, int]] = {
  "linear": (_triangle, 1),
  "cubic": (lambda distance: _cubic(distance, -0.75), 2),
  "cubic, smoothed": (lambda distance: _cubic(distance, -0.5), 2),
}
"""Weights by distance, and how far they reach."""


def _matrix(kernel: str, old: int, new: int, aligned: bool, ratio: float | None) -> np.ndarray:
  """Returns the weights [new, old] of an interpolation without smoothing, as ATen has them."""
  weigh, reach = _KERNELS[kernel]
  if aligned:
    place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
  else:
    place = (np.arange(new) + 0.5) * (1 / ratio if ratio else old / new) - 0.5
    place = np.maximum(place, 0) if kernel == "linear" else place
  matrix = np.zeros((new, old))
  first = np.floor(place).astype(int)
  for step in range(1 - reach, reach + 1):
    seen = first + step
    weights = weigh(np.abs(place - seen))
    np.add.at(matrix, (np.arange(new), np.clip(seen, 0, old - 1)), weights)
  return matrix


def _smoothed(kernel: str, old: int, new: int, aligned: bool, ratio: float | None) -> np.ndarray:
  """Returns the weights [new, old] of an interpolation that is smoothed where it shrinks."""
  weigh, reach = _KERNELS[kernel]
  if aligned:
    scale = (old - 1) / (new - 1) if new > 1 else 0.0
  else:
    scale = 1 / ratio if ratio else old / new
  wide = max(scale, 1.0)
  centre = scale * (np.arange(new) + 0.5)[:, None]
  place = np.arange(old) + 0.5
  low = np.maximum(np.floor(centre - reach * wide + 0.5), 0)
  high = np.minimum(np.floor(centre + reach * wide + 0.5), old)
  weights = weigh(np.abs(place - centre) / wide)
  weights = np.where((place > low) & (place < high), weights, 0)
  return weights / weights.sum(1, keepdims=True)


def _resampled(x, matrices: Sequence[np.ndarray]):
  for axis, matrix in enumerate(matrices, start=x.ndim - len(matrices)):
    x = jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ matrix.T.astype(x.dtype), -1, axis)
  return x


def _ratios(scales: tuple, axes: int) -> list:
  """Returns the ratio of each axis, None where none is stated: of a list or one by one."""
  if len(scales) == 1 and not isinstance(scales[0], int | float):
    scales = tuple(scales[0] or ())
  return list(scales) or [None] * axes


def _sizes(x, size, scales) -> list[int]:
  places = x.shape[2:]
  return list(size) if size else [math.floor(n * s) for n, s in zip(places, scales, strict=True)]


def _weighted(make: Callable, kernel: str, axes: int) -> Callable:
  """Returns the rules of an interpolation, of the overloads 'vec' and 'default'."""

  def rule(x, size, aligned, *scales):
    given = _ratios(scales, axes)
    sizes = _sizes(x, size, given)
    pairs = zip(x.shape[2:], sizes, given, strict=True)
    return _resampled(x, [make(kernel, n, new, aligned, ratio) for n, new, ratio in pairs])

  return rule


for _name, _rule in {
  "upsample_linear1d": _weighted(_matrix, "linear", 1),
  "upsample_bilinear2d": _weighted(_matrix, "linear", 2),
  "upsample_trilinear3d": _weighted(_matrix, "linear", 3),
  "upsample_bicubic2d": _weighted(_matrix, "cubic", 2),
  "_upsample_bilinear2d_aa": _weighted(_smoothed, "linear", 2),
  "_upsample_bicubic2d_aa": _weighted(_smoothed, "cubic, smoothed", 2),
}.items():
  operator(f"aten.{_name}")(_rule)


@operator("aten.upsample_nearest1d", "aten.upsample_nearest2d", "aten.upsample_nearest3d")
def _nearest(x, size, *scales):
  given = _ratios(scales, x.ndim - 2)
  for axis, (new, ratio) in enumerate(zip(_sizes(x, size, given), given, strict=True), start=2):
    old = x.shape[axis]
    step = 1 / ratio if ratio else old / new
    places = np.minimum(np.floor(np.arange(new) * np.float32(step)).astype(int), old - 1)
    x = jnp.take(x, places, axis=axis)
  return x

"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import numpy as np

from bcos_jax.errors import InputError

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Axes:
  """A bijection between two orders of the axes of one tensor.

  Attributes:
    name: What it maps, for reports.
    to_flax: From PyTorch's order.
    to_torch: Its inverse, bit for bit.
    rank: Number of axes in PyTorch; None for any.
    keeps_size: Whether there are as many numbers on either side.
  """

  name: str
  to_flax: Transform
  to_torch: Transform
  rank: int | None = None
  keeps_size: bool = True


AS_IS = Axes("as is", lambda x: x, lambda x: x)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

CONV = Axes(
  "OIHW <-> HWIO",
  lambda w: np.transpose(w, (2, 3, 1, 0)),
  lambda w: np.transpose(w, (3, 2, 0, 1)),
  rank=4,
)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

DENSE = Axes("OI <-> IO", np.transpose, np.transpose, rank=2)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

DENSE_AS_1X1 = Axes(
  "OI11 <-> IO", lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None], rank=4
)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

DENSE_AS_CONV = Axes(
  "OI <-> 11IO", lambda w: w.T[None, None], lambda w: np.reshape(w, w.shape[-2:]).T, rank=2
)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

PER_CHANNEL = Axes("C11 <-> C", lambda w: w[:, 0, 0], lambda w: w[:, None, None], rank=3)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

TAPS = Axes("11T <-> T", lambda w: w[0, 0], lambda w: w[None, None], rank=3)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

PER_CHANNEL_LAST = Axes("111C <-> C", lambda w: w[0, 0, 0], lambda w: w[None, None, None], rank=4)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""


def dense_window(size: int) -> Axes:
  """Returns the axes of a dense map that reads flattened windows of size x size positions."""
  return Axes(
    f"O(I{size}{size}) <-> {size}{size}IO",
    lambda w: np.transpose(w.reshape(len(w), -1, size, size), (2, 3, 1, 0)),
    lambda w: np.transpose(w, (3, 2, 0, 1)).reshape(w.shape[-1], -1),
    rank=2,
  )


def _patches_to_torch(w: np.ndarray) -> np.ndarray:
  # Of these channel counts, one at most leaves a square: their ratios are not squares.
  for channels in (3, 6, 1, 2):
    side = math.isqrt(w.shape[0] // channels)
    if side * side * channels == w.shape[0]:
      return w.reshape(side, side, channels, -1).transpose(3, 2, 0, 1)
  raise InputError(
    f"A patch embedding of {w.shape[0]} inputs fits no square patch of 1, 2, 3 or 6 channels.",
    "Convert networks for grey or colour images, plain or with B-cos channels.",
  )


PATCHES = Axes(
  "OIhw <-> (hwI)O",
  lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
  _patches_to_torch,
  rank=4,
)
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

ROWS = Axes("1TD <-> TD", lambda x: x[0], lambda x: x[None])
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""

ROW = Axes("D <-> 1D", lambda x: x[None], lambda x: x[0])
"""Orders of axes: how one tensor is laid out in PyTorch and in Flax, with exact inverses."""


_TILE = 128


def contiguous(array: np.ndarray) -> np.ndarray:
  """Returns a copy in C order; transposed matrices in tiles that fit a processor's cache."""
  array = np.asarray(array)
  if array.ndim != 2 or array.flags.c_contiguous:
    return np.array(array, order="C")
  copy = np.empty(array.shape, array.dtype)
  for row in range(0, array.shape[0], _TILE):
    for column in range(0, array.shape[1], _TILE):
      tile = np.s_[row : row + _TILE, column : column + _TILE]
      copy[tile] = array[tile]
  return copy

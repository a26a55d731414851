"""How one tensor is laid out in PyTorch and in Flax; every layout has its exact inverse."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

Transform = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
  """A bijection between two layouts of the same numbers.

  Attributes:
    name: What it maps, for reports.
    to_flax: From the PyTorch layout.
    to_torch: Its inverse, bit for bit.
  """

  name: str
  to_flax: Transform
  to_torch: Transform


AS_IS = Layout("as is", lambda x: x, lambda x: x)
"""Vectors: biases, norms, statistics."""

CONV = Layout(
  "OIHW <-> HWIO", lambda w: np.transpose(w, (2, 3, 1, 0)), lambda w: np.transpose(w, (3, 2, 0, 1))
)
"""Two-dimensional convolutions."""

DENSE = Layout("OI <-> IO", np.transpose, np.transpose)
"""Dense maps."""

DENSE_AS_1X1 = Layout("OI11 <-> IO", lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])
"""Dense maps that the source holds as 1x1 convolutions."""

DENSE_AS_CONV = Layout(
  "OI <-> 11IO", lambda w: w.T[None, None], lambda w: np.reshape(w, w.shape[-2:]).T
)
"""1x1 convolutions that the source holds as dense maps."""

PER_CHANNEL = Layout("C11 <-> C", lambda w: w[:, 0, 0], lambda w: w[:, None, None])
"""Multipliers of channels."""

PER_CHANNEL_LAST = Layout("111C <-> C", lambda w: w[0, 0, 0], lambda w: w[None, None, None])
"""Multipliers of channels, channels last."""


def dense_window(size: int) -> Layout:
  """Returns the layout of a dense map that reads flattened windows of size x size positions."""
  return Layout(
    f"O(I{size}{size}) <-> {size}{size}IO",
    lambda w: np.transpose(w.reshape(len(w), -1, size, size), (2, 3, 1, 0)),
    lambda w: np.transpose(w, (3, 2, 0, 1)).reshape(w.shape[-1], -1),
  )

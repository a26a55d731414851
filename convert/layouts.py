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

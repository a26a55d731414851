"""How few pixels a map consists of."""

from __future__ import annotations

import math

import numpy as np

from ..scores import Scores, maps_of
from .benchmark import Benchmark, nothing_excluded


def complexity(maps: np.ndarray) -> Scores:
  """The entropy of a map's shares; low is good. See `complexity_of`."""
  maps = maps_of(maps, None, None, 1)
  return complexity_of(len(maps), maps.shape[1:]).score(maps)


def complexity_of(count: int, side: tuple[int, int]) -> Benchmark:
  """The entropy of the shares of absolute attribution, relative to that of a flat map.

  Complexity (Bhatt et al., arXiv 2005.00631, definition 2.3): -sum p log p with p = |map| / sum
  |map|. Divided by the logarithm of the number of pixels, so that a flat map scores 1; a single
  pixel scores 0. It says how concise a map is, not whether it is right.

  Args:
    count: Number of maps.
    side: Their height and width.
  """

  def entropy(maps: np.ndarray) -> np.ndarray:
    mass = np.abs(maps.reshape(len(maps), -1)).astype(np.float64)
    shares = mass / mass.sum(axis=1, keepdims=True)
    logs = np.log(np.where(shares > 0, shares, 1))
    return -(shares * logs).sum(axis=1) / math.log(max(2, shares.shape[1]))

  return Benchmark(
    measure=entropy,
    oracle=0.0,
    reasons=nothing_excluded(count),
    higher_is_better=False,
    side=side,
  )

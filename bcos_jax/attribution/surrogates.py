"""Linear models of a network around one image: LIME and KernelSHAP.

Their features are the parts of an image, present or absent. All images with as many parts are
looked at through the same samples.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from .feature_groups import solve_groups
from .segments import Segments, segment_numbers
from .settings import Method
from .task import Task, check_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lime(Method):
  """LIME: a ridge regression of the target on which parts are present (arXiv 1602.04938).

  Each part is present in half of the samples, the first sample has all. A sample weighs
  exp(-d^2 / width^2)^(1/2), d its cosine distance to the whole image, as in the authors' code.

  Args:
    samples: Samples per image. Published with B-cos networks: 500.
    segments: The parts: side of square patches in pixels, or numbers of parts, ints [H, W] or
      [N, H, W]; `quickshift` makes those that B-cos papers use. ALOE: patches of 16.
    top: If given, the map is 1 in this many parts, those of the largest positive coefficients,
      and 0 elsewhere (B-cos v2: 5); otherwise each pixel gets its part's coefficient.
    kernel_width: Width of the kernel.
    ridge: Strength of the regularisation; the intercept is free of it.
    baseline: What an absent pixel becomes, as for `integrated_gradients`. Published: 0.
    score: As for `occlusion`; LIME looks at probabilities.
    seed: Of the samples.
  """

  name: ClassVar[str] = "lime"
  batch_size: ClassVar[int] = 64
  samples: int = 500
  segments: Segments = 16
  top: int | None = None
  kernel_width: float = 0.25
  ridge: float = 1.0
  baseline: Any = 0.0
  score: str = "softmax"
  seed: int = 42

  def __post_init__(self):
    check_sampling(self.samples, self.seed)
    if self.top is not None:
      check_count("top", self.top)
    check_positive(kernel_width=self.kernel_width, ridge=self.ridge)

  def run(self, task: Task) -> np.ndarray:
    draw = functools.partial(draw_parts, samples=self.samples, seed=self.seed)
    groups = segment_numbers(self.segments, task.inputs[0])
    return solve_groups(task, groups, draw, self._fit, share=False)

  def _fit(self, present: np.ndarray, values: np.ndarray) -> np.ndarray:
    return _top_parts(fit_lime(present, values, self.kernel_width, self.ridge), self.top)


def check_sampling(samples: int, seed: int) -> None:
  """Raises InputError unless there are samples, and a seed to draw them by."""
  check_count("samples", samples)
  check_count("seed", seed, 0)


def draw_parts(parts: int, samples: int, seed: int) -> np.ndarray:
  """Returns which parts are present in each sample of LIME, bool [samples, parts]."""
  present = np.random.RandomState(seed).random_sample((samples, parts)) < 0.5
  present[0] = True
  return present


def check_positive(**values: float) -> None:
  """Raises InputError unless every value is a finite number above 0."""
  for name, value in values.items():
    if not (isinstance(value, int | float) and value > 0 and math.isfinite(value)):
      raise InputError(f"{name} is {value!r}, expected a number above 0.")


def fit_lime(
  present: np.ndarray, values: np.ndarray, kernel_width: float, ridge: float
) -> np.ndarray:
  """Returns the coefficients [S, K] of LIME for values [M, K] where parts [M, S] are present."""
  distance = 1 - np.sqrt(present.mean(axis=1))
  weights = np.exp(-0.5 * distance**2 / kernel_width**2)
  return _fit_ridge(present.astype(np.float64), values, weights, ridge)


def _fit_ridge(x: np.ndarray, y: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
  """Returns the coefficients [S, K] of a weighted ridge regression of y [M, K] on x [M, S]."""
  # Around the weighted means, the intercept is zero.
  x, y = (a - np.average(a, axis=0, weights=weights) for a in (x, y))
  weighted = weights[:, None] * x
  return np.linalg.solve(x.T @ weighted + strength * np.eye(x.shape[1]), weighted.T @ y)


def _top_parts(found: np.ndarray, top: int | None) -> np.ndarray:
  """Returns coefficients [S, K], or 1 for the largest `top` of them that are positive."""
  if top is None:
    return found
  rank = np.argsort(np.argsort(-found, axis=0, kind="stable"), axis=0)
  return ((rank < top) & (found > 0)).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelShap(Method):
  """KernelSHAP: Shapley values of the parts by regression (arXiv 1705.07874, theorem 2).

  Where the samples suffice for every coalition of parts, the values are exact. Otherwise
  coalitions are drawn by the Shapley kernel, each with its complement. The values always sum to
  the target's change from the baseline, and each is shared among the pixels of its part.

  Args:
    samples: Coalitions per image, besides none and all.
    segments, baseline: As for `lime`.
    score: As for `occlusion`.
    seed: Of the coalitions.
  """

  name: ClassVar[str] = "kernel_shap"
  batch_size: ClassVar[int] = 64
  samples: int = 500
  segments: Segments = 16
  baseline: Any = 0.0
  score: str = "logit"
  seed: int = 42

  def __post_init__(self):
    check_sampling(self.samples, self.seed)

  def run(self, task: Task) -> np.ndarray:
    groups = segment_numbers(self.segments, task.inputs[0])
    return solve_shapley(task, groups, self.samples, self.seed)


def solve_shapley(task: Task, groups: np.ndarray, samples: int, seed: int) -> np.ndarray:
  """Returns KernelSHAP's score of each place; groups as for `solve_groups`."""

  def draw(count: int) -> np.ndarray:
    return draw_coalitions(count, samples, seed)[0]

  def solve(present: np.ndarray, values: np.ndarray) -> np.ndarray:
    weights = draw_coalitions(present.shape[1], samples, seed)[1]
    return fit_shapley(present.astype(np.float64), weights, values)

  return solve_groups(task, groups, draw, solve)


def draw_coalitions(parts: int, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns which parts are present, bool [M, parts], and the weight of each coalition, [M].

  The first two are none and all, whose weight of 0 stands for an infinite one.
  """
  ends = np.repeat([[False], [True]], parts, axis=1)
  sizes = np.arange(1, parts)
  kernel = np.array([(parts - 1) / (size * (parts - size)) for size in sizes])
  if parts < 63 and 2**parts - 2 <= samples:
    present = (np.arange(1, 2**parts - 1)[:, None] >> np.arange(parts)) & 1 > 0
    count = present.sum(axis=1)
    weights = np.array([kernel[c - 1] / math.comb(parts, c) for c in count.tolist()])
  else:
    random = np.random.RandomState(seed)
    drawn = random.choice(sizes, -(-samples // 2), p=kernel / kernel.sum())
    rank = np.argsort(random.random_sample((len(drawn), parts)), axis=1)
    half = rank < drawn[:, None]
    present = np.stack([half, ~half], axis=1).reshape(-1, parts)[:samples]
    weights = np.ones(len(present))
  return np.concatenate([ends, present]), np.concatenate([[0, 0], weights])


def fit_shapley(present: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Returns Shapley values [S, K] of values [M, K], the first two being of none and of all."""
  change = values[1] - values[0]
  # The last value is what the others leave of the whole change.
  x = present[:, :-1] - present[:, -1:]
  y = values - values[0] - present[:, -1:] * change
  root = np.sqrt(weights)[:, None]
  others = np.linalg.lstsq(root * x, root * y, rcond=None)[0]
  return np.concatenate([others, change[None] - others.sum(axis=0)])

"""Attributions of texts that only see outputs: what happens where tokens are absent.

An absent token becomes the mask token of the task. With `words`, tokens of a word are absent
together and share equally what the word gets, so that word-pieces need no gluing together.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ..feature_groups import all_but_one, drops, solve_groups
from ..settings import Method
from ..surrogates import check_positive, check_sampling, draw_parts, fit_lime, solve_shapley
from ..task import Task
from .checked_inputs import special_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Masking(Method):
  """A method that masks tokens, or whole words.

  Args:
    words: Number of each token's word, int [N, L], -1 for none; None for tokens by themselves.
    score: 'logit', 'softmax' or 'sigmoid': what of a class is measured.
  """

  kinds: ClassVar[tuple[str, ...]] = ("texts",)
  batch_size: ClassVar[int] = 64
  words: np.ndarray | None = None
  score: str = "logit"

  def groups(self, task: Task) -> np.ndarray:
    """Returns the number of each token's feature group, int [N, L]; see `token_groups`."""
    return token_groups(task, self.words)


def token_groups(task: Task, words: np.ndarray | None) -> np.ndarray:
  """Returns the number of each token's feature group, int [N, L].

  Args:
    task: What is explained.
    words: Number of each token's word, int [N, L], -1 for tokens of no word; None makes every
      token a group of its own.

  Returns:
    Numbers from 0 on in each text, without gaps, in order; -1 for special tokens, padding and
    tokens of no word, which stay in place.

  Raises:
    InputError: Words of another shape or type.
  """
  shape = task.inputs[0].shape
  words = np.broadcast_to(np.arange(shape[1]), shape) if words is None else np.asarray(words)
  if words.shape != shape or not np.issubdtype(words.dtype, np.integer):
    raise InputError(
      f"The words are {words.dtype} {words.shape}, expected integers {shape}.",
      "Give the number of each token's word, -1 for none; see text.tokens.word_numbers.",
    )
  free = ~special_of(task) & (words >= 0)
  numbers = np.full(shape, -1)
  for number, own, inside in zip(numbers, words, free, strict=True):
    if inside.any():
      number[inside] = np.unique(own[inside], return_inverse=True)[1]
  return numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenOcclusion(_Masking):
  """Occlusion: by how much the target drops without a token (arXiv 1311.2901, section 4.2).

  Args:
    words: Number of each token's word, int [N, L], -1 for none; None for tokens by themselves.
    score: 'logit', 'softmax' or 'sigmoid': what of a class is measured.
  """

  name: ClassVar[str] = "occlusion"

  def run(self, task: Task) -> np.ndarray:
    return solve_groups(task, self.groups(task), all_but_one, drops)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapleySampling(_Masking):
  """Shapley values by random orders in which tokens appear (Castro et al., 2009).

  Scores sum to the target's change from the text whose tokens are all masked.

  Args:
    samples: Orders per text, each of as many forward passes as there are tokens. Published with
      B-cos LM: 25.
    words, score: As for `occlusion`.
    seed: Of the orders.
  """

  name: ClassVar[str] = "shapley_sampling"
  samples: int = 25
  seed: int = 42

  def __post_init__(self):
    check_sampling(self.samples, self.seed)

  def run(self, task: Task) -> np.ndarray:
    return solve_groups(task, self.groups(task), self._draw, self._solve)

  def _draw(self, groups: int) -> np.ndarray:
    """Returns none, all, and the first 1 to G - 1 groups of each order, bool [M, G]."""
    ranks = np.argsort(self._orders(groups), axis=1)
    inner = ranks[:, None] < np.arange(1, groups)[:, None]
    ends = np.repeat([[False], [True]], groups, axis=1)
    return np.concatenate([ends, inner.reshape(-1, groups)])

  def _orders(self, groups: int) -> np.ndarray:
    """Returns random orders of the feature groups, int [samples, groups]."""
    random = np.random.default_rng((self.seed, groups))
    return random.permuted(np.tile(np.arange(groups), (self.samples, 1)), axis=1)

  def _solve(self, present: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the mean over orders of what each group adds where it appears, [G, K]."""
    ends = np.broadcast_to(values[:2, None, None], (2, self.samples, 1, values.shape[1]))
    inner = values[2:].reshape(self.samples, -1, values.shape[1])
    gains = np.diff(np.concatenate([ends[0], inner, ends[1]], axis=1), axis=1)
    ranks = np.argsort(self._orders(present.shape[1]), axis=1)
    return np.take_along_axis(gains, ranks[..., None], axis=1).mean(axis=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenKernelShap(_Masking):
  """KernelSHAP: Shapley values by regression (arXiv 1705.07874, theorem 2).

  As for images: exact where the samples suffice for every coalition; else coalitions are drawn by
  the Shapley kernel. Scores sum to the target's change from the text whose tokens are all masked.

  Args:
    samples: Coalitions per text, besides none and all. B-cos LM's code draws 25.
    words, score: As for `occlusion`.
    seed: Of the coalitions.
  """

  name: ClassVar[str] = "kernel_shap"
  samples: int = 500
  seed: int = 42

  def __post_init__(self):
    check_sampling(self.samples, self.seed)

  def run(self, task: Task) -> np.ndarray:
    return solve_shapley(task, self.groups(task), self.samples, self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLime(_Masking):
  """LIME: a ridge regression of the target on which tokens are present (arXiv 1602.04938).

  Each token is present in half of the samples, the first sample has all. A sample's weight and
  the regression are those of `attribution.lime`.

  Args:
    samples: Samples per text. Published with B-cos LM: 3,000.
    words: As for `occlusion`.
    kernel_width, ridge: As for `attribution.lime`.
    score: As for `occlusion`; LIME looks at probabilities.
    seed: Of the samples.
  """

  name: ClassVar[str] = "lime"
  samples: int = 3000
  kernel_width: float = 0.25
  ridge: float = 1.0
  score: str = "softmax"
  seed: int = 42

  def __post_init__(self):
    check_sampling(self.samples, self.seed)
    check_positive(kernel_width=self.kernel_width, ridge=self.ridge)

  def run(self, task: Task) -> np.ndarray:
    draw = functools.partial(draw_parts, samples=self.samples, seed=self.seed)
    fit = functools.partial(fit_lime, kernel_width=self.kernel_width, ridge=self.ridge)
    return solve_groups(task, self.groups(task), draw, fit)

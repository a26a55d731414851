"""Attribution methods on texts that use outputs only: the effect of removing tokens.

An absent token becomes the mask token of the task. With `words`, tokens of a word are absent
together and share equally what the word gets, so that word-pieces need no gluing together.
"""

from __future__ import annotations

import numpy as np

from ...explain.targets import Target
from ...text.explanation import Contrast
from .. import surrogates
from ..task import Progress, check_count
from .checked_inputs import prepare
from .feature_groups import solve_players
from .task import TextTask


def occlusion(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 64,
  progress: Progress = iter,
  words: np.ndarray | None = None,
  score: str = "logit",
) -> np.ndarray:
  """Occlusion: by how much the target drops without a token (arXiv 1311.2901, section 4.2).

  Args:
    words: Number of each token's word, int [N, L], -1 for none; None for tokens by themselves.
    score: 'logit', 'softmax' or 'sigmoid': what of a class is measured.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  texts = prepare(task, ids, mask, targets, batch_size, progress, score)
  return texts.shaped(solve_players(texts, words, _all_but_one, _drops))


def _all_but_one(players: int) -> np.ndarray:
  return np.concatenate([np.ones((1, players), bool), ~np.eye(players, dtype=bool)])


def _drops(present: np.ndarray, values: np.ndarray) -> np.ndarray:
  del present
  return values[0] - values[1:]


def shapley_sampling(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 64,
  progress: Progress = iter,
  samples: int = 25,
  words: np.ndarray | None = None,
  score: str = "logit",
  seed: int = 42,
) -> np.ndarray:
  """Shapley values by random orders in which tokens appear (Castro et al., 2009).

  Scores sum to the target's change from the text whose tokens are all masked.

  Args:
    samples: Orders per text, each of as many forward passes as there are tokens. Published with
      B-cos LM: 25.
    words, score: As for `occlusion`.
    seed: Of the orders.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  check_count("samples", samples)
  check_count("seed", seed, 0)
  texts = prepare(task, ids, mask, targets, batch_size, progress, score)

  def draw(players: int) -> np.ndarray:
    return _prefixes(_orders(players, samples, seed))

  def solve(present: np.ndarray, values: np.ndarray) -> np.ndarray:
    orders = _orders(present.shape[1], samples, seed)
    ends = np.broadcast_to(values[:2, None, None], (2, samples, 1, values.shape[1]))
    inner = values[2:].reshape(samples, -1, values.shape[1])
    gains = np.diff(np.concatenate([ends[0], inner, ends[1]], axis=1), axis=1)
    ranks = np.argsort(orders, axis=1)
    return np.take_along_axis(gains, ranks[..., None], axis=1).mean(axis=0)

  return texts.shaped(solve_players(texts, words, draw, solve))


def _orders(players: int, samples: int, seed: int) -> np.ndarray:
  """Returns random orders of the feature groups, int [samples, groups]."""
  random = np.random.default_rng((seed, players))
  return random.permuted(np.tile(np.arange(players), (samples, 1)), axis=1)


def _prefixes(orders: np.ndarray) -> np.ndarray:
  """Returns none, all, and the first 1 to P - 1 groups of each order, bool [M, P]."""
  ranks = np.argsort(orders, axis=1)
  players = orders.shape[1]
  inner = ranks[:, None] < np.arange(1, players)[:, None]
  ends = np.repeat([[False], [True]], players, axis=1)
  return np.concatenate([ends, inner.reshape(-1, players)])


def kernel_shap(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 64,
  progress: Progress = iter,
  samples: int = 500,
  words: np.ndarray | None = None,
  score: str = "logit",
  seed: int = 42,
) -> np.ndarray:
  """KernelSHAP: Shapley values by regression (arXiv 1705.07874, theorem 2).

  As for images: exact where the samples suffice for every coalition; else coalitions are drawn by
  the Shapley kernel. Scores sum to the target's change from the text whose tokens are all masked.

  Args:
    samples: Coalitions per text, besides none and all. B-cos LM's code draws 25.
    words, score: As for `occlusion`.
    seed: Of the coalitions.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  check_count("samples", samples)
  check_count("seed", seed, 0)
  texts = prepare(task, ids, mask, targets, batch_size, progress, score)

  def draw(players: int) -> np.ndarray:
    return surrogates.draw_coalitions(players, samples, seed)[0]

  def solve(present: np.ndarray, values: np.ndarray) -> np.ndarray:
    weights = surrogates.draw_coalitions(present.shape[1], samples, seed)[1]
    return surrogates.fit_shapley(present.astype(np.float64), weights, values)

  return texts.shaped(solve_players(texts, words, draw, solve))


def lime(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 64,
  progress: Progress = iter,
  samples: int = 3000,
  words: np.ndarray | None = None,
  kernel_width: float = 0.25,
  ridge: float = 1.0,
  score: str = "softmax",
  seed: int = 42,
) -> np.ndarray:
  """LIME: a ridge regression of the target on which tokens are present (arXiv 1602.04938).

  Each token is present in half of the samples, the first sample has all. A sample's weight and
  the regression are those of `attribution.lime`.

  Args:
    samples: Samples per text. Published with B-cos LM: 3,000.
    words: As for `occlusion`.
    kernel_width, ridge: As for `attribution.lime`.
    score: As for `occlusion`; LIME looks at probabilities.
    seed: Of the samples.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  check_count("samples", samples)
  check_count("seed", seed, 0)
  surrogates.check_positive(kernel_width=kernel_width, ridge=ridge)
  texts = prepare(task, ids, mask, targets, batch_size, progress, score)

  def draw(players: int) -> np.ndarray:
    return surrogates.draw_parts(players, samples, seed)

  def solve(present: np.ndarray, values: np.ndarray) -> np.ndarray:
    return surrogates.fit_lime(present, values, kernel_width, ridge)

  return texts.shaped(solve_players(texts, words, draw, solve))

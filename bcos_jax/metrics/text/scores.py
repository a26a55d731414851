"""Input checks and result types shared by the metrics of texts.

A metric takes scores of tokens: either an array [N, L] that was computed anywhere, or an explainer,
a function `(ids [N, L], mask [N, L], targets [N]) -> scores [N, L]` such as those of
`attribution.text.attribute_with`. It returns one score per text, beside those of noise and of
the oracle, and says which texts it could not score, and why.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import InputError

TextExplainer = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
TokenScores = TextExplainer | np.ndarray


def scores_of(
  scores: TokenScores, ids: np.ndarray, mask: np.ndarray, targets: np.ndarray
) -> np.ndarray:
  """Returns the scores that an explainer gives, or those given, checked: float64 [N, ..., L].

  Args:
    scores: An explainer, or an array.
    ids: [N, L].
    mask: [N, L].
    targets: [N] or [N, K].

  Raises:
    InputError: A wrong shape, or NaN.
  """
  found = np.asarray(scores(ids, mask, targets) if callable(scores) else scores)
  check_scores(found, (*np.shape(targets), ids.shape[1]))
  return found.astype(np.float64)


def check_scores(scores: np.ndarray, expected: tuple[int, ...]) -> None:
  """Raises InputError unless scores have a shape and are finite."""
  if scores.shape != expected:
    raise InputError(
      f"The scores have shape {scores.shape}, expected {expected}.",
      "Give one score per token for each text and target.",
    )
  if not np.isfinite(scores).all():
    raise InputError(
      "The scores contain NaN or infinite values.",
      "Find the cause in the explainer or in the network's weights.",
    )


def check_counted(scores: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns scores float64 [N, L] and which tokens count, bool [N, L], or raises InputError."""
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or not scores.size:
    raise InputError(
      f"The scores have shape {scores.shape}, expected [N, L].", "Give one score per token."
    )
  check_scores(scores, scores.shape)
  return scores, check_tokens("counted tokens", counted, scores.shape)


def check_tokens(name: str, tokens: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Returns a choice of tokens as bool of a shape, or raises InputError."""
  tokens = np.asarray(tokens)
  if tokens.shape != shape or not np.isin(tokens, (0, 1)).all():
    raise InputError(
      f"The {name} are {tokens.dtype} {tokens.shape}, expected bool {shape}.",
      "Give True for every token that belongs to them.",
    )
  return tokens.astype(bool)

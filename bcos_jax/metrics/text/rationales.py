"""Agreement of explanations with human rationales.

As in ERASER (arXiv 1911.03429, section 4.2). All take scores and rationales of the same tokens,
padding and special tokens left out by `counted`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from ...errors import InputError
from ..rankings import ranks_of
from ..scores import TextScores, with_baselines
from .scores import check_counted, check_tokens

Measure = Callable[[np.ndarray, np.ndarray], float]


def rationale_auprc(
  scores: np.ndarray, rationales: np.ndarray, counted: np.ndarray, *, seed: int = 0
) -> TextScores:
  """The area under the curve of precision over recall, as tokens are chosen by falling score.

  The curve has a point for every distinct score, and begins at recall 0 with precision 1; between
  points it is a straight line, as in ERASER's code and scikit-learn's `auc`. (B-cos LM's code
  has nine points only, and leaves out both ends.)

  Args:
    scores: [N, L], signed.
    rationales: bool [N, L], the tokens that people marked.
    counted: bool [N, L], False on special tokens and padding.
    seed: Of the random scores.

  Returns:
    Scores in [0, 1]. Excluded are texts without a marked token.

  Raises:
    InputError: Shapes that do not fit, NaN, or no text that can be scored.
  """
  return _agreement(_area, scores, rationales, counted, seed)


def rationale_token_f1(
  scores: np.ndarray,
  rationales: np.ndarray,
  counted: np.ndarray,
  *,
  share: float | None = None,
  seed: int = 0,
) -> TextScores:
  """F1 of the chosen tokens: the harmonic mean of precision and recall.

  Args:
    scores: [N, L], signed.
    rationales: bool [N, L], the tokens that people marked.
    counted: bool [N, L], False on special tokens and padding.
    share: Of the counted tokens, chosen by score, at least one; None chooses as many as people
      marked in each text. ERASER: the mean share that people marked in the data set.
    seed: Of the random scores, and of the order of equal ones.

  Returns, raises: As `rationale_auprc`.
  """
  return _agreement(_token_f1, scores, rationales, counted, seed, share)


def rationale_iou_f1(
  scores: np.ndarray,
  rationales: np.ndarray,
  counted: np.ndarray,
  *,
  share: float | None = None,
  threshold: float = 0.5,
  seed: int = 0,
) -> TextScores:
  """F1 of spans: runs of chosen tokens against runs of marked ones.

  A chosen span is right if its intersection over union with some marked span reaches the
  threshold, and a marked one found if some chosen span's with it does.

  Args:
    scores: [N, L], signed.
    rationales: bool [N, L], the tokens that people marked.
    counted: bool [N, L], False on special tokens and padding; these end a span.
    share: As for `rationale_token_f1`.
    threshold: Least intersection over union. ERASER: 0.5.
    seed: As for `rationale_token_f1`.

  Returns, raises: As `rationale_auprc`.
  """
  if not 0 < threshold <= 1:
    raise InputError(
      f"threshold={threshold}, expected a share above 0.", "The published value is 0.5."
    )

  def measure(chosen: np.ndarray, marked: np.ndarray) -> float:
    return _span_f1(chosen, marked, threshold)

  return _agreement(measure, scores, rationales, counted, seed, share)


def spans_of(chosen: np.ndarray) -> list[tuple[int, int]]:
  """Returns the runs of True in bool [L] as (begin, end), the end exclusive."""
  edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
  return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _agreement(
  measure: Measure,
  scores: np.ndarray,
  rationales: np.ndarray,
  counted: np.ndarray,
  seed: int,
  share: float | Literal["scores"] | None = "scores",
) -> TextScores:
  scores, counted = check_counted(scores, counted)
  marked = check_tokens("rationales", rationales, scores.shape) & counted
  unmarked = ~marked.any(axis=1)

  def each(scored: np.ndarray) -> np.ndarray:
    found = np.full(len(scored), np.nan)
    chosen = None if share == "scores" else _chosen(scored, counted, marked, share, seed)
    for i in np.flatnonzero(~unmarked):
      if chosen is None:  # the measure looks at the scores themselves
        found[i] = measure(scored[i][counted[i]], marked[i][counted[i]])
      else:
        found[i] = measure(chosen[i], marked[i])
    return found

  return with_baselines(
    TextScores,
    each,
    scores,
    oracle=1.0 if share in ("scores", None) else marked * 1.0,
    reasons={"no marked token": unmarked},
    seed=seed,
    higher_is_better=True,
  )


def _chosen(scores, counted, marked, share: float | None, seed: int) -> np.ndarray:
  """Returns the tokens of the highest scores, bool [N, L]."""
  if share is None:
    numbers = marked.sum(axis=1)
  elif 0 < share <= 1:
    numbers = np.maximum(1, np.round(share * counted.sum(axis=1)))
  else:
    raise InputError(
      f"share={share!r}, expected a share above 0.",
      "Use None to select as many tokens as the rationales mark.",
    )
  return counted & (ranks_of(scores, counted, seed) < numbers[:, None])


def _area(scores: np.ndarray, marked: np.ndarray) -> float:
  order = np.argsort(-scores, kind="stable")
  found = np.cumsum(marked[order])
  last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of equal scores
  precision = np.append(1.0, found[last] / (last + 1))
  recall = np.append(0.0, found[last] / found[-1])
  return float(np.trapezoid(precision, recall))


def _token_f1(chosen: np.ndarray, marked: np.ndarray) -> float:
  return float(2 * (chosen & marked).sum() / (chosen.sum() + marked.sum()))


def _span_f1(chosen: np.ndarray, marked: np.ndarray, threshold: float) -> float:
  mine, theirs = spans_of(chosen), spans_of(marked)
  match = np.array([[_iou(a, b) >= threshold for b in theirs] for a in mine])
  precision, recall = match.any(axis=1).mean(), match.any(axis=0).mean()
  return float(2 * precision * recall / (precision + recall)) if match.any() else 0.0


def _iou(a: tuple[int, int], b: tuple[int, int]) -> float:
  inside = max(0, min(a[1], b[1]) - max(a[0], b[0]))
  return inside / (a[1] - a[0] + b[1] - b[0] - inside)

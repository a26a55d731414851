"""Contrastive metrics of next-word explanations: agreement with the deciding words.

As on BLiMP's minimal pairs: "The keys to the cabinet" is followed by "are" rather than "is"
because of "keys". The target's score less the foil's is explained (`attribution.text.Contrast`).
"""

from __future__ import annotations

import numpy as np
from scipy import special

from ...errors import InputError
from ..scores import TextScores, check_targets, with_baselines
from .scores import check_counted, check_tokens


def contrastive_ranks(
  scores: np.ndarray, evidence: np.ndarray, counted: np.ndarray, *, seed: int = 0
) -> TextScores:
  """The reciprocal rank of the evidence token that ranks best; its mean is the MRR.

  Published with Yin & Neubig (arXiv 2202.10419, section 4), and with B-cos LM's decoders. Among
  equal scores the rank is what a random order gives on average.

  Args:
    scores: [N, L], signed, of target against foil.
    evidence: bool [N, L], the tokens that decide.
    counted: bool [N, L], False on special tokens and padding.
    seed: Of the random scores.

  Returns:
    Scores in (0, 1]. Excluded are texts without evidence.

  Raises:
    InputError: Shapes that do not fit, NaN, or no text that can be scored.
  """
  scores, counted = check_counted(scores, counted)
  evidence = check_tokens("evidence tokens", evidence, scores.shape) & counted
  return with_baselines(
    TextScores,
    lambda given: _reciprocal_ranks(given, evidence, counted),
    scores,
    oracle=1.0,
    reasons={"no evidence": ~evidence.any(axis=1)},
    seed=seed,
    higher_is_better=True,
  )


def _reciprocal_ranks(scores: np.ndarray, evidence: np.ndarray, counted: np.ndarray) -> np.ndarray:
  best = np.max(scores, axis=1, where=evidence, initial=-np.inf)[:, None]
  above = np.sum(counted & (scores > best), axis=1)
  level = scores == best
  others, own = (np.sum(level & part, axis=1) for part in (counted & ~evidence, evidence))
  # Of `own` tokens put at random among `others`, the first comes after others / (own + 1).
  return 1 / (1 + above + others / (own + 1))


def probability_gap(logits: np.ndarray, targets: np.ndarray, foils: np.ndarray) -> np.ndarray:
  """Returns the softmax probability of each target less that of its foil, float64 [N].

  Args:
    logits: [N, C], of the next token.
    targets: int [N].
    foils: int [N].

  Raises:
    InputError: Targets or foils that are not classes, one for each row of logits.
  """
  logits = np.asarray(logits, np.float64)
  if logits.ndim != 2 or not np.isfinite(logits).all():
    raise InputError(
      f"The logits have shape {logits.shape}, expected finite [N, C].", "Pass one row per text."
    )
  probabilities = special.softmax(logits, axis=1)
  rows = np.arange(len(logits))
  sides = [check_targets(side, *logits.shape) for side in (targets, foils)]
  return probabilities[rows, sides[0]] - probabilities[rows, sides[1]]

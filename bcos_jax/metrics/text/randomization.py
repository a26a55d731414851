"""Sanity checks of explanations of texts: another class, other labels, a randomised head."""

from __future__ import annotations

import numpy as np

from ...errors import InputError
from ..scores import TextScores, assembled, check_targets, random_maps
from ..similarities import similarity
from .scores import check_counted, check_scores

_FEWEST = 3  # tokens: the ranks of two are 1 or -1 alike


def token_randomization(
  scores: np.ndarray, changed: np.ndarray, counted: np.ndarray, *, seed: int = 0
) -> TextScores:
  """Compares explanations of texts with those of the same texts after a randomisation.

  Spearman's rank correlation over the tokens that count. What `changed` explains says what is
  checked: another class, or for a language model another next token, drawn by `other_targets`
  (arXiv 1912.09818, section 4.2); the same class by a network that was trained on permuted labels,
  or whose head or layers `randomized` has shuffled (arXiv 1810.03292). Low is good: an explanation
  that stays does not depend on what was changed.

  Args:
    scores: [N, L], signed.
    changed: [N, L], after the change.
    counted: bool [N, L], False on special tokens and padding.
    seed: Of the noise.

  Returns:
    Similarities in [-1, 1]; the oracle, which keeps nothing, has 0, and `random_scores` are
    similarities with noise. Excluded are texts of less than 3 tokens that count, and those where
    all of them score the same.

  Raises:
    InputError: Shapes that do not fit, NaN, or no text that can be scored.
  """
  scores, counted = check_counted(scores, counted)
  changed = np.asarray(changed, np.float64)
  check_scores(changed, scores.shape)
  noise = random_maps(seed, range(len(scores)), scores.shape[1:])
  alike, by_chance = (_correlations(scores, other, counted) for other in (changed, noise))
  few = counted.sum(axis=1) < _FEWEST
  reasons = {
    f"fewer than {_FEWEST} tokens that count": few,
    "the same score on every token": ~np.isfinite(alike) & ~few,
  }
  rows = {"scores": alike, "random_scores": by_chance, "oracle_scores": 0.0}
  return assembled(TextScores, reasons, rows, higher_is_better=False)


def _correlations(first: np.ndarray, second: np.ndarray, counted: np.ndarray) -> np.ndarray:
  """Returns Spearman's correlation of each text over its own tokens; NaN where it has none."""
  return np.array(
    [
      similarity("spearman", a[use][None, None], b[use][None, None])[0] if use.any() else np.nan
      for a, b, use in zip(first, second, counted, strict=True)
    ]
  )


def other_targets(targets: np.ndarray, num_classes: int, *, seed: int = 0) -> np.ndarray:
  """Draws for each target another class, all others alike.

  Args:
    targets: int [N].
    num_classes: At least 2; of a language model the size of its vocabulary.
    seed: Of the draws.

  Raises:
    InputError: Targets that are not classes, or a single class.
  """
  if num_classes < 2:
    raise InputError(
      f"num_classes={num_classes}, expected at least 2.", "One class has no other to compare with."
    )
  targets = check_targets(targets, len(targets), num_classes)
  shift = np.random.default_rng(seed).integers(1, num_classes, len(targets))
  return (targets + shift) % num_classes

"""Comprehensiveness and sufficiency: the output as the most important tokens are masked.

Tokens that are not special are ranked by signed score, equal ones in random order. Published with
B-cos LM (arXiv 2502.12992): the first k = max(1, floor(p n)) of n tokens become [MASK], for p from
0.1 to 0.9, and the loss of the predicted class's softmax probability is integrated over p by the
trapezoidal rule, a range of 0.8 that is not divided by. ERASER (arXiv 1911.03429, section 4.1)
takes the mean over its own shares instead, the area over the perturbation curve (AOPC).

Three rankings are measured on the same texts: that of the explanation; a random one; and, as
oracle, that by the measured effect of taking each token away alone. Where effects add up no
ranking is better than that oracle's; elsewhere an explanation may beat it.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from ...attribution.task import SCORES, check_choice
from ...attribution.text import TextTask
from ...attribution.text.checked_inputs import REMOVALS, prepare, special_of
from ...batches import Progress
from ...errors import InputError
from ...explain.targets import Target
from ..rankings import Curves, Parts, check_fractions, scored_curves
from ..scores import TextScores, check_count, random_maps
from .scores import TokenScores, scores_of

MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "aopc": lambda losses, fractions: losses.mean(axis=1),
  "auc": lambda losses, fractions: np.trapezoid(losses, fractions, axis=1),
}
"""From losses [N, F] at fractions [F] to scores [N]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenPerturbation:
  """Settings: how tokens are masked, and what is measured.

  Attributes:
    fractions: Rising shares of the tokens that are not special; each takes at least one token.
    measure: 'aopc', the mean loss; or 'auc', its integral over the fractions.
    removal: 'mask', an absent token becomes the mask token; 'delete', the rest moves together.
    keep_special: Whether special tokens stay where only the most important ones are kept.
      Published code replaces them too.
    score: 'softmax', 'sigmoid' or 'logit' of the target. Published: 'softmax', for every network.
    oracle: Whether to measure the oracle's ranking too: one forward pass more for every token.
    batch_size: Texts per forward pass, those with masked tokens.
    seed: Of the random ranking and of ties.
  """

  fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.5)
  measure: str = "aopc"
  removal: str = "mask"
  keep_special: bool = True
  score: str = "softmax"
  oracle: bool = True
  batch_size: int = 64
  seed: int = 0

  def __post_init__(self):
    check_count("batch_size", self.batch_size)
    check_fractions(self.fractions)
    for name, known in (("measure", MEASURES), ("removal", REMOVALS), ("score", SCORES)):
      check_choice(name, getattr(self, name), known)

  @classmethod
  def published(cls, **fields: Any) -> TokenPerturbation:
    """Returns the settings of B-cos LM's code, special tokens replaced as well."""
    fractions = tuple(i / 10 for i in range(1, 10))
    return cls(**{"fractions": fractions, "measure": "auc", "keep_special": False, **fields})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCurves(Curves, TextScores):
  """Scores of texts that come from curves; fractions are of the tokens that are not special."""


def token_comprehensiveness(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  scores: TokenScores,
  targets: Target = None,
  how: TokenPerturbation = TokenPerturbation(),
  *,
  progress: Progress = iter,
) -> TokenCurves:
  """The loss of output when the most important tokens are masked; high is good.

  Args:
    task: The network.
    ids: int [N, L].
    mask: bool [N, L], False on padding.
    scores: An explainer, or scores [N, L]; those of special tokens do not count.
    targets: int [N], an int, or None for the predicted classes (published).
    how: What taking away is; `TokenPerturbation.published()` for the numbers of B-cos LM.
    progress: Wraps the loops over batches, e.g. `tqdm.tqdm`.

  Returns:
    One loss per text. Excluded are texts of special tokens only.

  Raises:
    InputError: Texts, targets or scores that cannot be used; no text that can be scored.
  """
  return _curves(task, ids, mask, scores, targets, how, progress, keep=False)


def token_sufficiency(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  scores: TokenScores,
  targets: Target = None,
  how: TokenPerturbation = TokenPerturbation(),
  *,
  progress: Progress = iter,
) -> TokenCurves:
  """The loss of output when only the most important tokens are kept; low is good.

  Arguments, result and errors as for `token_comprehensiveness`.
  """
  return _curves(task, ids, mask, scores, targets, how, progress, keep=True)


def counts_of(fractions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  """Returns how many of [N] tokens each of [F] fractions takes, int [N, F]."""
  # Tolerance: 0.3 * 10 must not be 2.99...
  return np.maximum(1, np.floor(fractions * tokens[:, None] + 1e-9)).astype(int)


def _curves(task, ids, mask, scores, targets, how, progress, *, keep: bool) -> TokenCurves:
  fields = {"batch_size": how.batch_size, "score": how.score, "removal": how.removal}
  texts = prepare(task, ids, mask, targets, progress=progress, **fields)
  if not texts.single or texts.classes is None:
    raise InputError(
      "targets has several per text or is a function, expected one class per text.",
      "Give int [N], or None for the predicted classes.",
    )
  ids, mask = texts.inputs
  found = scores_of(scores, ids, mask, texts.classes[:, 0])
  free, fractions = ~special_of(texts), np.asarray(how.fractions)
  return scored_curves(
    TokenCurves,
    Parts(task=texts, free=free, movable=free if how.keep_special else mask),
    lambda curves, start: MEASURES[how.measure](start[:, None] - curves, fractions),
    found,
    random_maps(how.seed, range(len(free)), free.shape[1:]),
    counts_of(fractions, free.sum(axis=1)),
    keep=keep,
    oracle=how.oracle,
    seed=how.seed,
    reasons=lambda start: {"no token that is not special": ~free.any(axis=1)},
    fractions=fractions,
    higher_is_better=not keep,
  )

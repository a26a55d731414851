"""The sequence pointing game: localisation of each class in a pair of texts.

Texts that fill a number of tokens, each classified rightly and confidently on its own, are put
together in pairs of different classes, as `[CLS] first [SEP] second [SEP]`. Each of the two
classes is explained; its score is the share of the positive attribution that falls on its own
text, special tokens left out. 1 is perfect, and a blind explanation gets one half.

Published with B-cos LM (arXiv 2502.12992), after the grid pointing game. There a conventional
network chooses the texts for all networks that are compared. Two things differ from its code: ids
are joined and each token's text is kept, where the code joins strings, tokenizes again and takes
the middle for the boundary; and no network sees segment numbers that it was never trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from ...attribution.text import TextTask
from ...attribution.text.checked_inputs import check_texts
from ...errors import InputError
from ..grids import Selection, select
from ..scores import TextScores, check_count, check_targets, with_baselines
from .scores import TokenScores, scores_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPairs:
  """Pairs of texts, as a network reads them.

  Attributes:
    ids: int32 [P, L].
    mask: bool [P, L].
    segments: int8 [P, L]: 0 on the first text, 1 on the second, -1 on special tokens and padding.
    classes: int [P, 2], of the first and the second text.
    indices: int [P, 2], which of the given texts they are.
    requested: Number of pairs requested; there are fewer where texts ran out.
    selection: The texts that could be used; of those that fill the length, how many were right.
    num_texts: Number of texts given.
    num_short: Number of these that do not fill the length.
  """

  ids: np.ndarray
  mask: np.ndarray
  segments: np.ndarray
  classes: np.ndarray
  indices: np.ndarray
  requested: int
  selection: Selection
  num_texts: int
  num_short: int

  def __len__(self) -> int:
    return len(self.ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequencePointingScores(TextScores):
  """Scores of a sequence pointing game, pair by pair: the mean over both classes.

  Attributes:
    by_class: [P, 2], the score of each class.
    uniform_scores: [P], those of the same attribution everywhere.
    pairs: The pairs.
    num_empty: Attributions without any positive part; they score 0.
  """

  by_class: np.ndarray
  uniform_scores: np.ndarray
  pairs: TextPairs
  num_empty: int

  def _counts(self) -> dict[str, float]:
    pairs = self.pairs
    return {
      "uniform": float(self.uniform_scores.mean()),
      "num_pairs": len(pairs),
      "requested": pairs.requested,
      "num_texts": pairs.num_texts,
      "num_short": pairs.num_short,
      "num_correct": pairs.selection.num_correct,
      "num_eligible": pairs.selection.num_eligible,
      "num_empty": self.num_empty,
    }


def text_pairs(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  *,
  fill: bool = True,
  num_pairs: int = 500,
  confidence: float = 0.75,
  probability: str = "softmax",
  seed: int = 42,
) -> TextPairs:
  """Chooses texts and puts them together.

  While two classes have texts left, two are drawn, and the most confident unused text of each is
  taken.

  Args:
    task: Its special tokens and padding; every network that is compared must share them.
    ids: int [N, L], tokenized and cut to L tokens with special ones at their ends, e.g. [CLS]
      words [SEP]. Published: L = 256 for IMDB, 50 for AG News, 25 for HateXplain.
    mask: bool [N, L].
    logits: [N, C] of the texts by themselves, of the conventional network.
    labels: int [N].
    fill: Whether only texts that have all L tokens are taken, as published.
    num_pairs: Most pairs to make.
    confidence: Least probability of the predicted class, exceeded strictly. Published: 0.75.
    probability: "softmax", or "sigmoid" of each logit.
    seed: Of the pairs.

  Returns:
    Pairs of at most 2 L - 1 tokens: the second text's first special token is left out.

  Raises:
    InputError: Arguments that do not fit, or not a single pair, with the counts that explain it.
  """
  ids, mask = check_texts(ids, mask)
  labels = check_targets(labels, len(ids))
  check_count("num_pairs", num_pairs)
  long = _long_enough(mask, fill)
  chosen = select(np.asarray(logits)[long], labels[long], confidence, probability)
  chosen = dataclasses.replace(chosen, images={k: long[v] for k, v in chosen.images.items()})
  drawn = _draw(chosen, num_pairs, seed)
  if not drawn:
    raise _too_few(len(ids), len(long), chosen)
  indices, classes = np.array(drawn).transpose(2, 0, 1)
  return TextPairs(
    **_joined(task, ids, mask, indices),
    classes=classes,
    indices=indices,
    requested=num_pairs,
    selection=chosen,
    num_texts=len(ids),
    num_short=len(ids) - len(long),
  )


def _long_enough(mask: np.ndarray, fill: bool) -> np.ndarray:
  """Returns the numbers of the texts that may be taken."""
  long = np.flatnonzero(mask.all(axis=1) if fill else mask.any(axis=1))
  if not len(long):
    raise InputError(
      f"None of {len(mask)} texts fills {mask.shape[1]} tokens.",
      "Cut texts to fewer tokens, or set fill=False.",
    )
  return long


def _too_few(num_texts: int, num_long: int, chosen: Selection) -> InputError:
  return InputError(
    f"No pair can be made: of {num_texts} texts, {num_long} are long enough, "
    f"{chosen.num_correct} of these classified correctly and {chosen.num_eligible} also with "
    f"confidence, in {len(chosen.images)} classes; 2 are needed.",
    "Use shorter texts, a lower confidence, more texts or a better network.",
  )


def sequence_pointing_game(
  scores: TokenScores, pairs: TextPairs, *, seed: int = 0
) -> SequencePointingScores:
  """Plays the sequence pointing game.

  Args:
    scores: Called as `scores(ids [P, L], mask [P, L], classes [P, 2])`, returns [P, 2, L], as
      `attribution.text.attribute_with` gives; or such scores, computed before.
    pairs: From `text_pairs`.
    seed: Of the random scores.

  Raises:
    InputError: Scores of a wrong shape or with NaN.
  """
  found = scores_of(scores, pairs.ids, pairs.mask, pairs.classes)
  by_class, empty = _own_share(found, pairs.segments)

  def measure(scores: np.ndarray) -> np.ndarray:
    return _own_share(scores, pairs.segments)[0].mean(axis=1)

  return with_baselines(
    SequencePointingScores,
    measure,
    found,
    oracle=1.0,
    reasons={"": np.zeros(len(pairs), bool)},
    seed=seed,
    rows={"by_class": by_class, "uniform_scores": measure(np.ones_like(found))},
    higher_is_better=True,
    pairs=pairs,
    num_empty=int(empty.sum()),
  )


def _draw(selection: Selection, num_pairs: int, seed: int) -> list[list[tuple[int, int]]]:
  """Returns pairs of (text, class)."""
  random = np.random.default_rng(seed)
  queues = {label: list(texts) for label, texts in sorted(selection.images.items())}
  drawn: list[list[tuple[int, int]]] = []
  while len(queues) > 1 and len(drawn) < num_pairs:
    labels = random.choice(list(queues), 2, replace=False).tolist()
    drawn.append([(int(queues[label].pop(0)), label) for label in labels])
    queues = {label: texts for label, texts in queues.items() if texts}
  return drawn


def _joined(task: TextTask, ids, mask, indices: np.ndarray) -> dict[str, Any]:
  rows, sides = [], []
  special = np.asarray(task.special(ids, mask))
  for pair in indices:
    texts = [ids[i][mask[i]] for i in pair]
    marked = [special[i][mask[i]] for i in pair]
    if marked[1][0]:  # its own [CLS]
      texts[1], marked[1] = texts[1][1:], marked[1][1:]
    rows.append(np.concatenate(texts))
    sides.append(_sides(marked))
  shape = (len(rows), max(map(len, rows)))
  joined = {
    "ids": np.full(shape, task.pad_id, np.int32),
    "mask": np.zeros(shape, bool),
    "segments": np.full(shape, -1, np.int8),
  }
  for i, (row, side) in enumerate(zip(rows, sides, strict=True)):
    for name, values in (("ids", row), ("mask", True), ("segments", side)):
      joined[name][i, : len(row)] = values
  return joined


def _sides(special: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.where(marked, -1, side) for side, marked in enumerate(special)])


def _own_share(scores: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Scores [P, 2, L] -> (share of each class's own text [P, 2], whether it has no mass [P, 2])."""
  positive = np.maximum(scores, 0)
  own = np.sum(positive, axis=2, where=segments[:, None] == np.arange(2)[:, None])
  total = np.sum(positive, axis=2, where=segments[:, None] >= 0)
  empty = total <= 0
  return np.where(empty, 0.0, own / np.where(empty, 1.0, total)), empty

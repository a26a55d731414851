"""The most influential words for a class over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import math

import numpy as np

from ..errors import InputError, unknown_name
from .words import Word

ORDERS = ("for", "against", "both")


@dataclasses.dataclass(frozen=True)
class InfluentialWord:
  """A word, and what it contributes where it occurs.

  Attributes:
    word: The word, as it was compared.
    mean: Its mean contribution.
    spread: Standard deviation of its contributions.
    count: How often it occurs.
    texts: In how many texts.
  """

  word: str
  mean: float
  spread: float
  count: int
  texts: int


def words_by_class(
  texts: Sequence[Iterable[Word]], classes: Sequence[str], *, least: int = 2
) -> dict[str, list[InfluentialWord]]:
  """Returns tables of the most influential words for each explained class, by caption.

  A table is empty where the texts are too few: no word occurs often enough.

  Args:
    texts: The words of each text with their contributions.
    classes: What is explained of each.
    least: Occurrences that a word needs.
  """
  found = {}
  for name in dict.fromkeys(classes):
    own = [words for words, explained in zip(texts, classes, strict=True) if explained == name]
    rows = influential_words(own, least=least, order="both")
    found[f"Most influential words for and against {name}"] = rows
  return found


def influential_words(
  texts: Iterable[Iterable[Word]],
  *,
  top: int = 20,
  least: int = 3,
  order: str = "for",
  lower: bool = True,
) -> list[InfluentialWord]:
  """Returns the words with the largest mean contributions.

  Args:
    texts: The words of each text with their contributions, as `TextExplanation.words` gives them,
      all for one class or each for its own predicted class. Special tokens and punctuation are
      left out.
    top: Most words to return.
    least: Occurrences that a word needs; a word seen once describes one text only.
    order: 'for', the largest means first; 'against', the least; 'both', by size.
    lower: Whether words that differ in case only count as one.

  Raises:
    InputError: An unknown order, or a contribution that is NaN or infinite.
  """
  if order not in ORDERS:
    raise unknown_name("order", order, ORDERS)
  seen: dict[str, list[tuple[float, int]]] = {}
  for number, words in enumerate(texts):
    for word in words:
      if word.span is None or not any(map(str.isalnum, word.text)):
        continue
      if not math.isfinite(word.contribution):
        raise InputError(
          f"Word {word.text!r} of text {number} contributes {word.contribution}, expected a finite"
          " number.",
          "Look for NaN among the network's weights.",
        )
      key = word.text.lower() if lower else word.text
      seen.setdefault(key, []).append((word.contribution, number))
  rows = [_row(word, found) for word, found in seen.items() if len(found) >= least]
  keys = {"for": lambda r: -r.mean, "against": lambda r: r.mean, "both": lambda r: -abs(r.mean)}
  return sorted(rows, key=lambda row: (keys[order](row), row.word))[:top]


def _row(word: str, found: list[tuple[float, int]]) -> InfluentialWord:
  values = np.array([value for value, _ in found])
  texts = len({number for _, number in found})
  return InfluentialWord(word, float(values.mean()), float(values.std()), len(found), texts)

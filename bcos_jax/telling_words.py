"""Which words speak for a class over a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from .errors import InputError, unknown_name

ORDERS = ("for", "against", "both")


@dataclasses.dataclass(frozen=True)
class TellingWord:
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


def telling_words(
  words: Sequence[Sequence[str]],
  contributions: Sequence[np.ndarray],
  *,
  top: int = 20,
  least: int = 3,
  order: str = "for",
  lower: bool = True,
) -> list[TellingWord]:
  """Returns the words with the largest mean contributions.

  Args:
    words: The words of each text, as `Tokens.spelled` gives them.
    contributions: For each text, one number per word, as `merge_words` gives them. All for one
      class, or each for its own text's predicted class.
    top: Most words to return.
    least: Occurrences that a word needs; a word seen once tells about one text only.
    order: 'for', the largest means first; 'against', the least; 'both', by size.
    lower: Whether words that differ in case only count as one.

  Raises:
    InputError: Words and contributions that do not fit, or with NaN.
  """
  if order not in ORDERS:
    raise unknown_name("order", order, ORDERS)
  if len(words) != len(contributions):
    raise InputError(
      f"Words of {len(words)} texts, contributions of {len(contributions)}.", "Give both of each."
    )
  seen: dict[str, list[tuple[float, int]]] = {}
  for number, (own, values) in enumerate(zip(words, contributions, strict=True)):
    values = np.asarray(values, np.float64)
    if values.shape != (len(own),) or not np.isfinite(values).all():
      raise InputError(
        f"Text {number} has {len(own)} words and contributions of shape {values.shape}, expected "
        "one finite number per word.",
        "Merge the tokens' contributions with merge_words.",
      )
    for word, value in zip(own, values.tolist(), strict=True):
      seen.setdefault(word.lower() if lower else word, []).append((value, number))
  rows = [_row(word, found) for word, found in seen.items() if len(found) >= least]
  keys = {"for": lambda r: -r.mean, "against": lambda r: r.mean, "both": lambda r: -abs(r.mean)}
  return sorted(rows, key=lambda row: (keys[order](row), row.word))[:top]


def _row(word: str, found: list[tuple[float, int]]) -> TellingWord:
  values = np.array([value for value, _ in found])
  texts = len({number for _, number in found})
  return TellingWord(word, float(values.mean()), float(values.std()), len(found), texts)

"""Groups of tokens that form the words of the original text."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
import dataclasses
import re

import numpy as np

_WORD = re.compile(r"\w+(?:[’'\-]\w+)*|[^\w\s]")

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class TextBatch:
  """Texts as a tokenizer read them: right-padded to one length.

  Attributes:
    texts: N texts.
    ids: Token ids, int32 [N, L].
    mask: 1 for tokens, 0 for padding, int32 [N, L].
    special: Whether a token is not part of the text, such as [CLS] and [SEP], bool [N, L]; padding
      is special, too.
    spans: First and past-the-last character of each token, int32 [N, L, 2]; equal for special
      ones.
    tokens: The tokens as strings, N tuples of their own lengths.
    dropped: Tokens that truncation cut off, int [N].
    unknown: Whether a token stands for a word that is not in the vocabulary, bool [N, L]; None
      where that is not known.
  """

  texts: tuple[str, ...]
  ids: np.ndarray
  mask: np.ndarray
  special: np.ndarray
  spans: np.ndarray
  tokens: tuple[tuple[str, ...], ...]
  dropped: np.ndarray
  unknown: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.texts)


@dataclasses.dataclass(frozen=True)
class Word:
  """What a word of a text contributed.

  Attributes:
    text: The word, or the special token.
    span: Its first and past-the-last character; None for a special token, which has no text.
    contribution: The sum over its tokens.
    tokens: Their places.
    unknown: Whether the vocabulary lacks it, so that it counts as any other unknown word.
  """

  text: str
  span: Span | None
  contribution: float
  tokens: tuple[int, ...]
  unknown: bool = False


def word_spans(text: str) -> list[Span]:
  """Returns where the words of a text are; punctuation marks are words of their own."""
  return [match.span() for match in _WORD.finditer(text)]


def words_of_tokens(spans: Sequence[Span], words: Sequence[Span]) -> list[int]:
  """Returns the index of each token's word; -1 for tokens that cover none, as special ones.

  A token that covers several belongs to the one with which it shares most characters, the first
  of equal ones. Words are in reading order and do not overlap.
  """
  ends = [stop for _, stop in words]
  found = []
  for start, end in spans:
    best, most = -1, 0
    for index in range(bisect.bisect_right(ends, start), len(words)):
      begin, stop = words[index]
      if begin >= end:
        break
      if (shared := min(end, stop) - max(start, begin)) > most:
        best, most = index, shared
    found.append(best)
  return found


def merged(batch: TextBatch, index: int, scores: np.ndarray) -> list[Word]:
  """Sums the scores of a text's tokens over its words, in reading order.

  Args:
    batch: The texts.
    index: Which of them.
    scores: [L], one per token.

  Returns:
    Words; special tokens are words of their own. Tokens of white space belong to the word behind
    them, at the end of a text to the one before.
  """
  text, count = batch.texts[index], int(batch.mask[index].sum())
  spans = [(int(start), int(end)) for start, end in batch.spans[index, :count]]
  special = batch.special[index, :count]
  words = word_spans(text)
  owners = words_of_tokens(spans, words)
  owners = _joined(_joined(owners[::-1], special[::-1])[::-1], special)
  groups: dict[tuple[bool, int], list[int]] = {}
  for place, word in enumerate(owners):
    groups.setdefault((True, place) if word < 0 else (False, word), []).append(place)
  result = []
  for (alone, key), places in groups.items():
    if alone:
      span, shown = None, batch.tokens[index][key]
    else:
      span = words[key]
      shown = text[slice(*span)]
    total = float(np.sum(scores[places], dtype=np.float64))
    unknown = batch.unknown is not None and bool(batch.unknown[index, places].any())
    result.append(Word(shown, span, total, tuple(places), unknown))
  return result


def _joined(owners: Sequence[int], special: np.ndarray) -> list[int]:
  """Assigns tokens without a word, unless special, the word of the token before them."""
  found: list[int] = []
  for owner, alone in zip(owners, special, strict=True):
    free = owner < 0 and not alone and found
    found.append(found[-1] if free else owner)
  return found


def strongest(words: Sequence[Word], most: int = 5) -> str:
  """Returns the words of a text that contribute most, for or against, as a line."""
  chosen = sorted(words, key=lambda word: -abs(word.contribution))[:most]
  return ", ".join(
    f"{word.text}{' (unknown)' if word.unknown else ''} {word.contribution:+.3f}" for word in chosen
  )

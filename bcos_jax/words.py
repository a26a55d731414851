"""From tokens back to words: what belongs together in the text that a person wrote."""

from __future__ import annotations

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
    special: Whether a token is no part of the text, such as [CLS] and [SEP], bool [N, L]; padding
      is special, too.
    spans: First and past-the-last character of each token, int32 [N, L, 2]; equal for special
      ones.
    tokens: The tokens as strings, N tuples of their own lengths.
    dropped: Tokens that truncation cut off, int [N].
  """

  texts: tuple[str, ...]
  ids: np.ndarray
  mask: np.ndarray
  special: np.ndarray
  spans: np.ndarray
  tokens: tuple[tuple[str, ...], ...]
  dropped: np.ndarray

  def __len__(self) -> int:
    return len(self.texts)


@dataclasses.dataclass(frozen=True)
class Word:
  """What a word of a text contributed.

  Attributes:
    text: The word, or the special token.
    span: Its first and past-the-last character; None for a special token.
    contribution: The sum over its tokens.
    tokens: Their places.
  """

  text: str
  span: Span | None
  contribution: float
  tokens: tuple[int, ...]


def word_spans(text: str) -> list[Span]:
  """Returns where the words of a text are; punctuation marks are words of their own."""
  return [match.span() for match in _WORD.finditer(text)]


def words_of_tokens(spans: Sequence[Span], words: Sequence[Span]) -> list[int]:
  """Returns the index of each token's word; -1 for tokens that cover none, as special ones.

  A token that covers several belongs to the one with which it shares most characters, the first
  of equal ones.
  """
  found = []
  for start, end in spans:
    shared = [min(end, stop) - max(start, begin) for begin, stop in words]
    best = max(range(len(words)), key=lambda k: (shared[k], -k), default=-1)
    found.append(best if best >= 0 and shared[best] > 0 else -1)
  return found


def merged(batch: TextBatch, index: int, scores: np.ndarray) -> list[Word]:
  """Sums the scores of a text's tokens over its words, in reading order.

  Args:
    batch: The texts.
    index: Which of them.
    scores: [L], one per token.

  Returns:
    Words; special tokens are words of their own, as are tokens that cover no word.
  """
  text, count = batch.texts[index], int(batch.mask[index].sum())
  spans = [(int(start), int(end)) for start, end in batch.spans[index, :count]]
  words = word_spans(text)
  groups: dict[tuple[str, int], list[int]] = {}
  for place, word in enumerate(words_of_tokens(spans, words)):
    groups.setdefault(("token", place) if word < 0 else ("word", word), []).append(place)
  result = []
  for (kind, key), places in groups.items():
    span = words[key] if kind == "word" else spans[key]
    special = kind == "token" and bool(batch.special[index, key])
    shown = batch.tokens[index][key] if kind == "token" else text[slice(*span)]
    total = float(np.sum(scores[places], dtype=np.float64))
    result.append(Word(shown, None if special else span, total, tuple(places)))
  return result

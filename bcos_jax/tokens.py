"""Texts as rows of token ids, and back from tokens to words.

```python
source = read_tokenizer("tokenizers/reviews")
read = tokenize(source, ["a lovely film", "not so bad"])
read.ids, read.mask                      # what a network takes, [N, L]
merge_words(scores, read.words)          # scores of tokens -> one array of scores per text
```
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from .errors import InputError, unknown_name

WORDS = ("tokenizer", "space")


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Texts as a network reads them.

  Attributes:
    texts: The texts.
    ids: int32 [N, L], filled up with the padding id at the end.
    mask: bool [N, L], True on every token, special ones included.
    words: int32 [N, L], the number of each token's word in its text; -1 on special tokens and
      padding.
    offsets: int32 [N, L, 2], where each token is in its text, (begin, end) in characters; (0, 0)
      on special tokens and padding.
    truncated: Number of texts whose end was cut off.
  """

  texts: tuple[str, ...]
  ids: np.ndarray
  mask: np.ndarray
  words: np.ndarray
  offsets: np.ndarray
  truncated: int

  def spelled(self) -> list[list[str]]:
    """Returns the words of each text, as they are written in it."""
    return [
      _spelled(text, words, offsets)
      for text, words, offsets in zip(self.texts, self.words, self.offsets, strict=True)
    ]


def read_tokenizer(folder: str | os.PathLike) -> Any:
  """Returns the tokenizer of a folder, as transformers reads it. Nothing is downloaded.

  Raises:
    InputError: There is no such folder, or no tokenizer in it.
  """
  if not pathlib.Path(folder).is_dir():
    raise InputError(
      f"No folder at {os.fspath(folder)!r}, expected one with a tokenizer.",
      "Give the folder that has tokenizer.json, or the tokenizer's other files.",
    )
  from transformers import AutoTokenizer

  try:
    return AutoTokenizer.from_pretrained(os.fspath(folder), local_files_only=True)
  except Exception as error:  # whatever damaged files and missing packages make of it
    raise InputError(
      f"{os.fspath(folder)!r} holds no tokenizer that transformers can read: "
      f"{' '.join(str(error).split())[:200]}",
      "Give the folder that has tokenizer.json; tokenizers of SentencePiece files (spiece.model) "
      "also need `pip install sentencepiece`.",
    ) from error


def tokenize(
  source: Any,
  texts: Sequence[str],
  *,
  length: int | None = None,
  truncate: bool = False,
  words: str = "tokenizer",
) -> Tokens:
  """Turns texts into rows of one length, that of the longest.

  Args:
    source: A fast tokenizer of transformers.
    texts: The texts.
    length: Most tokens of a text, special ones included; None for no limit.
    truncate: Cuts longer texts, their special tokens kept, instead of refusing them.
    words: What a word is: 'tokenizer', as it cuts texts before it looks for word-pieces, so that
      punctuation stands by itself; or 'space', whatever stands between spaces.

  Raises:
    InputError: No texts, an empty one, one that is too long, or a slow tokenizer.
  """
  if words not in WORDS:
    raise unknown_name("kind of words", words, WORDS)
  if not getattr(source, "is_fast", False):
    raise InputError(
      f"A {type(source).__name__} does not say where its tokens are in a text.",
      "Use a folder with tokenizer.json.",
    )
  texts = check_texts(texts)
  if length is not None and length < 1:
    raise InputError(f"length={length}, expected at least 1.", "Give None for no limit.")
  full = source(list(texts), return_offsets_mapping=True, add_special_tokens=True, verbose=False)
  long = [i for i, ids in enumerate(full["input_ids"]) if length and len(ids) > length]
  if long and not truncate:
    raise InputError(
      f"Text {long[0]} ({short(texts[long[0]])}) has {len(full['input_ids'][long[0]])} tokens, "
      f"expected at most {length}.",
      "Shorten it, or set truncate=True to have its end cut off.",
    )
  if long:
    full = source(
      list(texts), return_offsets_mapping=True, truncation=True, max_length=length, verbose=False
    )
  return _padded(source, texts, full, words, len(long))


def _padded(source: Any, texts: tuple[str, ...], full: Any, kind: str, truncated: int) -> Tokens:
  rows = full["input_ids"]
  bare = [i for i, row in enumerate(rows) if not row]
  if bare:
    raise InputError(f"Text {bare[0]} ({short(texts[bare[0]])}) has no tokens.", "Leave it out.")
  shape = (len(rows), max(map(len, rows)))
  pad = 0 if source.pad_token_id is None else source.pad_token_id
  ids = np.full(shape, pad, np.int32)
  mask, words = np.zeros(shape, bool), np.full(shape, -1, np.int32)
  offsets = np.zeros((*shape, 2), np.int32)
  for i, row in enumerate(rows):
    ids[i, : len(row)], mask[i, : len(row)] = row, True
    offsets[i, : len(row)] = full["offset_mapping"][i]
    own = [-1 if word is None else word for word in full.word_ids(i)]
    words[i, : len(row)] = own
    offsets[i, : len(row)][words[i, : len(row)] < 0] = 0
    if kind == "space":
      words[i] = np.where(words[i] < 0, -1, _by_space(texts[i])[offsets[i, :, 0]])
  return Tokens(texts, ids, mask, words, offsets, truncated)


def _by_space(text: str) -> np.ndarray:
  """Returns the number of the word that each character is in; of a space, that of the next."""
  gaps = np.array([character.isspace() for character in text + " "])
  begins = ~gaps & np.concatenate([[True], gaps[:-1]])
  numbers = np.cumsum(begins) - 1
  return np.maximum(np.where(gaps, numbers + 1, numbers), 0)


def check_texts(texts: Sequence[str]) -> tuple[str, ...]:
  """Returns texts as a tuple, or raises InputError if there are none or one is empty."""
  check_list(texts)
  check_filled([text.strip() for text in texts], texts)
  return tuple(texts)


def check_list(texts: Sequence[str]) -> None:
  """Raises InputError unless texts are a list of at least one string."""
  if isinstance(texts, str) or not len(texts) or not all(isinstance(t, str) for t in texts):
    raise InputError(
      f"The texts are {texts!r:.80}, expected a list of at least one text.",
      "Give a list of strings, also for a single text.",
    )


def check_filled(cleaned: Sequence[str], texts: Sequence[str]) -> None:
  """Raises InputError if nothing is left of a text in its cleaned form."""
  for i, text in enumerate(cleaned):
    if not text:
      raise InputError(
        f"Text {i} ({short(texts[i])}) is empty, expected words.",
        "Leave it out, or write words.",
      )


def padded_length(needed: int, longest: int, least: int = 16) -> int:
  """Returns a length to pad to: the next power of two from `least` on, but `longest` at most.

  So a network is compiled for few shapes.
  """
  return min(1 << (max(needed, least) - 1).bit_length(), longest)


def short(text: str) -> str:
  """Returns a text's beginning, quoted."""
  return repr(text if len(text) <= 40 else f"{text[:39]}…")


def merge_words(scores: np.ndarray, words: np.ndarray) -> list[np.ndarray]:
  """Adds the scores of each word's tokens.

  Args:
    scores: [N, L].
    words: int [N, L], the number of each token's word, -1 for none.

  Returns:
    For each text, float64 [words]. What tokens of no word have is left out: special tokens are
    parts of the sum to be shown by name.

  Raises:
    InputError: Shapes that differ.
  """
  scores, words = np.asarray(scores), np.asarray(words)
  if scores.ndim != 2 or scores.shape != words.shape:
    raise InputError(
      f"The scores have shape {scores.shape}, the words {words.shape}; expected the same [N, L].",
      "Give one number of a word per token.",
    )
  return [
    np.bincount(own[own >= 0], row[own >= 0].astype(np.float64), minlength=own.max(initial=-1) + 1)
    for row, own in zip(scores, words, strict=True)
  ]


def marked_tokens(tokens: Tokens, spans: Sequence[np.ndarray]) -> np.ndarray:
  """Returns which tokens touch marked parts of their texts, bool [N, L].

  Args:
    tokens: Of N texts.
    spans: For each text, int [S, 2]: (begin, end) in characters, the end exclusive.

  Raises:
    InputError: Not one set of spans per text, or a span outside of its text.
  """
  if len(spans) != len(tokens.texts):
    raise InputError(
      f"{len(spans)} sets of spans for {len(tokens.texts)} texts.", "Give one set per text."
    )
  marked = np.zeros(tokens.ids.shape, bool)
  for i, (own, text) in enumerate(zip(spans, tokens.texts, strict=True)):
    begin, end = tokens.offsets[i].T
    for first, last in np.reshape(own, (-1, 2)).tolist():
      if not 0 <= first < last <= len(text):
        raise InputError(
          f"Span ({first}, {last}) of text {i}, expected begin < end within 0 to {len(text)}.",
          "Count characters of the text that was tokenized.",
        )
      marked[i] |= (tokens.words[i] >= 0) & (begin < last) & (end > first)
  return marked


def _spelled(text: str, words: np.ndarray, offsets: np.ndarray) -> list[str]:
  spelled = []
  for word in range(words.max(initial=-1) + 1):
    own = offsets[words == word]
    spelled.append(text[own[:, 0].min() : own[:, 1].max()].strip() if len(own) else "")
  return spelled

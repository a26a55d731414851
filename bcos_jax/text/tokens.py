"""Batches of token ids, with the tokens of each word and of marked spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .tokenizer import short
from .words import TextBatch, word_spans, words_of_tokens


def tokenize(
  source: Any,
  texts: Sequence[str],
  *,
  length: int | None = None,
  truncate: bool = False,
  pad: int | None = None,
) -> TextBatch:
  """Returns texts as tokens, padded to the longest.

  Args:
    source: A fast tokenizer of transformers.
    texts: The texts.
    length: Most tokens of a text, special ones included; None for no limit.
    truncate: Cuts longer texts, their special tokens kept, instead of refusing them.
    pad: Id that fills short texts; None takes the tokenizer's, or 0 where it has none.

  Raises:
    InputError: No texts, an empty one, one of special tokens only, one that is too long, or a slow
      tokenizer.
  """
  if not getattr(source, "is_fast", False):
    raise InputError(
      f"A {type(source).__name__} does not return the positions of its tokens in a text.",
      "Use a tokenizer with a tokenizer.json.",
    )
  check_texts(texts)
  if length is not None and length < 1:
    raise InputError(f"length is {length}, expected at least 1.", "Use None for no limit.")
  options = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "verbose": False}
  rows = source(list(texts), **options)
  counts = np.array([len(ids) for ids in rows["input_ids"]])
  if length is not None and (counts > length).any():
    if not truncate:
      index = int(np.argmax(counts > length))
      raise InputError(
        f"Text {index} ({short(texts[index])}) has {counts[index]} tokens, expected at most "
        f"{length}.",
        "Shorten it, or set truncate=True.",
      )
    rows = source(list(texts), truncation=True, max_length=length, **options)
    if (least := max(map(len, rows["input_ids"]))) > length:
      raise InputError(
        f"length is {length}, expected at least {least}, the tokens that every text has.",
        "Leave room for the special tokens and at least one word.",
      )
  if pad is None:
    pad = int(source.pad_token_id or 0)
  batch = _padded(source, texts, rows, counts, pad)
  bare = batch.special.all(axis=1)
  if bare.any():
    index = int(np.argmax(bare))
    raise InputError(
      f"Text {index} ({short(texts[index])}) has special tokens only, expected words.",
      "Remove it, or write some text.",
    )
  return batch


def check_texts(texts: Sequence[str]) -> None:
  """Raises InputError unless texts are a list of strings, none of them empty."""
  if isinstance(texts, str) or not len(texts) or not all(isinstance(t, str) for t in texts):
    raise InputError(
      f"The texts are {texts!r:.80}, expected a list of at least one text.",
      "Give a list of strings, also for a single text.",
    )
  for index, text in enumerate(texts):
    if not text.strip():
      raise InputError(f"Text {index} ({short(text)}) is empty, expected words.", "Remove it.")


def special_ids(source: Any) -> list[int]:
  """Returns the ids that are special even where a text contains their spelling.

  A hidden word and an unknown one are part of a text, unless the same id ends texts.
  """
  words = {source.mask_token_id, source.unk_token_id}
  ends = {source.eos_token_id, source.bos_token_id, source.sep_token_id}
  return sorted(set(source.all_special_ids) - (words - ends))


def word_numbers(batch: TextBatch) -> np.ndarray:
  """Returns the number of each token's word in its text, int32 [N, L].

  -1 for special tokens, padding and tokens that cover no word.
  """
  numbers = np.full(batch.ids.shape, -1, np.int32)
  for own, text, spans, special in zip(
    numbers, batch.texts, batch.spans, batch.special, strict=True
  ):
    own[:] = words_of_tokens([tuple(span) for span in spans.tolist()], word_spans(text))
    own[special] = -1
  return numbers


def marked_tokens(batch: TextBatch, spans: Sequence[np.ndarray]) -> np.ndarray:
  """Returns which tokens touch marked parts of their texts, bool [N, L].

  Args:
    batch: N texts.
    spans: For each text, int [S, 2]: (begin, end) in characters, the end exclusive.

  Raises:
    InputError: Not one set of spans per text, or a span outside of its text.
  """
  if len(spans) != len(batch):
    raise InputError(
      f"{len(spans)} sets of spans for {len(batch)} texts.", "Give one set per text."
    )
  marked = np.zeros(batch.ids.shape, bool)
  for i, (own, text) in enumerate(zip(spans, batch.texts, strict=True)):
    begin, end = batch.spans[i].T
    for first, last in np.reshape(own, (-1, 2)).tolist():
      if not 0 <= first < last <= len(text):
        raise InputError(
          f"Span ({first}, {last}) of text {i}, expected begin < end within 0 to {len(text)}.",
          "Count characters of the text that was tokenized.",
        )
      marked[i] |= (begin < end) & (begin < last) & (end > first)
  return marked


def padded_length(needed: int, longest: int, least: int = 16) -> int:
  """Returns a length to pad to: the next power of two from `least` on, but `longest` at most.

  So a network is compiled for few shapes.
  """
  return min(1 << (max(needed, least) - 1).bit_length(), longest)


def _padded(
  source: Any, texts: Sequence[str], rows: Any, counts: np.ndarray, pad: int
) -> TextBatch:
  length = max(map(len, rows["input_ids"]))
  shape = (len(texts), length)
  ids = np.full(shape, pad, np.int32)
  mask, special = np.zeros(shape, np.int32), np.ones(shape, bool)
  spans = np.zeros((*shape, 2), np.int32)
  marks = special_ids(source)
  for i, own in enumerate(rows["input_ids"]):
    size = len(own)
    ids[i, :size], mask[i, :size] = own, 1
    special[i, :size] = np.asarray(rows["special_tokens_mask"][i], bool) | np.isin(own, marks)
    spans[i, :size] = np.where(special[i, :size, None], 0, rows["offset_mapping"][i])
  tokens = tuple(tuple(source.convert_ids_to_tokens(own)) for own in rows["input_ids"])
  return TextBatch(
    texts=tuple(texts),
    ids=ids,
    mask=mask,
    special=special,
    spans=spans,
    tokens=tokens,
    dropped=counts - mask.sum(axis=1),
    unknown=~special & (ids == (-1 if source.unk_token_id is None else source.unk_token_id)),
  )

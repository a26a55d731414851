"""The input pipeline of texts: padded token batches, a pure function of the step.

Which texts are in the batch of a step, how they are padded and what is hidden of them depends on
the seed and on the step alone, so a run resumes by starting at its step, on any number of
processes, as with pictures (`pipeline`).

Texts of like length share a batch: of `_POOL` batches' texts, as they come in random order, the
shortest make one batch, the next ones another, and these batches come in random order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import sys
from typing import Any

import grain
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.text.tokens import padded_length, tokenize

from ..pipeline import check_split, read
from . import masking
from .sources import TextDataset

Batch = dict[str, np.ndarray]
Change = Callable[[Batch, np.random.Generator], Batch]

_POOL = 50
_CHUNK = 1000
MOST_CHARACTERS = 4_000_000
"""Of a chunk's texts, each counted at the length of the longest: they are padded temporarily."""


class TextExamples:
  """Tokenized texts, in memory.

  Attributes:
    dataset: The texts.
    pad_id: Fills batches up.
    lengths: Number of tokens of each text, int [N].
    longest: Of all.
    truncated: Number of texts whose end was cut off.
  """

  def __init__(
    self, dataset: TextDataset, tokenizer: Any, *, length: int | None, truncate: bool = False
  ):
    """Tokenizes all texts.

    Args:
      dataset: The texts.
      tokenizer: A fast tokenizer of transformers.
      length: Most tokens of a text; None for no limit.
      truncate: Cuts longer texts instead of refusing them.

    Raises:
      InputError: See `tokens.tokenize`.
    """
    self.dataset = dataset
    self.pad_id = tokenizer.pad_token_id or 0
    rows, self.truncated = [], 0
    for start, stop in chunks(dataset.texts):
      chunk = list(dataset.texts[start:stop])
      try:
        read_in = tokenize(tokenizer, chunk, length=length, truncate=truncate)
      except InputError as error:
        where = f"{dataset.name}, texts from {start} on: {error.cause}"
        raise InputError(where, error.fix) from error
      rows += [ids[mask > 0] for ids, mask in zip(read_in.ids, read_in.mask, strict=True)]
      self.truncated += int((read_in.dropped > 0).sum())
    self.lengths = np.array([len(row) for row in rows])
    self.longest = int(self.lengths.max())
    self._starts = np.cumsum([0, *self.lengths])
    self._ids = np.concatenate(rows).astype(np.int32)  # one array: lists of arrays are large

  def __len__(self) -> int:
    return len(self.lengths)

  def __getitem__(self, index: Any) -> np.ndarray:
    """Returns the ids of a text, int32 [L]."""
    return self._ids[self._starts[index] : self._starts[index + 1]]

  def batch(self, rows: np.ndarray) -> Batch:
    """Returns texts as {"ids": int32 [B, L], "mask": bool [B, L], "label": int32 [B]}.

    L is the longest text's length, rounded up to a power of two; "label" is left out without
    labels.
    """
    length = padded_length(int(self.lengths[rows].max()), self.longest)
    ids = np.full((len(rows), length), self.pad_id, np.int32)
    for line, row in zip(ids, rows, strict=True):
      line[: self.lengths[row]] = self[row]
    batch = {"ids": ids, "mask": np.arange(length) < self.lengths[rows][:, None]}
    labels = self.dataset.labels
    return batch if labels is None else batch | {"label": labels[rows]}


def chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
  """Yields (begin, end) of texts that are tokenized together."""
  begin = longest = 0
  for index, text in enumerate(texts):
    longest = max(longest, len(text))
    count = index + 1 - begin
    if count > 1 and (count > _CHUNK or count * longest > MOST_CHARACTERS):
      yield begin, index
      begin, longest = index, len(text)
  yield begin, len(texts)


class Order:
  """Which texts are in the batch of each step; a pure function of seed and step."""

  def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
    """Takes the length of each text, [N]."""
    self._lengths, self._size, self._seed = lengths, batch_size, seed
    self._last: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

  def __call__(self, step: int) -> np.ndarray:
    """Returns the numbers of the texts in a step's batch, int [batch_size]."""
    pool, within = divmod(step, _POOL)
    last, batches = self._last  # One read of both: threads share this.
    if last != pool:
      batches = self._pool(pool)
      self._last = pool, batches
    return batches[within]

  def _pool(self, pool: int) -> np.ndarray:
    count, each = len(self._lengths), self._size * _POOL
    rows, first = [], pool * each
    for epoch in range(first // count, (first + each - 1) // count + 1):
      order = np.random.default_rng((self._seed, 0, epoch)).permutation(count)
      begin = epoch * count
      rows.append(order[max(first - begin, 0) : first + each - begin])
    drawn = np.concatenate(rows)
    drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")].reshape(_POOL, self._size)
    return np.random.default_rng((self._seed, 1, pool)).permutation(drawn)


def text_batches(
  examples: TextExamples,
  *,
  batch_size: int,
  seed: int,
  change: Change | None = None,
  start_step: int = 0,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns this process's endless batches, each text once per epoch.

  Args:
    examples: The texts.
    batch_size: Of all processes together.
    seed: Of the order, and of `change`.
    change: What is made of a batch of all processes, such as `masking.HideTokens` and
      `masking.next_tokens`; None for batches as `TextExamples.batch` gives them.
    start_step: The first batch is that of this step.
    workers: Processes that make batches; 0 makes them in threads of this one.
    process_index: Number of this process.
    process_count: Number of processes.

  Returns:
    Batches of batch_size / process_count rows; all processes' are of one length. Close its
    iterators.

  Raises:
    InputError: The batch does not split.
  """
  order = Order(examples.lengths, batch_size, seed)
  return _batches(
    lambda step: examples.batch(order(step)),
    change,
    batch_size,
    seed,
    start_step,
    workers,
    process_index,
    process_count,
  )


def packed_batches(
  examples: TextExamples,
  *,
  length: int,
  end: int,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns this process's endless batches of next tokens, without padding.

  In each epoch the texts are joined in another order and cut into rows, see `masking.pack`. Other
  arguments as for `text_batches`.

  Args:
    length: Of the rows.
    end: Id of the token that ends each text.

  Returns:
    Batches {"ids", "mask", "labels", "weights"}, see `masking.next_tokens`.

  Raises:
    InputError: The batch does not split, or there is too little text.
  """
  packed = _Packed(examples, length, end, seed)

  def batch(step: int) -> Batch:
    ids = np.stack([packed(i) for i in range(step * batch_size, (step + 1) * batch_size)])
    return {"ids": ids, "mask": np.ones(ids.shape, bool)}

  change = masking.next_tokens
  return _batches(
    batch, change, batch_size, seed, start_step, workers, process_index, process_count
  )


class _Packed:
  """The i-th row of an endless stream of packed rows."""

  def __init__(self, examples: TextExamples, length: int, end: int, seed: int):
    self._examples, self._length, self._end, self._seed = examples, length, end, seed
    self._last: tuple[int, np.ndarray] = (0, self._epoch(0))
    self._count = len(self._last[1])

  def __call__(self, index: int) -> np.ndarray:
    epoch, within = divmod(index, self._count)
    last, rows = self._last
    if last != epoch:
      rows = self._epoch(epoch)
      self._last = epoch, rows
    return rows[within]

  def _epoch(self, epoch: int) -> np.ndarray:
    order = np.random.default_rng((self._seed, epoch)).permutation(len(self._examples))
    return masking.pack([self._examples[i] for i in order], self._length, self._end)


def eval_text_batches(
  examples: TextExamples,
  *,
  batch_size: int,
  change: Change | None = None,
  seed: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns this process's batches of one pass over all texts, from the shortest to the longest.

  Every process gets equally many batches of equal shapes: the last is filled up by texts that
  count 0.

  Returns:
    Batches as `text_batches` gives them, with "counts" float32 [B], 0 on what fills up, and
    "index" int32 [B], the number of each text.
  """
  count = len(examples)
  order = np.argsort(examples.lengths, kind="stable")

  def batch(step: int) -> Batch:
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    rows = order[np.minimum(places, count - 1)]
    counts = (places < count).astype(np.float32)
    return examples.batch(rows) | {"counts": counts, "index": rows.astype(np.int32)}

  return _batches(
    batch, change, batch_size, seed, 0, 0, process_index, process_count, -(-count // batch_size)
  )


def _batches(
  make: Callable[[int], Batch],
  change: Change | None,
  batch_size: int,
  seed: int,
  start_step: int,
  workers: int,
  process_index: int,
  process_count: int,
  count: int = sys.maxsize // 2,
) -> grain.IterDataset:
  check_split(batch_size, process_count)

  def load(step: int) -> Batch:
    batch = make(step)
    if change is not None:
      batch = change(batch, np.random.default_rng((seed, 2, step)))
    return {name: values[process_index::process_count] for name, values in batch.items()}

  return read(grain.MapDataset.range(count).map(load)[start_step:], workers)

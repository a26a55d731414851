"""The input pipeline: batches whose order is a pure function of the step.

The i-th training example of a run depends on the seed and on i alone, so a run resumes by
starting at i = step * batch_size, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import io
import sys
from typing import Any, Protocol
import warnings

from absl import flags
import grain
import numpy as np
from PIL import Image

from bcos_jax.batches import check_picture_batch
from bcos_jax.errors import InputError, RunError
from bcos_jax.inputs import Preprocess

from .folders import class_weights
from .sources import Dataset

Example = dict[str, Any]

_MOST_DAMAGED_IN_A_ROW = 100
_REPEATED_MULTIPLE = 256

# Grain's worker processes read absl flags and fail if they are not parsed; programs with another
# command line never do.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


class BatchIterator(Iterator[dict[str, np.ndarray]], Protocol):
  """An iterator that has to be closed, which ends the processes that read for it."""

  def close(self) -> None: ...


class Batches(Protocol):
  """What makes such iterators."""

  def __iter__(self) -> BatchIterator: ...


class Examples:
  """Random access to decoded examples: {"image", "label", "damaged": int32 0 or 1}.

  A label is int32 [], or float32 [C] of 0s and 1s where pictures may have several.

  Attributes:
    dataset: Encoded examples.
    prepare: From a PIL picture to the image; a `Preprocess` (float32 [H, W, C] in [0, 1]) or the
      first half of an augmentation.
    keep: Whether to keep decoded examples in memory; for small data sets.
    extras: What else each example has, by key: arrays [N, ...], such as its captions' token ids.
    skip_damaged: What to do where a picture cannot be read: put the next readable example in its
      place, mark it as damaged and warn once, or raise InputError. Where the file itself cannot
      be reached it is RunError in either case.
  """

  def __init__(
    self,
    dataset: Dataset,
    prepare: Callable[[Image.Image], Any],
    *,
    keep: bool = False,
    skip_damaged: bool = False,
    extras: Mapping[str, np.ndarray] | None = None,
  ):
    self.dataset = dataset
    self.prepare = prepare
    self.keep = keep
    self.skip_damaged = skip_damaged
    self.extras = dict(extras or {})
    self._kept: dict[int, Example] = {}

  @property
  def preprocess(self) -> Preprocess:
    """`prepare`, where it is the whole way to the image, as in evaluations."""
    assert isinstance(self.prepare, Preprocess), "an augmentation has not made its images yet"
    return self.prepare

  def __len__(self) -> int:
    return len(self.dataset)

  def __getitem__(self, index: Any) -> Example:
    if index in self._kept:
      return dict(self._kept[index])
    example = self._readable(index)
    if self.keep:
      self._kept[index] = example
    return dict(example)

  def _readable(self, index: int) -> Example:
    for attempt in range(min(_MOST_DAMAGED_IN_A_ROW, len(self))):
      try:
        example = self._decode((index + attempt) % len(self))
      except InputError as error:
        if not self.skip_damaged:
          raise
        # Python shows a warning once per place, so one line however many are damaged.
        warnings.warn(f"{error.cause} It and any further ones are skipped.", stacklevel=2)
      else:
        return example | {"damaged": np.int32(attempt > 0)}
    raise InputError(
      f"{_MOST_DAMAGED_IN_A_ROW} examples of {self.dataset.name} in a row, from {index} on, cannot "
      "be read.",
      "Prepare the data set again.",
    )

  def _decode(self, index: int) -> Example:
    name = ""
    try:
      record = self.dataset.source[index]
      name = f" ({record['name']!r})" if "name" in record else ""
      image = self.prepare(Image.open(io.BytesIO(record["image"])))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
      if isinstance(error, OSError) and error.errno is not None:  # PIL's own have none.
        raise RunError(
          f"Example {index}{name} of {self.dataset.name} cannot be accessed: {error}.",
          "Restore the data to where they were at the start, then run the same command to "
          "continue.",
        ) from error
      raise InputError(
        f"Example {index}{name} of {self.dataset.name} is not a picture that can be read: {error}.",
        "Prepare the data set again, or skip such examples with --config.data.damaged=skip.",
      ) from error
    kind = np.float32 if self.dataset.multi_label else np.int32
    extras = {key: array[index] for key, array in self.extras.items()}
    return {"image": image, "label": kind(record["label"]), **extras}


def train_batches(
  examples: Examples,
  augment: Callable[[Any, np.random.Generator], np.ndarray],
  *,
  batch_size: int,
  seed: int,
  mix: Callable[[Example, np.random.Generator], Example] | None = None,
  repeats: int = 1,
  balance: float = 0.0,
  start_step: int = 0,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns this process's endless batches, each example once per epoch.

  Args:
    examples: Prepared examples.
    augment: (prepared image, generator) -> float32 [H, W, C]; see data/augment.py.
    batch_size: Of all processes together.
    seed: Of order and augmentation.
    mix: Blends the examples of each of this process's batches; see data/mix.py.
    repeats: Repeated augmentation (arXiv 1902.05509): each example comes this many times in a
      row, differently augmented, and an epoch has as many examples as before, less a remainder
      of 256 (as in B-cos v2's sampler).
    balance: 0 draws every picture equally often, 1 every class, and 0.5 lies between; see
      `folders.class_weights`. What an epoch draws differs by at most one from the exact share.
    start_step: The first batch is that of this step.
    workers: Processes that decode; 0 decodes in threads of this one.
    process_index: Number of this process.
    process_count: Number of processes.

  Returns:
    Batches {"image": float32 [n, H, W, C], "label": int32 [n] (or float32 [n, C]), or as `mix`
    makes it, "damaged": int32 [n]}, n = batch_size / process_count. Close its iterators.

  Raises:
    InputError: The batch does not split, or the labels that `balance` needs are not known.
  """
  if balance:
    ds = _balanced(examples, balance, seed).seed(seed)
  else:
    ds = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
  if repeats > 1:
    ds = _repeated(ds, len(examples), repeats).seed(seed)
  # Before the slice: a random map's generator is numbered by position, and after the slice the
  # positions would be those of one process.
  ds = ds.random_map(lambda example, rng: example | {"image": augment(example["image"], rng)})
  ds = _share(ds, batch_size, process_index, process_count)
  if mix is not None:
    ds = ds.random_map(mix)
  return read(ds[start_step:], workers)


def order(
  examples: Examples,
  *,
  batch_size: int,
  seed: int,
  step: int,
  repeats: int = 1,
  balance: float = 0.0,
) -> list[int]:
  """Returns the numbers of the examples in one of `train_batches`' batches, of all processes.

  Args:
    examples: As for `train_batches`, like the others.
    batch_size: Of all processes together.
    seed: Of the order.
    step: Of the batch, from 0.
    repeats: Of each example.
    balance: Of the classes.
  """
  if balance:
    ds: Any = grain.MapDataset.range(sys.maxsize // 2).map(_draw(examples, balance, seed))
  else:
    ds = grain.MapDataset.source(range(len(examples))).seed(seed).shuffle().repeat()
  if repeats > 1:
    ds = _repeated(ds, len(examples), repeats)
  return [int(ds[i]) for i in range(step * batch_size, (step + 1) * batch_size)]


def _repeated(ds: Any, count: int, repeats: int) -> grain.MapDataset:
  epoch = max(count // _REPEATED_MULTIPLE * _REPEATED_MULTIPLE, min(count, _REPEATED_MULTIPLE))

  def source(position: int) -> Example:
    number, within = divmod(position, epoch)
    return ds[number * count + within // repeats]

  return grain.MapDataset.range(sys.maxsize // 2).map(source)


def _balanced(examples: Examples, balance: float, seed: int) -> grain.MapDataset:
  draw = _draw(examples, balance, seed)
  return grain.MapDataset.range(sys.maxsize // 2).map(lambda i: examples[draw(i)])


def _draw(examples: Examples, balance: float, seed: int) -> Draw:
  if examples.dataset.labels is None or balance < 0:
    raise InputError(
      f"data.balance={balance} for {examples.dataset.name}; expected a number >= 0, and a folder of"
      " pictures.",
      "Set --config.data.balance=0.",
    )
  return Draw(class_weights(examples.dataset.labels, balance), seed)


class Draw:
  """Draws examples by weight; which one comes i-th depends on the seed and on i alone.

  In each epoch of as many draws as there are examples, an example comes floor or ceil of its exact
  share (systematic sampling over a random order), in random order.
  """

  def __init__(self, weights: np.ndarray, seed: int):
    """Takes positive weights float [N]."""
    self._weights, self._seed = weights, seed
    self._last: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

  def __call__(self, position: int) -> int:
    """Returns the number of the example at a position."""
    epoch, within = divmod(position, len(self._weights))
    last, order = self._last  # One read of both: threads share this.
    if last != epoch:
      order = self.epoch(epoch)
      self._last = epoch, order
    return int(order[within])

  def epoch(self, number: int) -> np.ndarray:
    """Returns all examples of an epoch in order, int [N]."""
    rng, count = np.random.default_rng([self._seed, number]), len(self._weights)
    order = rng.permutation(count)
    ends = np.cumsum(self._weights[order])
    points = (np.arange(count) + rng.random()) * (ends[-1] / count)
    drawn = order[np.minimum(np.searchsorted(ends, points, side="right"), count - 1)]
    return rng.permutation(drawn)


def eval_batches(
  examples: Examples,
  *,
  batch_size: int,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns this process's batches of one pass over all examples, in order.

  Every process gets equally many batches of equal shape: the last is filled with black images
  whose mask is 0.

  Args:
    examples: Examples prepared by a `Preprocess`.
    batch_size: Of all processes together.
    workers: As in `train_batches`.
    process_index: Number of this process.
    process_count: Number of processes.

  Returns:
    Batches {"image": float32 [n, H, W, C], "label": int32 [n] (or float32 [n, C]), "mask": float32
    [n], "damaged": int32 [n]}.
    Close its iterators.
  """
  count = len(examples)
  preprocess = examples.preprocess
  shape = (*preprocess.size, preprocess.colors)
  classes = len(examples.dataset.label_names)
  blank = {
    "image": np.zeros(shape, np.float32),
    "label": np.zeros(classes, np.float32) if examples.dataset.multi_label else np.int32(0),
    "damaged": np.int32(0),
    **{key: np.zeros_like(array[0]) for key, array in examples.extras.items()},
  }

  def load(index: int) -> Example:
    example = examples[index] if index < count else blank
    # A damaged example has weight 0, and so has its substitute.
    return example | {"mask": np.float32(index < count and not example["damaged"])}

  ds = grain.MapDataset.range(-(-count // batch_size) * batch_size).map(load)
  return read(_share(ds, batch_size, process_index, process_count), workers)


def batch_of(examples: Examples, model: Any, batch_size: int, multiple: int = 1) -> int:
  """Returns the size of batches of one pass: no larger than all examples take.

  Args:
    examples: What the pass is over.
    model: The network that sees them.
    batch_size: What is asked for.
    multiple: The size is rounded up to one of it, so that devices can share a batch.

  Raises:
    InputError: Such a batch is larger than memory.
  """
  size = max(min(batch_size, len(examples)), 1)
  size = -(-size // multiple) * multiple
  channels = model.ops.encoding.colors + model.ops.encoding.channels
  fix = "Choose a smaller batch size."
  check_picture_batch(size, examples.preprocess.size, channels, fix)
  return size


def to_arrays(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
  """Returns all images, float32 [N, H, W, C], and labels; for small data sets."""
  loaded = [examples[i] for i in range(len(examples))]
  return np.stack([e["image"] for e in loaded]), np.stack([e["label"] for e in loaded])


def _share(
  ds: grain.MapDataset, batch_size: int, process_index: int, process_count: int
) -> grain.MapDataset:
  check_split(batch_size, process_count)
  return ds[process_index::process_count].batch(batch_size // process_count)


def check_split(batch_size: int, process_count: int) -> None:
  """Raises InputError unless a batch is shared equally by processes."""
  if batch_size < 1 or batch_size % process_count:
    raise InputError(
      f"Batch size {batch_size} does not split over {process_count} processes.",
      "Use a multiple of the number of processes.",
    )


def read(ds: grain.MapDataset, workers: int) -> grain.IterDataset:
  """Returns batches as they are read, by threads of this process or by `workers` others."""
  # An element is a whole batch here: a few in flight hide decoding, more only take memory.
  read = ds.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
  return read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else read

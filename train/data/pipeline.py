"""From encoded examples to batches of arrays, in an order that is a pure function of the step.

The i-th training example of a run depends on the seed and on i alone, so a run resumes by
starting at i = step * batch_size, on any number of processes.
"""

from __future__ import annotations

import io
from typing import Any

from absl import flags
import grain
import numpy as np
from PIL import Image

from bcos_jax.errors import InputError
from bcos_jax.inputs import Preprocess

from .augment import Augment
from .sources import Dataset

Example = dict[str, Any]

# Grain's worker processes read absl flags and die if nobody parsed them; programs with another
# command line never do.
if not flags.FLAGS.is_parsed():
  flags.FLAGS.mark_as_parsed()


class Examples:
  """Random access to decoded examples {"image": float32 [H, W, C] in [0, 1], "label": int32}.

  C is 3 for color and 1 for gray, as `preprocess` says.

  Attributes:
    dataset: Encoded examples.
    preprocess: From a picture to an array.
    keep: Whether to keep decoded examples in memory; for small data sets.
  """

  def __init__(self, dataset: Dataset, preprocess: Preprocess, *, keep: bool = False):
    self.dataset = dataset
    self.preprocess = preprocess
    self.keep = keep
    self._kept: dict[int, Example] = {}

  def __len__(self) -> int:
    return len(self.dataset)

  def __getitem__(self, index: int) -> Example:
    if index in self._kept:
      return dict(self._kept[index])
    example = self._decode(index)
    if self.keep:
      self._kept[index] = example
    return dict(example)

  def _decode(self, index: int) -> Example:
    record = self.dataset.source[index]
    try:
      image = self.preprocess(Image.open(io.BytesIO(record["image"])))
    except (OSError, SyntaxError, ValueError) as error:
      raise InputError(
        f"Example {index} of {self.dataset.name} is not a picture that can be read: {error}.",
        "Prepare the data set anew.",
      ) from error
    return {"image": image, "label": np.int32(record["label"])}


def train_batches(
  examples: Examples,
  augment: Augment,
  *,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  workers: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> grain.IterDataset:
  """Returns this process's endless batches, each example once per epoch.

  Args:
    examples: Decoded examples.
    augment: Applied to each image; see data/augment.py.
    batch_size: Of all processes together.
    seed: Of order and augmentation.
    start_step: The first batch is that of this step.
    workers: Processes that decode; 0 decodes in threads of this one.
    process_index: Number of this process.
    process_count: Number of processes.

  Returns:
    Batches {"image": float32 [n, H, W, C], "label": int32 [n]}, n = batch_size / process_count.
    Close its iterators.
  """
  ds = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
  # Before the slice: a random map's generator is numbered by position, and after the slice the
  # positions would be those of one process.
  ds = ds.random_map(lambda example, rng: example | {"image": augment(example["image"], rng)})
  ds = ds[start_step * batch_size :]
  return _read(_share(ds, batch_size, process_index, process_count), workers)


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
    examples: Decoded examples.
    batch_size: Of all processes together.
    workers: As in `train_batches`.
    process_index: Number of this process.
    process_count: Number of processes.

  Returns:
    Batches {"image": float32 [n, H, W, C], "label": int32 [n], "mask": float32 [n]}.
    Close its iterators.
  """
  count = len(examples)
  shape = (*examples.preprocess.size, examples.preprocess.colors)
  blank = {"image": np.zeros(shape, np.float32), "label": np.int32(0)}

  def load(index: int) -> Example:
    example = examples[index] if index < count else blank
    return example | {"mask": np.float32(index < count)}

  ds = grain.MapDataset.range(-(-count // batch_size) * batch_size).map(load)
  return _read(_share(ds, batch_size, process_index, process_count), workers)


def to_arrays(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
  """Returns all images, float32 [N, H, W, C], and labels, int32 [N]; for small data sets."""
  loaded = [examples[i] for i in range(len(examples))]
  return np.stack([e["image"] for e in loaded]), np.stack([e["label"] for e in loaded])


def _share(
  ds: grain.MapDataset, batch_size: int, process_index: int, process_count: int
) -> grain.MapDataset:
  if batch_size < 1 or batch_size % process_count:
    raise InputError(
      f"Batch size {batch_size} does not split over {process_count} processes.",
      "Use a multiple of the number of processes.",
    )
  return ds[process_index::process_count].batch(batch_size // process_count)


def _read(ds: grain.MapDataset, workers: int) -> grain.IterDataset:
  # An element is a whole batch here: a few in flight hide decoding, more only take memory.
  read = ds.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
  return read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else read

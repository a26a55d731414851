"""CIFAR-10 and CIFAR-100 from their official archives, binary or of Python's pickles.

The results have the names, features and keys of TFDS' builders and are read under their names.
Pictures are stored as PNG, pixels unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bcos_jax.convert.array_pickles import read_arrays
from bcos_jax.errors import InputError

from ..digits import png
from . import given, writing
from .opening import Source

VERSION = "3.0.2"
_BYTES = 3 * 32 * 32  # of a picture: all red, all green, all blue values, row by row


@dataclasses.dataclass(frozen=True)
class _Kind:
  """What an archive holds.

  Attributes:
    batches: The files of each split, without their ending, and pictures in each.
    labels: Names of the labels in the order of the binary files, with the file of their names and
      its key in the Python archive.
  """

  batches: dict[str, tuple[tuple[str, ...], int]]
  labels: dict[str, tuple[str, str]]


KINDS = {
  "cifar10": _Kind(
    {
      "train": (tuple(f"data_batch_{i}" for i in range(1, 6)), 10_000),
      "test": (("test_batch",), 10_000),
    },
    {"label": ("batches.meta", "label_names")},
  ),
  "cifar100": _Kind(
    {"train": (("train",), 50_000), "test": (("test",), 10_000)},
    {
      "coarse_label": ("coarse_label_names", "coarse_label_names"),
      "label": ("fine_label_names", "fine_label_names"),
    },
  ),
}
_PYTHON_KEYS = {
  "cifar10": {"label": "labels"},
  "cifar100": {"coarse_label": "coarse_labels", "label": "fine_labels"},
}


def prepare(
  name: str,
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("train", "test"),
  complete: bool = True,
) -> pathlib.Path:
  """Writes CIFAR as array_record; complete or not there.

  Args:
    name: "cifar10" or "cifar100".
    source: cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or those of cifar-100; or a folder that
      one was unpacked to.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train and test to prepare.
    complete: Whether files must have the official number of pictures; otherwise any will do.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: A file is missing, truncated, or not what its name says; labels that are outside of
      the classes; too little space; a folder that cannot be written.
  """
  writing.check_splits(name, splits, KINDS[name].batches)
  with Source(pathlib.Path(source)) as opened:
    names = _label_names(name, opened)
    read = {split: _split(name, opened, split, names, complete) for split in splits}
  features = {
    "id": tfds.features.Text(),
    "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
    **{label: given.class_label(known) for label, known in names.items()},
  }
  with given.unregistered():
    kind = given.builder(name, VERSION, "Small photographs (Krizhevsky, 2009).", features)
  examples = {split: functools.partial(_examples, split, *arrays) for split, arrays in read.items()}
  return writing.write(
    kind,
    lambda folder: kind(read=examples, data_dir=folder, file_format="array_record"),
    data_dir=data_dir,
    splits=splits,
    size=sum(images.nbytes for images, _ in read.values()),
  )


def _examples(
  split: str, images: np.ndarray, labels: dict[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
  for i, image in enumerate(images):
    numbers = {name: int(column[i]) for name, column in labels.items()}
    yield {"id": f"{split}_{i:05}", "image": png(image), **numbers}


def _pickled(source: Source, file: str) -> bool:
  """Whether an archive is the one of Python's pickles."""
  return any(f"/{name}".endswith(f"/{file}") for name in source.names)


def _label_names(name: str, source: Source) -> dict[str, list[str]]:
  first = KINDS[name].batches["test"][0][0]
  pickled = _pickled(source, first)
  if not pickled and not _pickled(source, f"{first}.bin"):
    raise InputError(
      f"{str(source.path)!r} holds neither {first}.bin nor {first}.",
      f"Give --source {name.replace('cifar', 'cifar-')}-binary.tar.gz, or the one of -python.",
    )
  found = {}
  for label, (file, key) in KINDS[name].labels.items():
    if pickled:
      place = source.ending("batches.meta" if name == "cifar10" else "meta")
      held = read_arrays(source.read(place), f"{source.path}: {place}")
      if not isinstance(held, dict) or not isinstance(held.get(key), list):
        raise source.broken(f"it has no {key}", place)
      found[label] = [one if isinstance(one, str) else one.decode() for one in held[key]]
    else:
      place = source.ending(f"{file}.txt")
      found[label] = source.read(place).decode("utf-8", "replace").split()
  for label, known in found.items():
    wanted = {"label": 10 if name == "cifar10" else 100, "coarse_label": 20}[label]
    if len(known) != wanted:
      raise source.broken(f"it names {len(known)} classes, expected {wanted}")
  return found


def _split(
  name: str, source: Source, split: str, names: dict[str, list[str]], complete: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns pictures uint8 [N, 32, 32, 3] and labels int [N] by name."""
  files, count = KINDS[name].batches[split]
  pickled = _pickled(source, files[0])
  parts = [(_from_pickle if pickled else _from_binary)(name, source, file) for file in files]
  for file, (pixels, labels) in zip(files, parts, strict=True):
    if complete and len(pixels) != count:
      raise InputError(
        f"{source.path}: {file} has {len(pixels):,} pictures, the official file {count:,}.",
        "Download it again, or accept it with --any_size.",
      )
    for label, column in labels.items():
      if len(column) and not 0 <= column.min() <= column.max() < len(names[label]):
        raise source.broken(
          f"it has the {label} {column.max()}, expected 0 to {len(names[label]) - 1}", file
        )
  pixels = np.concatenate([pixels for pixels, _ in parts])
  images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return images, {label: np.concatenate([one[label] for _, one in parts]) for label in names}


def _from_binary(name: str, source: Source, file: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  place, labels = source.ending(f"{file}.bin"), tuple(KINDS[name].labels)
  content = np.frombuffer(source.read(place), np.uint8)
  row = len(labels) + _BYTES
  if not len(content) or len(content) % row:
    raise source.broken(f"it has {len(content):,} bytes, no multiple of {row}", place)
  rows = content.reshape(-1, row)
  return rows[:, len(labels) :], {label: rows[:, i].astype(int) for i, label in enumerate(labels)}


def _from_pickle(name: str, source: Source, file: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  place = source.ending(file)
  held = read_arrays(source.read(place), f"{source.path}: {place}")
  pixels = held.get("data") if isinstance(held, dict) else None
  if (
    not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_BYTES,)
  ):
    raise source.broken(f"its data are not uint8 [N, {_BYTES}]", place)
  labels = {}
  for label, key in _PYTHON_KEYS[name].items():
    column = held.get(key)
    listed = column if isinstance(column, list) else []
    if len(listed) != len(pixels) or not all(type(one) is int for one in listed):
      raise source.broken(f"{key} are not {len(pixels)} whole numbers", place)
    labels[label] = np.array(listed, int)
  return pixels, labels

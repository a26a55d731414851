"""EMNIST, handwritten letters and digits, from its official archive of IDX files.

The results have the names, features and keys of TFDS' builder and are read under its names, such
as emnist/letters. As there, pictures lie on their side, as the files have them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import functools
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bcos_jax.errors import InputError, unknown_name

from ..digits import png
from . import given, writing
from .mnist import parse_idx
from .opening import Source

VERSION = "3.1.0"
CONFIGS = {
  "balanced": (47, 112_800, 18_800),
  "byclass": (62, 697_932, 116_323),
  "bymerge": (47, 697_932, 116_323),
  "digits": (10, 240_000, 40_000),
  "letters": (37, 88_800, 14_800),
  "mnist": (10, 60_000, 10_000),
}
"""Classes as TFDS counts them (letters have 1 to 26), and pictures to train and to test."""


def prepare(
  config: str,
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("train", "test"),
  complete: bool = True,
) -> pathlib.Path:
  """Writes a configuration of EMNIST as array_record; complete or not there.

  Args:
    config: One of `CONFIGS`.
    source: The archive gzip.zip, or the folder that it was unpacked to.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train and test to prepare.
    complete: Whether there must be the official number of pictures; otherwise any will do.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: A file is missing, truncated, or not what its name says; labels outside of the
      classes; too little space; a folder that cannot be written.
  """
  if config not in CONFIGS:
    raise unknown_name("configuration of 'emnist'", config, CONFIGS)
  writing.check_splits("emnist", splits, ("train", "test"))
  with Source(pathlib.Path(source)) as opened:
    read = {split: _split(config, opened, split, complete) for split in splits}
  features = {
    "image": tfds.features.Image(shape=(28, 28, 1)),
    "label": tfds.features.ClassLabel(num_classes=CONFIGS[config][0]),
  }
  with given.unregistered():
    text = "Handwritten letters and digits (arXiv 1702.05373)."
    kind = given.builder("emnist", VERSION, text, features, config)
  examples = {split: functools.partial(_examples, *pair) for split, pair in read.items()}
  return writing.write(
    kind,
    lambda folder: kind(read=examples, data_dir=folder, file_format="array_record"),
    data_dir=data_dir,
    splits=splits,
    size=sum(images.nbytes for images, _ in read.values()),
    config=config,
  )


def _split(
  config: str, source: Source, split: str, complete: bool
) -> tuple[np.ndarray, np.ndarray]:
  classes, *counts = CONFIGS[config]
  arrays = []
  for what, axes in (("images-idx3", 3), ("labels-idx1", 1)):
    name = source.ending(f"emnist-{config}-{split}-{what}-ubyte.gz")
    arrays.append(parse_idx(source.read(name), axes, f"{source.path}: {name}"))
  images, labels = arrays
  wanted = counts[split == "test"]
  if images.shape[1:] != (28, 28) or len(images) != len(labels):
    raise source.broken(f"it has pictures {images.shape} and {len(labels)} labels", split)
  if complete and len(images) != wanted:
    raise InputError(
      f"{source.path} has {len(images):,} pictures of {split}, the official archive {wanted:,}.",
      "Download it again, or accept it with --any_size.",
    )
  if len(labels) and labels.max() >= classes:
    raise source.broken(f"it has the label {labels.max()}, expected 0 to {classes - 1}", split)
  return images, labels


def _examples(images: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, Any]]:
  for image, label in zip(images, labels, strict=True):
    yield {"image": png(image), "label": int(label)}

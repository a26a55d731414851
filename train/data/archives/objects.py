"""Pictures with marked objects: Pascal VOC, COCO and ImageNet-S from their official archives.

An example is a picture and one class that it shows, with a mask of the objects of that class, as
the energy pointing game asks (arXiv 2303.11932): a picture with three classes is there three times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import io
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from bcos_jax.errors import InputError

from . import given, writing
from .opening import Source

VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class MarkedPicture:
  """A picture with the objects of one class.

  Attributes:
    name: Of the picture.
    image: Its file.
    label: Number of the class.
    boxes: int [K, 4], (top, left, bottom, right) in pixels, the last two exclusive.
    mask: bool [H, W], the objects; None for the area of the boxes.
  """

  name: str
  image: bytes
  label: int
  boxes: np.ndarray
  mask: np.ndarray | None = None


Reader = Callable[
  [Sequence[Source], str], tuple[Sequence[str], Callable[[], Iterator[MarkedPicture]]]
]
"""(archives, split) -> names of the classes, and what yields the examples."""


def write(
  name: str,
  reader: Reader,
  sources: Sequence[str | os.PathLike],
  *,
  data_dir: str,
  splits: Sequence[str],
) -> pathlib.Path:
  """Writes a data set of marked objects as array_record; complete or not there.

  Args:
    name: Of the data set.
    reader: Of its archives.
    sources: Archives or folders.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which to prepare.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: A file is missing, truncated, or not what its name says; boxes or masks that do not
      fit their picture; too little space; a folder that cannot be written.
  """
  opened = [Source(pathlib.Path(source)) for source in sources]
  try:
    read = {split: reader(opened, split) for split in splits}
    features = {
      "name": tfds.features.Text(),
      "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
      "label": given.class_label(next(iter(read.values()))[0]),
      "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
      "boxes": tfds.features.Sequence(tfds.features.Tensor(shape=(4,), dtype=np.int32)),
    }
    with given.unregistered():
      kind = given.builder(name, VERSION, f"MarkedPicture objects of {name}.", features)
    made = {split: _examples_of(examples) for split, (_, examples) in read.items()}
    return writing.write(
      kind,
      lambda folder: kind(read=made, data_dir=folder, file_format="array_record"),
      data_dir=data_dir,
      splits=splits,
      size=sum(path.stat().st_size for path in map(pathlib.Path, sources) if path.is_file()),
    )
  finally:
    for source in opened:
      source.__exit__()


def _examples_of(examples: Callable[[], Iterator[MarkedPicture]]) -> given.Examples:
  def made() -> Iterator[dict[str, Any]]:
    for one in examples():
      yield {
        "name": one.name,
        "image": io.BytesIO(one.image),
        "label": one.label,
        "mask": io.BytesIO(png(checked_mask(one))),
        "boxes": one.boxes.astype(np.int32),
      }

  return made


def checked_mask(one: MarkedPicture) -> np.ndarray:
  """Returns the mask of a marked picture, 1 on the objects, uint8 [H, W].

  Raises:
    InputError: A mask of another size, an empty one, or boxes outside of the picture.
  """
  try:
    width, height = Image.open(io.BytesIO(one.image)).size
  except OSError as error:
    raise InputError(
      f"The picture {one.name!r} is damaged: {error}.", "Download the archive again."
    ) from error
  boxes = one.boxes.reshape(-1, 4)
  tops, lefts, bottoms, rights = boxes.T
  inside = (tops >= 0) & (lefts >= 0) & (bottoms <= height) & (rights <= width)
  if not (inside & (tops < bottoms) & (lefts < rights)).all():
    raise InputError(
      f"A box of {one.name!r}, {boxes.tolist()[:3]}, does not fit its {width} x {height} pixels.",
      "Download pictures and boxes of the same version.",
    )
  mask = one.mask
  if mask is None:
    mask = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes.tolist():
      mask[top:bottom, left:right] = True
  if mask.shape != (height, width):
    raise InputError(
      f"The mask of {one.name!r} has {mask.shape[1]} x {mask.shape[0]} pixels, the picture "
      f"{width} x {height}.",
      "Download pictures and masks of the same version.",
    )
  return mask.astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
  """Returns pixels as a PNG file."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, format="png")
  return file.getvalue()


def around(mask: np.ndarray) -> np.ndarray:
  """Returns the box around a mask, int [1, 4]."""
  rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
  return np.array([[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]])

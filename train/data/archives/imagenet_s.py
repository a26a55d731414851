"""ImageNet-S: pictures of ImageNet with masks of the labelled class (arXiv 2106.03149)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import io
import os
import pathlib

import numpy as np
from PIL import Image

from . import objects, writing
from .opening import Source

NAME = "imagenet_s"
SPLITS = ("train", "validation")
_FOLDERS = {
  "train": ("train-semi", "train-semi-segmentation"),
  "validation": ("validation", "validation-segmentation"),
}
_IGNORED = 1000


def prepare(
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("validation",),
  complete: bool = True,
) -> pathlib.Path:
  """Writes ImageNet-S as array_record, an example for each picture and class.

  Args:
    source: The folder ImageNetS50, ImageNetS300 or ImageNetS919, or an archive of it, with
      validation/<synset>/ and validation-segmentation/<synset>/ (train-semi and its masks).
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train and validation to prepare.
    complete: Whether a mask without its picture is an error; otherwise it is left out.

  Returns:
    The folder of the data set, whose classes are the synsets (n01440764, ...) in their order.

  Raises:
    InputError: See `objects.write`.
  """
  writing.check_splits(NAME, splits, SPLITS)

  def reader(sources: Sequence[Source], split: str):
    return _read(sources[0], split, complete)

  return objects.write(NAME, reader, [source], data_dir=data_dir, splits=splits)


def _read(
  source: Source, split: str, complete: bool
) -> tuple[list[str], Callable[[], Iterator[objects.MarkedPicture]]]:
  pictures, masks = (
    {tuple(name.rsplit("/", 2)[1:]): name for name in source.below(folder)}
    for folder in _FOLDERS[split]
  )
  if not masks:
    raise source.broken(f"it has no {_FOLDERS[split][1]}/<synset>/*.png")
  synsets = sorted({synset for synset, _ in masks})

  def examples() -> Iterator[objects.MarkedPicture]:
    for (synset, file), name in sorted(masks.items()):
      picture = pictures.get((synset, file.replace(".png", ".JPEG")))
      if picture is None:
        if complete:
          raise source.broken("there is no picture of this mask", name)
        continue
      classes = _classes(source, name)
      for number in sorted(set(np.unique(classes).tolist()) - {0, _IGNORED}):
        if number > len(synsets):
          raise source.broken(f"it has the class {number}, expected 1 to {len(synsets)}", name)
        mask = classes == number
        yield objects.MarkedPicture(
          file.removesuffix(".png"), source.read(picture), number - 1, objects.around(mask), mask
        )

  return synsets, examples


def _classes(source: Source, name: str) -> np.ndarray:
  """Returns the class of each pixel, int [H, W], from 1: red + 256 * green."""
  content = source.read(name)
  try:
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"), int)
  except OSError as error:
    raise source.broken(f"it is no picture: {error}", name) from error
  return pixels[..., 0] + 256 * pixels[..., 1]

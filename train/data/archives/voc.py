"""Pascal VOC: pictures with boxes, and with masks where the archive has segmentations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import io
import os
import pathlib
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from bcos_jax.errors import InputError

from . import objects, writing
from .opening import Source

NAMES = ("voc_boxes", "voc_masks")
SPLITS = ("train", "val", "test")
CLASSES = (
  *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
  *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
  *("train", "tvmonitor"),
)
_LISTS = {"voc_boxes": "ImageSets/Main", "voc_masks": "ImageSets/Segmentation"}


def prepare(
  name: str,
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("train", "val"),
  complete: bool = True,
) -> pathlib.Path:
  """Writes Pascal VOC as array_record, an example for each picture and class.

  Args:
    name: "voc_boxes", masks being the areas of the boxes; or "voc_masks", of the pictures that are
      segmented.
    source: An archive such as VOCtrainval_11-May-2012.tar, or its folder; of one year.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train, val and test to prepare.
    complete: Whether a picture without marked objects is an error; otherwise it is left out.

  Raises:
    InputError: See `objects.write`; or a class that VOC does not have.
  """
  writing.check_splits(name, splits, SPLITS)

  def reader(sources: Sequence[Source], split: str):
    return CLASSES, _examples(name, sources[0], split, complete)

  return objects.write(name, reader, [source], data_dir=data_dir, splits=splits)


def _examples(
  name: str, source: Source, split: str, complete: bool
) -> Callable[[], Iterator[objects.MarkedPicture]]:
  listed = source.ending(f"{_LISTS[name]}/{split}.txt")
  root = listed.removesuffix(f"{_LISTS[name]}/{split}.txt")
  pictures = source.read(listed).decode().split()
  if not pictures:
    raise source.broken("it lists no pictures", listed)

  def examples() -> Iterator[objects.MarkedPicture]:
    for picture in pictures:
      image = source.read(f"{root}JPEGImages/{picture}.jpg")
      boxes = _boxes(source, f"{root}Annotations/{picture}.xml")
      segments = None
      if name == "voc_masks":
        segments = _segments(source, f"{root}SegmentationClass/{picture}.png")
        shown = sorted(set(np.unique(segments).tolist()) - {0, 255})
        found = [label - 1 for label in shown]
        if found and found[-1] >= len(CLASSES):
          raise source.broken(f"it has the class {shown[-1]}, expected 1 to 20", picture)
      else:
        found = sorted(boxes)
      if not found and complete:
        raise source.broken("it has no marked objects", picture)
      for label in found:
        mask = None if segments is None else segments == label + 1
        own = boxes.get(label)
        if own is None:  # segmented, but without a box
          own = objects.around(segments == label + 1) if segments is not None else []
        yield objects.MarkedPicture(picture, image, label, np.array(own), mask)

  return examples


def _boxes(source: Source, name: str) -> dict[int, list[tuple[int, int, int, int]]]:
  """Returns the boxes of each class; VOC counts pixels from 1, and to the last one."""
  content = source.read(name)
  try:
    root = ElementTree.fromstring(content)
    found: dict[int, list[tuple[int, int, int, int]]] = {}
    for thing in root.iter("object"):
      kind = thing.findtext("name", "")
      if kind not in CLASSES:
        raise InputError(
          f"{source.path}: {name} marks a {kind!r}, which is none of VOC's 20 classes.",
          "Use an archive of Pascal VOC.",
        )
      box = thing.find("bndbox")
      assert box is not None, "checked by what follows"
      left, top, right, bottom = (
        round(float(box.findtext(side, ""))) for side in ("xmin", "ymin", "xmax", "ymax")
      )
      found.setdefault(CLASSES.index(kind), []).append((top - 1, left - 1, bottom, right))
    return found
  except InputError:
    raise
  except (ElementTree.ParseError, ValueError, AssertionError) as error:
    raise source.broken("it is no list of boxes", name) from error


def _segments(source: Source, name: str) -> np.ndarray:
  """Returns the class of each pixel, uint8 [H, W]: 0 none, 255 not said."""
  content = source.read(name)
  try:
    return np.array(Image.open(io.BytesIO(content)))
  except OSError as error:
    raise source.broken(f"it is no picture: {error}", name) from error

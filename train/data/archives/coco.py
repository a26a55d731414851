"""COCO: pictures with boxes, and with the masks that its polygons and run lengths describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from . import objects, writing
from .opening import Source

NAMES = ("coco_boxes", "coco_masks")
SPLITS = ("train", "val")


def prepare(
  name: str,
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = ("val",),
  complete: bool = True,
) -> pathlib.Path:
  """Writes COCO as array_record, an example for each picture and class.

  Args:
    name: "coco_boxes", masks being the areas of the boxes; or "coco_masks".
    source: A folder with annotations_trainval2017.zip and val2017.zip (train2017.zip), or with what
      they were unpacked to: annotations/ and val2017/.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train and val to prepare.
    complete: Whether a picture that is missing is an error; otherwise it is left out.

  Raises:
    InputError: See `objects.write`; or annotations that are not COCO's.
  """
  writing.check_splits(name, splits, SPLITS)
  folder = pathlib.Path(source).expanduser()
  zips = sorted(folder.glob("*.zip"))

  def reader(sources: Sequence[Source], split: str):
    return _read(name, sources, split, complete)

  return objects.write(name, reader, zips or [folder], data_dir=data_dir, splits=splits)


def _read(
  name: str, sources: Sequence[Source], split: str, complete: bool
) -> tuple[list[str], Callable[[], Iterator[objects.MarkedPicture]]]:
  listed = f"instances_{split}2017.json"
  holds = [one for one in sources if any(f"/{n}".endswith(f"/{listed}") for n in one.names)]
  source = (holds or list(sources))[0]
  place = source.ending(listed)
  content = source.read(place)
  try:
    held = json.loads(content)
    kinds = sorted(held["categories"], key=lambda kind: kind["id"])
    places = {kind["id"]: i for i, kind in enumerate(kinds)}
    pictures = {one["id"]: one for one in held["images"]}
    marked: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for thing in held["annotations"]:
      own = marked.setdefault(thing["image_id"], {})
      own.setdefault(places[thing["category_id"]], []).append(thing)
  except (ValueError, KeyError, TypeError) as error:
    raise source.broken(f"it is no COCO annotation: {error!r}", place) from error
  files = {n.rpartition("/")[2]: (one, n) for one in sources for n in one.below(f"{split}2017")}

  def examples() -> Iterator[objects.MarkedPicture]:
    for number, own in sorted(marked.items()):
      if number not in pictures:
        raise source.broken(f"it marks the picture {number}, which it does not list", place)
      picture = pictures[number]
      if picture["file_name"] not in files:
        if complete:
          raise source.broken(f"there is no picture {picture['file_name']!r}", f"{split}2017")
        continue
      archive, file = files[picture["file_name"]]
      size = picture["height"], picture["width"]
      for label, things in sorted(own.items()):
        boxes = np.array([_box(thing["bbox"], size) for thing in things])
        mask = None
        if name == "coco_masks":
          try:
            mask = np.any([_mask(thing["segmentation"], size) for thing in things], axis=0)
          except (ValueError, TypeError) as error:
            what = f"the mask of {picture['file_name']!r} cannot be drawn: {error}"
            raise source.broken(what, place) from error
        yield objects.MarkedPicture(picture["file_name"], archive.read(file), label, boxes, mask)

  return [kind["name"] for kind in kinds], examples


def _box(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
  """Returns (left, top, width, height) in fractions of pixels as the whole pixels it touches."""
  left, top, width, height = box
  down, across = int(np.floor(top)), int(np.floor(left))
  bottom = min(max(int(np.ceil(top + height)), down + 1), size[0])
  return down, across, bottom, min(max(int(np.ceil(left + width)), across + 1), size[1])


def _mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
  """Returns an object's pixels, bool [H, W]: of polygons, or of run lengths column by column."""
  if isinstance(segmentation, dict):
    counts = segmentation["counts"]
    if not isinstance(counts, list):
      raise ValueError("packed run lengths")
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return runs.reshape(segmentation["size"][::-1]).T
  canvas = Image.new("1", (size[1], size[0]))
  for polygon in segmentation:
    ImageDraw.Draw(canvas).polygon(polygon, fill=1, outline=1)
  return np.array(canvas)

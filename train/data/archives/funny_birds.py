"""FunnyBirds: drawn birds with masks of their parts, and with parts removed (arXiv 2308.06248).

`prepare` writes pictures and masks to train and measure on; `read_scenes` reads test birds with
every set of their parts, for `metrics.suite.part_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import io
import json
import os
import pathlib
import re
from typing import Any

import numpy as np
from PIL import Image

from bcos_jax.metrics import suite

from . import objects, writing
from .opening import Source

NAME = "funny_birds"
SPLITS = ("train", "test")
_COLORS = {
  "beak": ((255, 255, 0),),
  "eye": ((255, 255, 253), (255, 255, 254)),
  "foot": ((255, 0, 1), (255, 0, 2)),
  "tail": ((0, 0, 255),),
  "wing": ((0, 255, 1), (0, 255, 2)),
}
"""Colours of the parts in part maps, both eyes, feet and wings being one part each."""

_THINGS = (204, 204)  # red and green of things in the background; blue is 204 and their number


def prepare(
  source: str | os.PathLike,
  *,
  data_dir: str = "",
  splits: Sequence[str] = SPLITS,
  complete: bool = True,
) -> pathlib.Path:
  """Writes FunnyBirds as array_record; the masks are of all parts of the bird.

  Args:
    source: FunnyBirds.zip, or the folder that it was unpacked to.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: Which of train and test to prepare.
    complete: Whether a picture that is missing is an error; otherwise it is left out.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: See `objects.write`.
  """
  writing.check_splits(NAME, splits, SPLITS)

  def reader(sources: Sequence[Source], split: str):
    source = sources[0]
    labels, classes, _ = _facts(source, split)
    names = [f"bird {i:02}" for i in range(len(classes))]
    return names, _examples(source, split, labels, complete)

  return objects.write(NAME, reader, [source], data_dir=data_dir, splits=splits)


def read_scenes(
  source: str | os.PathLike, count: int, *, side: int = 64, split: str = "test"
) -> suite.PartScenes:
  """Reads birds with every set of their parts, for the scores of FunnyBirds.

  Args:
    source: As for `prepare`.
    count: Most birds.
    side: What pictures (256 pixels) and masks are scaled to.
    split: The one that has interventions, "test".

  Raises:
    InputError: A file is missing or no picture; masks of another size; birds with different
      numbers of things in the background.
  """
  with Source(pathlib.Path(source)) as opened:
    labels, classes, parts = _facts(opened, split)
    count = min(count, len(labels))
    root = opened.ending("classes.json").removesuffix("classes.json")
    pictures, masks, without, things = [], [], [], []
    for number, label in enumerate(labels[:count].tolist()):
      place = f"{label}/{number:06}"
      found = _picture(opened, f"{root}{split}_part_map/{place}.png")
      masks.append([_where(found, _COLORS[part], side) for part in parts])
      folder = f"{root}{split}_interventions/{place}"
      sets = [_file(parts, bits) for bits in range(2 ** len(parts))]
      pictures.append([_picture(opened, f"{folder}/{file}", side) for file in sets])
      names = [n for n in opened.below(folder) if "/background_interventions/" in n]
      names.sort(key=lambda name: int(re.findall(r"\d+", name)[-1]))
      without.append([_picture(opened, name, side) for name in names])
      things.append([_where(found, ((*_THINGS, 204 + i),), side) for i in range(len(names))])
  fewest = min(map(len, without))
  if not fewest:
    raise opened.broken("a bird has no background_interventions")
  return suite.PartScenes(
    pictures=np.array(pictures),
    labels=labels[:count],
    masks=np.array(masks),
    without_thing=np.array([some[:fewest] for some in without]),
    thing_masks=np.array([some[:fewest] for some in things]),
    classes=classes,
    part_names=tuple(parts),
  )


def _facts(source: Source, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Returns the class of each bird, the variant of each part of each class, and the parts."""
  files = [f"dataset_{split}.json", "classes.json", "parts.json"]
  contents = [source.read(source.ending(file)) for file in files]
  try:
    listed, classes, parts = map(json.loads, contents)
    names = sorted(parts)
    labels = np.array([int(one["class_idx"]) for one in listed])
    variants = np.array([[int(kind["parts"][part]) for part in names] for kind in classes])
  except (ValueError, KeyError, TypeError) as error:
    raise source.broken(f"its lists are not those of FunnyBirds: {error!r}") from error
  unknown = [name for name in names if name not in _COLORS]
  if unknown or not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
    what = f"parts {unknown}" if unknown else f"classes of {len(labels)} birds"
    raise source.broken(f"it has {what} that do not fit its {len(classes)} classes")
  return labels, variants, names


def _examples(
  source: Source, split: str, labels: np.ndarray, complete: bool
) -> Callable[[], Iterator[objects.MarkedPicture]]:
  root = source.ending("classes.json").removesuffix("classes.json")
  known = set(source.names)

  def examples() -> Iterator[objects.MarkedPicture]:
    for number, label in enumerate(labels.tolist()):
      file = f"{root}{split}/{label}/{number:06}.png"
      if file not in known and not complete:
        continue
      content = source.read(file)
      image = Image.open(io.BytesIO(content)).convert("RGB")
      # Training birds have no part maps in all versions: all of such a picture is marked.
      mask = np.ones(image.size[::-1], bool)
      if (place := f"{root}{split}_part_map/{label}/{number:06}.png") in known:
        found = _picture(source, place)
        mask = np.any([_where(found, colors) for colors in _COLORS.values()], axis=0)
      box = objects.around(mask) if mask.any() else np.zeros((0, 4), int)
      yield objects.MarkedPicture(f"{number:06}", objects.png(np.array(image)), label, box, mask)

  return examples


def _file(parts: Sequence[str], bits: int) -> str:
  """Returns the name of the picture with a set of parts."""
  kept = [part for i, part in enumerate(parts) if bits >> i & 1]
  return f"body_{'_'.join(kept)}.png"


def _picture(source: Source, name: str, side: int = 0) -> Any:
  content = source.read(name)
  try:
    image = Image.open(io.BytesIO(content)).convert("RGB")
  except OSError as error:
    raise source.broken(f"it is no picture: {error}", name) from error
  return np.array(image.resize((side, side), Image.Resampling.BOX) if side else image)


def _where(part_map: np.ndarray, colors: Sequence[tuple[int, ...]], side: int = 0) -> np.ndarray:
  """Returns where a part map has one of these colours, bool, perhaps scaled to a side."""
  found = np.any([(part_map == color).all(axis=-1) for color in colors], axis=0)
  if not side:
    return found
  small = Image.fromarray(np.uint8(found) * 255).resize((side, side), Image.Resampling.BOX)
  return np.array(small) > 0

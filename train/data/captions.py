"""Captions of ShapeScenes, generated from the scenes.

The data set has names and masks of its objects; colours are those that the pixels have. How much a
caption tells differs: the object of the class always, its colour, the ground and what else there
is only sometimes. So the same scene has several captions, and similar scenes share some.
"""

from __future__ import annotations

from collections.abc import Mapping
import io
from typing import Any

import numpy as np
from PIL import Image

from bcos_jax.errors import InputError

from .shapes import FORMS
from .sources import Dataset

COLORS = {
  "red": (0.75, 0.2, 0.2),
  "orange": (0.85, 0.55, 0.25),
  "yellow": (0.8, 0.8, 0.3),
  "green": (0.3, 0.7, 0.3),
  "cyan": (0.35, 0.75, 0.75),
  "blue": (0.25, 0.3, 0.75),
  "purple": (0.55, 0.25, 0.7),
  "pink": (0.8, 0.4, 0.65),
  "grey": (0.5, 0.5, 0.5),
}
"""Names of colours, each the nearest to what it names (red, green and blue in [0, 1])."""

SHARE = 0.3
"""Of captions that tell a detail: mostly the object of the class, or colours would be all that is
learned from them."""


def noun(name: str) -> str:
  """Returns a name with its article: "a star", "an orange arrow"."""
  return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def words() -> tuple[str, ...]:
  """Returns every word that a caption can have, sorted."""
  own = "a an and ground on with".split()
  return tuple(sorted({*own, *COLORS, *(word for name in FORMS for word in name.split())}))


def captions(
  dataset: Dataset, count: int, *, seed: int = 0, share: float = SHARE
) -> list[list[str]]:
  """Returns captions of every example.

  Args:
    dataset: ShapeScenes, or other records with `image`, `mask` and `objects` as it has them.
    count: Captions per example.
    seed: Of what is told.
    share: Chance of each detail to be told; 1 tells all.

  Returns:
    One list of `count` texts per example; that of an example depends on its number and the seed.

  Raises:
    InputError: The records have no masks or names of objects.
  """
  found = []
  for index in range(len(dataset)):
    record = dataset.source[index]
    if "objects" not in record or "mask" not in record:
      raise InputError(
        f"{dataset.name} has no named objects and masks, from which captions are generated.",
        "Set --config.data.name=shape_scenes.",
      )
    names, paints, ground = _seen(record)
    rng = np.random.default_rng((seed, index))
    found.append([_caption(rng, names, paints, ground, share) for _ in range(count)])
  return found


def _seen(record: Mapping[str, Any]) -> tuple[list[str], list[str], str]:
  """Returns the names of the objects, their colours, and that of the ground."""
  image, mask = (np.asarray(Image.open(io.BytesIO(record[key]))) for key in ("image", "mask"))
  mask = mask.reshape(mask.shape[:2])
  names = [name.decode() if isinstance(name, bytes) else name for name in record["objects"]["name"]]
  colors = [_color(image[mask == number]) for number in range(len(names) + 1)]
  return names, colors[1:], colors[0]


def _color(pixels: np.ndarray) -> str:
  """Returns the name of the mean colour of pixels uint8 [n, 3]."""
  mean = pixels.mean(axis=0) / 255
  return min(COLORS, key=lambda name: float(np.sum(np.square(mean - COLORS[name]))))


def _caption(
  rng: np.random.Generator, names: list[str], paints: list[str], ground: str, share: float
) -> str:
  def thing(i: int) -> str:
    return noun(f"{paints[i]} {names[i]}" if rng.random() < share else names[i])

  text = thing(0)
  others = [thing(i) for i in range(1, len(names)) if rng.random() < share]
  if others:
    text += f" with {' and '.join(others)}"
  return f"{text} on {noun(ground)} ground" if rng.random() < share else text

"""Augmentation policies: RandAugment and TrivialAugmentWide, as in torchvision.

Each operation takes an upright 8-bit PIL picture and a strength, and returns a picture of the same
size and mode. Where pixels come from outside the picture, black comes in.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from bcos_jax.errors import InputError

Picture = Image.Image
Operation = Callable[[Picture, float], Picture]

BINS = 31
"""Number of strengths of every operation."""


def _affine(*matrix: float) -> Callable[[Picture], Picture]:
  return lambda picture: picture.transform(
    picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
  )


def _enhance(kind: type) -> Operation:
  return lambda picture, strength: kind(picture).enhance(1.0 + strength)


OPERATIONS: dict[str, Operation] = {
  "identity": lambda picture, _: picture,
  "shear_x": lambda picture, s: _affine(1, s, 0, 0, 1, 0)(picture),
  "shear_y": lambda picture, s: _affine(1, 0, 0, s, 1, 0)(picture),
  "translate_x": lambda picture, s: _affine(1, 0, -int(s), 0, 1, 0)(picture),
  "translate_y": lambda picture, s: _affine(1, 0, 0, 0, 1, -int(s))(picture),
  "rotate": lambda picture, s: picture.rotate(s, Image.Resampling.BILINEAR),
  "brightness": _enhance(ImageEnhance.Brightness),
  "color": _enhance(ImageEnhance.Color),
  "contrast": _enhance(ImageEnhance.Contrast),
  "sharpness": _enhance(ImageEnhance.Sharpness),
  "posterize": lambda picture, s: ImageOps.posterize(picture, int(s)),
  "solarize": lambda picture, s: ImageOps.solarize(picture, math.ceil(s)),
  "autocontrast": lambda picture, _: ImageOps.autocontrast(picture),
  "equalize": lambda picture, _: ImageOps.equalize(picture),
}

SIGNED = frozenset(
  {
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
  }
)
"""Operations whose strength is negative half of the time."""


@dataclasses.dataclass(frozen=True)
class Ranges:
  """Largest strengths of a policy.

  Attributes:
    shear: Tangent of the shear angle.
    translate: (pixels, share of the side); the sum counts.
    rotate: Degrees.
    enhance: Change of brightness, color, contrast and sharpness, as a factor beside 1.
    posterize: Bits that are removed.
  """

  shear: float
  translate: tuple[float, float]
  rotate: float
  enhance: float
  posterize: int

  def strength(self, name: str, index: int, size: tuple[int, int]) -> float:
    """Returns the strength number `index` of `BINS`, for a picture of size (width, height)."""
    share = index / (BINS - 1)
    if name.startswith("shear"):
      return share * self.shear
    if name.startswith("translate"):
      pixels, of_side = self.translate
      return share * (pixels + of_side * size[name == "translate_y"])
    if name == "posterize":
      return 8 - round(share * self.posterize)
    if name == "solarize":
      return 255.0 - share * 255.0
    return share * (self.rotate if name == "rotate" else self.enhance)


RAND = Ranges(shear=0.3, translate=(0.0, 150 / 331), rotate=30.0, enhance=0.9, posterize=4)
TRIVIAL_WIDE = Ranges(shear=0.99, translate=(32.0, 0.0), rotate=135.0, enhance=0.99, posterize=6)


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """Several random operations of one strength (arXiv 1909.13719).

  Attributes:
    operations: How many, one after the other.
    magnitude: Which of the `BINS` strengths.
  """

  operations: int = 2
  magnitude: int = 10

  def __post_init__(self):
    if not 0 <= self.magnitude < BINS or self.operations < 1:
      raise InputError(
        f"RandAugment has {self.operations} operations of magnitude {self.magnitude}, expected at "
        f"least 1 of magnitude 0 to {BINS - 1}.",
        "The published recipe has 2 of magnitude 10.",
      )

  def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
    """Returns the changed picture."""
    for _ in range(self.operations):
      picture = _apply(RAND, picture, self.magnitude, rng)
    return picture


def trivial_augment_wide(picture: Picture, rng: np.random.Generator) -> Picture:
  """Returns the picture after one random operation of random strength (arXiv 2103.10158)."""
  return _apply(TRIVIAL_WIDE, picture, int(rng.integers(BINS)), rng)


def _apply(ranges: Ranges, picture: Picture, index: int, rng: np.random.Generator) -> Picture:
  name = tuple(OPERATIONS)[rng.integers(len(OPERATIONS))]
  strength = ranges.strength(name, index, picture.size)
  if name in SIGNED and rng.integers(2):
    strength = -strength
  return OPERATIONS[name](picture, strength)

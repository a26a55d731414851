"""Augmentation of training pictures.

An augmentation has two halves: `prepare`, which is the same every time and may be kept in memory,
and the call, which is not.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any, Protocol

import numpy as np
from PIL import Image

from bcos_jax.inputs import Preprocess
from bcos_jax.picture_files import upright

from .policies import RandAugment, trivial_augment_wide

Generator = np.random.Generator
Policy = Callable[[Image.Image, Generator], Image.Image]

_TRIES = 10


class Augmentation(Protocol):
  """From a decoded picture to a training image float32 [H, W, C] in [0, 1]."""

  def prepare(self, picture: Image.Image) -> Any:
    """Returns what every call starts from."""
    ...

  def __call__(self, prepared: Any, rng: Generator) -> np.ndarray:
    """Returns one variation."""
    ...


@dataclasses.dataclass(frozen=True)
class Shift:
  """The evaluation's picture, moved by up to `share` of its size each way; black comes in.

  Attributes:
    preprocess: The evaluation's way from a picture to an array.
    share: Largest shift relative to the side; 0 changes nothing.
    flip: Probability of mirroring.
  """

  preprocess: Preprocess
  share: float = 0.125
  flip: float = 0.0

  def prepare(self, picture: Image.Image) -> np.ndarray:
    """Returns the evaluation's array."""
    return self.preprocess(picture)

  def __call__(self, prepared: np.ndarray, rng: Generator) -> np.ndarray:
    """Returns the shifted array."""
    height, width, channels = prepared.shape
    dy, dx = int(self.share * height), int(self.share * width)
    # By hand, since np.pad takes ten times as long on a small image.
    padded = np.zeros((height + 2 * dy, width + 2 * dx, channels), prepared.dtype)
    padded[dy : dy + height, dx : dx + width] = prepared
    top, left = rng.integers(2 * dy + 1), rng.integers(2 * dx + 1)
    image = padded[top : top + height, left : left + width]
    return image[:, ::-1] if rng.random() < self.flip else image


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """A random part of the picture at a fixed size, mirrored half of the time, and more changes.

  The order is torchvision's: crop and resize, mirror, policy, erase.

  Attributes:
    preprocess: Size, interpolation and colors of the result.
    scale: Least and largest share of the picture's area.
    ratio: Least and largest width / height.
    flip: Probability of mirroring.
    policy: Photographic changes; see policies.py.
    erase: Probability of blackening a random box.
  """

  preprocess: Preprocess
  scale: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  flip: float = 0.5
  policy: Policy | None = None
  erase: float = 0.0

  def prepare(self, picture: Image.Image) -> Image.Image:
    """Returns the upright picture in the colors of the network."""
    return upright(picture, self.preprocess.colors)

  def __call__(self, prepared: Image.Image, rng: Generator) -> np.ndarray:
    """Returns one variation, float32 [H, W, C] in [0, 1]."""
    height, width = self.preprocess.size
    left, top, right, bottom = random_box(prepared.size, self.scale, self.ratio, rng)
    # Crop first: resizing with a box would let pixels around it bleed in.
    picture = prepared.crop((left, top, right, bottom)).resize(
      (width, height), Image.Resampling[self.preprocess.interpolation.upper()]
    )
    if rng.random() < self.flip:
      picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if self.policy is not None:
      picture = self.policy(picture, rng)
    image = np.asarray(picture, np.float32).reshape(height, width, -1) / 255.0
    return erased(image, rng) if rng.random() < self.erase else image


def random_box(
  size: tuple[int, int],
  scale: tuple[float, float],
  ratio: tuple[float, float],
  rng: Generator,
) -> tuple[int, int, int, int]:
  """Draws a box of random area and shape, as torchvision's RandomResizedCrop does.

  Args:
    size: (width, height) of the picture.
    scale: Range of the share of the area.
    ratio: Range of width / height, drawn uniformly in its logarithm.
    rng: Source of randomness.

  Returns:
    (left, top, right, bottom). If ten draws do not fit: the largest central box whose ratio is in
    range.
  """
  width, height = size
  for _ in range(_TRIES):
    w, h = _random_sides(width * height, scale, ratio, rng)
    if 0 < w <= width and 0 < h <= height:
      top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
      return left, top, left + w, top + h
  w = min(width, round(height * ratio[1]))
  h = min(height, round(width / ratio[0]))
  left, top = (width - w) // 2, (height - h) // 2
  return left, top, left + w, top + h


def erased(
  image: np.ndarray,
  rng: Generator,
  scale: tuple[float, float] = (0.02, 0.33),
  ratio: tuple[float, float] = (0.3, 3.3),
) -> np.ndarray:
  """Returns a copy of [H, W, C] with a random box black (random erasing, arXiv 1708.04896)."""
  height, width = image.shape[:2]
  for _ in range(_TRIES):
    h, w = _random_sides(height * width, scale, ratio, rng)
    if h < height and w < width:
      top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
      image = image.copy()
      image[top : top + h, left : left + w] = 0.0
      break
  return image


def _random_sides(
  area: int, scale: tuple[float, float], ratio: tuple[float, float], rng: Generator
) -> tuple[int, int]:
  """Returns the sides of a random box; the first divided by the second is in `ratio`."""
  part = area * rng.uniform(*scale)
  aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
  return round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))


def from_config(config: Any, preprocess: Preprocess) -> Augmentation:
  """Returns the augmentation that the section `data.augment` of a recipe describes."""
  if config.crop != "random_resized":
    return Shift(preprocess, config.shift if config.crop == "shift" else 0.0, config.flip)
  policy = {
    "none": None,
    "rand_augment": RandAugment(config.policy_operations, config.policy_magnitude),
    "trivial_augment_wide": trivial_augment_wide,
  }[config.policy]
  return RandomResizedCrop(
    preprocess,
    scale=tuple(config.scale),
    flip=config.flip,
    policy=policy,
    erase=config.erase,
  )

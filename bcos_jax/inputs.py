"""Input encodings and preprocessing: from picture files to the channels of a network.

Every network owns its `Encoding`, and a saved network its `Preprocess`, so that images are always
given as plain colours in [0, 1] and can never be normalised twice or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError, check_fields, unknown_name
from .picture_files import opened_picture, peculiarities, upright

if TYPE_CHECKING:
  from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_PAIRINGS = ("none", "negated", "complement")
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_CENTERS = ("round", "floor")
_MOST_PIXELS = 2 * 89_478_485  # as PIL has it for pictures in files


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How colours in [0, 1] become the channels of a network.

  With z = (x - mean) / std, the pairing appends a second channel to each colour, so that no
  colour has norm zero and each has its own direction:

    none        z            conventional networks
    negated     [z, -z]      B-cosification: [x, 1-x] normalised by (m, 1-m) and (s, s)
    complement  [z, 1-z]     B-cos v2 with mean 0 and std 1; ALOE with its teacher's mean and std

  Attributes:
    mean: Per colour channel.
    std: Per colour channel.
    pairing: One of the above.
  """

  mean: tuple[float, ...] = IMAGENET_MEAN
  std: tuple[float, ...] = IMAGENET_STD
  pairing: str = "none"

  def __post_init__(self):
    for name in ("mean", "std"):
      given = getattr(self, name)
      try:
        numbers = tuple(map(float, given))
      except (TypeError, ValueError):
        raise InputError(
          f"{name} is {given!r}, expected one number per colour channel.",
          "For example mean=(0.5, 0.5, 0.5).",
        ) from None
      object.__setattr__(self, name, numbers)
    check_fields(self)
    if self.pairing not in _PAIRINGS:
      raise unknown_name("pairing", self.pairing, _PAIRINGS)
    if len(self.mean) != len(self.std) or not self.std or not all(s > 0 for s in self.std):
      raise InputError(
        f"Encoding has mean {self.mean} and std {self.std}, expected as many positive "
        "deviations as means.",
        "Give one pair per colour channel.",
      )

  @property
  def colors(self) -> int:
    """Number of colour channels that an image has."""
    return len(self.mean)

  @property
  def channels(self) -> int:
    """Number of channels that the network sees."""
    return self.colors * (1 if self.pairing == "none" else 2)

  def __call__(self, images: jax.Array) -> jax.Array:
    """Encodes images [..., H, W, colors] in [0, 1] as [..., H, W, channels], float32."""
    if images.shape[-1:] != (self.colors,):
      raise InputError(
        f"Images have shape {images.shape}, expected {self.colors} colour channels last.",
        "Pass channels-last images with colours in [0, 1]: the network encodes them itself.",
      )
    z = (images - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
    if self.pairing == "none":
      return z
    return jnp.concatenate([z, -z if self.pairing == "negated" else 1.0 - z], axis=-1)


def side_of(images: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> tuple[int, int]:
  """Returns the height and width of images or maps [N, H, W, ...]."""
  height, width = images.shape[1:3]
  return height, width


def check_images(images: jax.Array | np.ndarray, encoding: Encoding) -> np.ndarray:
  """Checks a batch of plain images and returns it as a float32 NumPy array.

  Args:
    images: [N, H, W, colors] in [0, 1].
    encoding: The network's encoding.

  Raises:
    InputError: Wrong rank, channels or dtype, NaN, or values outside [0, 1].
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[-1] != encoding.colors or 0 in images.shape:
    raise InputError(
      f"Images have shape {images.shape}, expected [N, H, W, {encoding.colors}].",
      "Give a batch, channels last; `images[None]` makes a batch of one.",
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise InputError(
      f"Images have dtype {images.dtype}, expected floats in [0, 1].",
      "Divide 8-bit pictures by 255.",
    )
  low, high = float(images.min()), float(images.max())
  if not np.isfinite([low, high]).all():
    raise InputError(
      "Images contain NaN or infinite values, expected numbers in [0, 1].",
      "Find the damaged picture with np.isfinite.",
    )
  if low < -1e-6 or high > 1 + 1e-6:
    raise InputError(
      f"Images span [{low:.3g}, {high:.3g}], expected [0, 1].",
      "Pass colours in [0, 1], not normalised ones: the network applies its own mean and std.",
    )
  return images.astype(np.float32, copy=False)


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """From a picture file to an array, as the network's evaluation does it; stored with the weights.

  Attributes:
    size: Height and width of the result, in pixels.
    resize: Length that the shorter side is first scaled to; or height and width that the picture
      is first scaled to, whatever its proportions; 0 scales straight to `size`.
    interpolation: PIL's anti-aliased filter: nearest, bilinear, bicubic, lanczos, box or hamming.
    colors: 3 for RGB, 1 for grey.
    cover: Whether a picture that is scaled to height and width keeps its proportions and covers
      both, the larger way (timm, for pictures that are not square).
    center: Where the middle of an odd margin is: 'round' (half to even: torchvision, timm) or
      'floor' (transformers).
  """

  size: tuple[int, int] = (224, 224)
  resize: int | tuple[int, int] = 256
  interpolation: str = "bilinear"
  colors: int = 3
  center: str = "round"
  cover: bool = False

  def __post_init__(self):
    object.__setattr__(self, "size", tuple(map(int, self.size)))
    if not isinstance(self.resize, int):
      object.__setattr__(self, "resize", tuple(map(int, self.resize)))
    if self.center not in _CENTERS:
      raise unknown_name("center", self.center, _CENTERS)
    if self.interpolation not in _FILTERS:
      raise unknown_name("interpolation", self.interpolation, _FILTERS)
    if self.colors not in (1, 3):
      raise InputError(
        f"Preprocess has {self.colors} colour channels, expected 1 or 3.",
        "Pictures are read as grey or as RGB.",
      )
    if len(self.size) != 2 or min(self.size) < 1 or not self._covers():
      raise InputError(
        f"Preprocess has size {self.size} and resize {self.resize}, expected two positive "
        "lengths and a resize of 0 or at least the larger one.",
        "For example: size=(224, 224), resize=256.",
      )

  def _covers(self) -> bool:
    """Whether the scaled picture is large enough for the crop."""
    if isinstance(self.resize, int):
      return self.resize == 0 or self.resize >= max(self.size)
    return len(self.resize) == 2 and all(
      have >= want for have, want in zip(self.resize, self.size, strict=True)
    )

  def __call__(self, picture: str | os.PathLike | Image.Image, frame: int = 0) -> np.ndarray:
    """Returns a picture (a path or a PIL image) as float32 [H, W, colors] in [0, 1].

    `frame` counts the frames or pages of a file from 0.
    """
    return self.read(picture, frame)[0]

  def read(self, picture: str | os.PathLike | Image.Image, frame: int = 0) -> tuple[Any, str]:
    """Returns what `__call__` returns, and in words what was done to the picture."""
    from PIL import Image

    if isinstance(picture, Image.Image):
      opened, done = picture, peculiarities(picture)
    else:
      opened, done = opened_picture(picture, frame)
    seen = upright(opened, self.colors)
    done.append(self.geometry(seen.size[::-1]))
    self._check_scaled(seen.size, picture)
    resample = Image.Resampling[self.interpolation.upper()]
    height, width = self.size
    if self.resize:
      seen = seen.resize(self._scaled(seen.size), resample).crop(self._box(seen.size))
    else:
      seen = seen.resize((width, height), resample)
    array = np.asarray(seen, np.float32).reshape(height, width, self.colors) / 255.0
    return array, ", ".join(done)

  def of_array(self, image: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns an image [H, W, 1 or 3] in [0, 1] as `read` returns a file.

    An image of the network's own size stays as it is, bit for bit.
    """
    from PIL import Image

    image = np.asarray(image, np.float32)
    if image.shape[-1] != self.colors:  # between grey and colours, as PIL does it
      grey = (
        image @ np.array([0.299, 0.587, 0.114], np.float32)
        if image.shape[-1] == 3
        else image[..., 0]
      )
      image = np.repeat(grey[..., None], self.colors, axis=-1)
    if image.shape[:2] == self.size:
      return image, f"{_side(self.size)} pixels, as it is"
    resample, side = Image.Resampling[self.interpolation.upper()], (image.shape[1], image.shape[0])
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0)]
    if self.resize:
      box = self._box(side)
      planes = [plane.resize(self._scaled(side), resample).crop(box) for plane in planes]
    else:
      height, width = self.size
      planes = [plane.resize((width, height), resample) for plane in planes]
    array = np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1)
    return np.clip(array, 0, 1), self.geometry(image.shape[:2])

  def geometry(self, size: Sequence[int]) -> str:
    """Says what becomes of a picture of so many pixels, (height, width)."""
    given, wanted = _side(size), _side(self.size)
    scaled = self._scaled((size[1], size[0]))[::-1] if self.resize else self.size
    said = [f"{given} pixels"]
    if tuple(scaled) != tuple(size):
      even = isinstance(self.resize, int) and self.resize > 0
      stretched = not even and scaled[0] * size[1] != scaled[1] * size[0]
      said.append(f"{'stretched' if stretched else 'resized'} to {_side(scaled)}")
    if tuple(scaled) != self.size:
      share = self.size[0] * self.size[1] / (scaled[0] * scaled[1])
      said.append(f"cropped to the middle {wanted}, {share:.0%} of it")
    return ", ".join(said)

  def _check_scaled(self, size: tuple[int, int], picture: Any) -> None:
    """Refuses a strip whose shorter side would be scaled up to more pixels than can be held."""
    width, height = self._scaled(size) if self.resize else (1, 1)
    if width * height > _MOST_PIXELS:
      raise InputError(
        f"{_named(picture)} of {_side(size[::-1])} pixels would be scaled to "
        f"{_side((height, width))}.",
        "Cut it to the part that is to be seen.",
      )

  def _box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of the crop; `size` is (width, height)."""
    scaled, (height, width) = self._scaled(size), self.size
    middle = round if self.center == "round" else int
    left, top = middle((scaled[0] - width) / 2.0), middle((scaled[1] - height) / 2.0)
    return left, top, left + width, top + height

  def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
    """Returns width and height of a scaled picture."""
    if not isinstance(self.resize, int):
      if not self.cover:
        return self.resize[1], self.resize[0]
      ratio = min(size[1] / self.resize[0], size[0] / self.resize[1])
      return round(size[0] / ratio), round(size[1] / ratio)
    shorter = min(size)
    width, height = (max(self.resize, int(self.resize * side / shorter)) for side in size)
    return width, height


def of_pictures(preprocess: Preprocess | None) -> Preprocess:
  """Returns the preprocessing of a network that has to read pictures.

  Raises:
    InputError: There is none.
  """
  if preprocess is None:
    raise InputError("The network reads text, expected one that reads pictures.", "Use another.")
  return preprocess


def _named(picture: Any) -> str:
  return repr(os.fspath(picture)) if isinstance(picture, str | os.PathLike) else "A picture"


def _side(size: Sequence[int]) -> str:
  """Height and width as people write pictures: width x height."""
  return f"{size[1]} x {size[0]}"

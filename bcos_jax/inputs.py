"""Input encodings and preprocessing: from picture files to the channels of a network.

Every network owns its `Encoding`, and a saved network its `Preprocess`, so that images are always
given as plain colours in [0, 1] and can never be normalised twice or not at all.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError, check_fields, unknown_name

if TYPE_CHECKING:
  from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_PAIRINGS = ("none", "negated", "complement")
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_CENTERS = ("round", "floor")


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


def check_images(images, encoding: Encoding) -> np.ndarray:
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
    center: Where the middle of an odd margin is: 'round' (half to even: torchvision, timm) or
      'floor' (transformers).
  """

  size: tuple[int, int] = (224, 224)
  resize: int | tuple[int, int] = 256
  interpolation: str = "bilinear"
  colors: int = 3
  center: str = "round"

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

  def __call__(self, picture: str | os.PathLike | Image.Image) -> np.ndarray:
    """Returns a picture (a path or a PIL image) as float32 [H, W, colors] in [0, 1]."""
    from PIL import Image

    if not isinstance(picture, Image.Image):
      picture = read_picture(picture)
    picture = upright(picture, self.colors)
    resample = Image.Resampling[self.interpolation.upper()]
    height, width = self.size
    if self.resize:
      scaled = self._scaled(picture.size)
      picture = picture.resize(scaled, resample)
      middle = round if self.center == "round" else int
      left, top = middle((scaled[0] - width) / 2.0), middle((scaled[1] - height) / 2.0)
      picture = picture.crop((left, top, left + width, top + height))
    else:
      picture = picture.resize((width, height), resample)
    return np.asarray(picture, np.float32).reshape(height, width, self.colors) / 255.0

  def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
    """Returns width and height of a scaled picture."""
    if not isinstance(self.resize, int):
      return self.resize[1], self.resize[0]
    shorter = min(size)
    width, height = (max(self.resize, int(self.resize * side / shorter)) for side in size)
    return width, height


def read_picture(path: str | os.PathLike) -> Image.Image:
  """Opens a picture of any common kind as upright 8-bit RGB.

  Grey, palette, CMYK and 16-bit pictures are converted, EXIF rotation is applied, and
  transparent parts are shown on white.

  Raises:
    InputError: The file is missing, truncated or not a picture.
  """
  from PIL import Image

  try:
    with Image.open(path) as picture:
      picture.load()
      return upright(picture)
  except FileNotFoundError:
    raise InputError(f"No picture at {os.fspath(path)!r}.", "Check the path.") from None
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise InputError(
      f"Cannot read {os.fspath(path)!r} as a picture: {error}.",
      "Give a complete PNG, JPEG, WebP, GIF, BMP or TIFF file.",
    ) from error


def upright(picture: Image.Image, colors: int = 3) -> Image.Image:
  """Returns a PIL picture of any mode as upright 8-bit RGB (or grey, if `colors` is 1).

  EXIF rotation is applied, and transparent parts are shown on white.
  """
  from PIL import Image, ImageOps

  picture = ImageOps.exif_transpose(picture)
  if picture.mode.startswith("I") or picture.mode == "F":
    deep = np.asarray(picture, np.float64)
    # PIL opens 16-bit grey as I;16 or as I, and 8-bit scientific data as F.
    peak = 65535.0 if deep.max() > 255 or picture.mode.startswith("I;16") else 255.0
    picture = Image.fromarray(np.uint8(np.clip(deep / peak, 0, 1) * 255 + 0.5))
  if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture)
  return picture.convert("RGB" if colors == 3 else "L")

"""Common corruptions of pictures: noise, blur, weather, colour and compression.

The kinds and the five severities of ImageNet-C (arXiv 1903.12261, section 3), reimplemented, so
that a corrupted picture resembles the published one of its kind and severity without being equal
to it. What differs on purpose:

- Pictures are floats in [0, 1], clipped but not rounded to 8 bits; only JPEG rounds.
- Published lengths (the radii and widths of blurs) are in pixels of a 224-pixel picture. Here
  they are scaled by shorter side / 224, so that a small picture loses the same detail. Blurs of
  less than half a pixel change next to nothing: the mildest Gaussian one at 64 pixels, the three
  mildest at 32.
- Fog is fractal noise of another kind, interpolated grids, with the published strengths.
- Motion blur interpolates along its line.
"""

from __future__ import annotations

from collections.abc import Callable
import io
import zlib

import numpy as np
from scipy import ndimage, signal

from ..errors import InputError, unknown_name
from ..inputs import Encoding, check_images

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
_PUBLISHED_SIDE = 224
_SEVERITIES = range(1, 6)


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
  """Corrupts pictures.

  Args:
    images: [N, H, W, 1 or 3] in [0, 1].
    name: One of `CORRUPTIONS`.
    severity: 1 to 5.
    seed: Of all that is random. What is drawn for a picture depends on the seed, the corruption
      and the picture's values, and not on its batch or severity.

  Returns:
    float32 [N, H, W, colors] in [0, 1].

  Raises:
    InputError: An unknown corruption, with the nearest one; a severity outside 1 to 5; images of
      another shape or range; a corruption of colours for grey images.
  """
  if name not in CORRUPTIONS:
    raise unknown_name("corruption", name, CORRUPTIONS)
  if severity not in _SEVERITIES:
    raise InputError(
      f"severity={severity!r}, expected 1 to 5.", "Use 1 for the weakest, 5 for the strongest."
    )
  severity = int(severity)
  colors = np.shape(images)[-1] if np.ndim(images) == 4 else 3
  if colors not in (1, 3):
    raise InputError(
      f"Images have shape {np.shape(images)}, expected [N, H, W, 1 or 3].",
      "Corruptions are defined for grey and for RGB pictures.",
    )
  images = check_images(images, Encoding((0.0,) * colors, (1.0,) * colors))
  done = np.empty_like(images)
  for i, image in enumerate(images):
    drawn = (seed, zlib.crc32(name.encode()), zlib.crc32(np.ascontiguousarray(image).data))
    plain = image.astype(np.float64).clip(0, 1)
    done[i] = CORRUPTIONS[name](plain, severity, np.random.default_rng(drawn)).clip(0, 1)
  return done


# Each of the following maps a picture [H, W, colors], a severity and a generator to a picture,
# which may leave [0, 1].


def _gaussian_noise(image, severity, random):
  return image + random.standard_normal(image.shape) * (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]


def _shot_noise(image, severity, random):
  """Counted photons, so many for white."""
  photons = (60, 25, 12, 5, 3)[severity - 1]
  return random.poisson(image * photons) / photons


def _impulse_noise(image, severity, random):
  """A share of the values becomes 0 or 1."""
  share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
  drawn = random.random(image.shape)
  return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, image))


def _speckle_noise(image, severity, random):
  strength = (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1]
  return image * (1 + random.standard_normal(image.shape) * strength)


def _gaussian_blur(image, severity, random):
  sigma = (1, 2, 3, 4, 6)[severity - 1] * _scale(image)
  return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _defocus_blur(image, severity, random):
  """A disk, whose border is softened."""
  radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
  radius, soft = radius * _scale(image), soft * _scale(image)
  radius = max(radius, 0.1)  # Smaller ones would miss all points below.
  half = int(np.ceil(radius + 3 * soft)) + 1
  fine = 8  # Points per pixel and axis: small disks cover parts of pixels.
  places = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
  disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float64)
  cells = disk.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean(axis=(1, 3))
  return _convolved(image, ndimage.gaussian_filter(cells, soft, mode="constant"))


def _motion_blur(image, severity, random):
  """Half a Gaussian along a line, at an angle within 45 degrees of the horizontal."""
  radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
  radius, sigma = radius * _scale(image), sigma * _scale(image)
  angle = np.deg2rad(random.uniform(-45, 45))
  steps = np.linspace(0, 2 * radius, 8 * int(np.ceil(2 * radius)) + 1)
  weights = np.exp(-0.5 * (steps / sigma) ** 2)
  half = int(np.ceil(2 * radius)) + 1
  kernel = np.zeros((2 * half + 1,) * 2)
  rows, columns = half + steps * np.sin(angle), half + steps * np.cos(angle)
  for down in (0, 1):
    for right in (0, 1):
      row, column = np.floor(rows).astype(int) + down, np.floor(columns).astype(int) + right
      near = (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
      np.add.at(kernel, (row, column), weights * near)
  return _convolved(image, kernel)


def _fog(image, severity, random):
  """Adds clouds, and dims the picture so that its brightest value stays."""
  strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
  brightest = image.max()
  clouds = _clouds(image.shape[:2], decay, random)[..., None]
  return (image + strength * clouds) * brightest / max(brightest + strength, 1e-12)


def _brightness(image, severity, random):
  """Adds to the value of HSV; hue and saturation stay."""
  value = image.max(axis=-1, keepdims=True)
  raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 1)
  return raised * np.divide(image, value, out=np.ones_like(image), where=value > 0)


def _contrast(image, severity, random):
  """Moves each colour towards its mean over the picture."""
  mean = image.mean(axis=(0, 1))
  return mean + (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]


def _saturate(image, severity, random):
  """Scales and shifts the saturation of HSV: the first two severities fade, others exaggerate.

  The hue of grey is that of red, as published, so the strongest ones make grey reddish.
  """
  if image.shape[-1] == 1:
    raise InputError(
      "Grey images have no saturation, expected 3 colours.", "Choose another corruption."
    )
  factor, shift = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
  value = image.max(axis=-1, keepdims=True)
  spread = value - image.min(axis=-1, keepdims=True)
  saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
  # How far each colour is below the value, as a share of the spread; this determines the hue.
  red = np.broadcast_to([0.0, 1.0, 1.0], image.shape).copy()
  depth = np.divide(value - image, spread, out=red, where=spread > 0)
  return value * (1 - (saturation * factor + shift).clip(0, 1) * depth)


def _pixelate(image, severity, random):
  """Averages over boxes and shows these as pixels."""
  share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
  height, width = image.shape[:2]
  small = max(1, int(width * share)), max(1, int(height * share))
  return _resized(_resized(image, small), (width, height))


def _jpeg_compression(image, severity, random):
  from PIL import Image

  pixels = np.asarray(image * 255 + 0.5).astype(np.uint8)
  stored = io.BytesIO()
  picture = Image.fromarray(pixels[..., 0] if image.shape[-1] == 1 else pixels)
  picture.save(stored, "JPEG", quality=(25, 18, 15, 10, 7)[severity - 1])
  return np.asarray(Image.open(stored), np.float64).reshape(image.shape) / 255


CORRUPTIONS: dict[str, Corruption] = {
  "gaussian_noise": _gaussian_noise,
  "shot_noise": _shot_noise,
  "impulse_noise": _impulse_noise,
  "speckle_noise": _speckle_noise,
  "gaussian_blur": _gaussian_blur,
  "defocus_blur": _defocus_blur,
  "motion_blur": _motion_blur,
  "fog": _fog,
  "brightness": _brightness,
  "contrast": _contrast,
  "saturate": _saturate,
  "pixelate": _pixelate,
  "jpeg_compression": _jpeg_compression,
}
"""Name to function of one picture [H, W, colors], a severity and a generator; see `corrupt`."""


def _scale(image: np.ndarray) -> float:
  return min(image.shape[:2]) / _PUBLISHED_SIDE


def _convolved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Averages a picture with the weights of a kernel of odd sides, mirrored at the border."""
  half = len(kernel) // 2
  padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="symmetric")
  weights = (kernel / kernel.sum())[..., None]
  return signal.fftconvolve(padded, weights, mode="valid", axes=(0, 1))


def _clouds(shape: tuple[int, int], decay: float, random: np.random.Generator) -> np.ndarray:
  """Returns fractal noise in [0, 1]: grids of 2, 3, 5, ... points, each weaker by `decay`."""
  rows, columns = (np.linspace(0, 1, side) for side in shape)
  total = np.zeros(shape)
  for octave in range(int(np.ceil(np.log2(max(shape)))) + 1):
    grid = random.uniform(-1, 1, (2**octave + 1,) * 2) / decay**octave
    places = np.meshgrid(rows * 2**octave, columns * 2**octave, indexing="ij")
    total += ndimage.map_coordinates(grid, places, order=1)
  total -= total.min()
  return total / max(total.max(), 1e-12)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Returns a picture at (width, height), by averages over boxes, colour by colour."""
  from PIL import Image

  colors = [
    Image.fromarray(color).resize(size, Image.Resampling.BOX)
    for color in np.moveaxis(image.astype(np.float32), -1, 0)
  ]
  return np.stack([np.asarray(color, np.float64) for color in colors], axis=-1)

"""Segmentations of images, the features of surrogate models."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..errors import InputError
from .task import check_count

Segments = int | np.ndarray


def segment_numbers(segments: Segments, images: np.ndarray) -> np.ndarray:
  """Returns the number of each pixel's part, int [N, H, W], from 0 without gaps in each image.

  Args:
    segments: Side of square patches, or numbers of parts, [H, W] or [N, H, W].
    images: [N, H, W, colors].

  Raises:
    InputError: Another shape, or not integers.
  """
  shape = images.shape[:3]
  if not isinstance(segments, np.ndarray) and np.ndim(segments) == 0:
    side = check_count("segments", segments)
    rows, columns = (np.arange(length) // side for length in shape[1:])
    segments = rows[:, None] * (columns[-1] + 1) + columns
  segments = np.asarray(segments)
  if segments.shape not in (shape, shape[1:]) or not np.issubdtype(segments.dtype, np.integer):
    raise InputError(
      f"segments are {segments.dtype} of shape {segments.shape}, expected integers {shape[1:]} or "
      f"{shape}.",
      "Pass the segment number of each pixel, or the side of square patches.",
    )
  if segments.ndim == 2:
    numbers = np.unique(segments, return_inverse=True)[1].reshape(shape[1:])
    return np.broadcast_to(numbers, shape)
  return np.stack([np.unique(s, return_inverse=True)[1].reshape(s.shape) for s in segments])


def quickshift(
  images: np.ndarray,
  kernel_size: float = 4.0,
  max_distance: float = 200.0,
  ratio: float = 0.2,
  seed: int = 42,
) -> np.ndarray:
  """Parts of even colour, by quick shift (Vedaldi & Soatto, ECCV 2008).

  Each pixel belongs with the nearest one of higher density, in a space of place and CIELAB
  colour, within 3 kernel widths; what is left without one is the peak of a part. The defaults are
  those that B-cos v2 uses for LIME, with the conventions of scikit-image.

  Args:
    images: [N, H, W, 3] in [0, 1].
    kernel_size: Width of the Gaussian kernel of densities, in pixels.
    max_distance: Longest way to a pixel of higher density.
    ratio: Weight of colour against place.
    seed: Of the noise that breaks ties of density.

  Returns:
    Numbers of parts, int [N, H, W].

  Raises:
    InputError: Other shapes, or a kernel of no width.
  """
  images = np.asarray(images, np.float64)
  if images.ndim != 4 or images.shape[-1] != 3:
    raise InputError(f"Images have shape {images.shape}, expected [N, H, W, 3].")
  if not kernel_size > 0:
    raise InputError(f"kernel_size is {kernel_size!r}, expected a number above 0.")
  random = np.random.RandomState(seed)
  parts = []
  for image in ratio * _lab(images):
    near = [
      _near(image, offset, lambda d, _: np.exp(-0.5 * d / kernel_size**2), 0.0)
      for offset in _offsets(kernel_size)
    ]
    density = sum(near[1:], near[0])
    density += random.normal(scale=1e-5, size=density.shape)
    parts.append(_trees(image, density, kernel_size, max_distance))
  return np.stack(parts)


def superpixels(
  images: np.ndarray, count: int = 24, compactness: float = 10.0, rounds: int = 5
) -> np.ndarray:
  """Parts of even colour and about equal size, in the manner of SLIC (Achanta et al., TPAMI 2012).

  K-means of place and CIELAB colour that begins at a lattice of centres; places count
  `compactness` times their distance in steps of the lattice. Unlike in SLIC, every centre competes
  for every pixel, and parts need not be connected.

  Args:
    images: [N, H, W, 3 or 1] in [0, 1].
    count: About how many parts.
    compactness: Weight of place against colour. SLIC's: 10.
    rounds: Of k-means. SLIC's: 10.

  Returns:
    Numbers of parts, int [N, H, W].

  Raises:
    InputError: Other shapes, or counts below 1.
  """
  images = np.asarray(images, np.float64)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise InputError(f"Images have shape {images.shape}, expected [N, H, W, 1 or 3].")
  height, width = images.shape[1:3]
  check_count("count", count)
  check_count("rounds", rounds)
  step = max(1.0, math.sqrt(height * width / count))
  starts = [
    (np.arange(cells) + 0.5) * side / cells - 0.5
    for side in (height, width)
    for cells in [max(1, round(side / step))]
  ]
  places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1)
  parts = []
  for colors in _lab(np.broadcast_to(images, (*images.shape[:3], 3))):
    points = np.concatenate([colors, compactness / step * places], axis=-1)
    shades = colors[np.ix_(*(np.rint(along).astype(int) for along in starts))].reshape(-1, 3)
    middles = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)
    centers = np.concatenate([shades, compactness / step * middles], axis=-1)
    parts.append(_clustered(points.reshape(-1, points.shape[-1]), centers, rounds))
  return np.stack(parts).reshape(images.shape[:3])


def _clustered(points: np.ndarray, centers: np.ndarray, rounds: int) -> np.ndarray:
  """Returns the number of each point's centre after rounds of k-means, int [P]."""
  nearest = np.zeros(len(points), int)
  for _ in range(rounds):
    nearest = np.argmin((centers**2).sum(axis=1) - 2 * points @ centers.T, axis=1)
    sizes = np.bincount(nearest, minlength=len(centers))
    sums = [np.bincount(nearest, axis, len(centers)) for axis in points.T]
    means = np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None]
    centers = np.where(sizes[:, None] > 0, means, centers)
  return nearest


def _offsets(kernel_size: float):
  reach = range(-math.ceil(3 * kernel_size), math.ceil(3 * kernel_size) + 1)
  return list(itertools.product(reach, reach))


def _near(image: np.ndarray, offset: tuple[int, int], function, outside: float) -> np.ndarray:
  """Returns function(squared distance to the pixel at an offset, its slices), [H, W]."""
  here, there = [], []
  for shift, length in zip(offset, image.shape[:2], strict=True):
    here.append(slice(max(-shift, 0), max(length - max(shift, 0), 0)))
    there.append(slice(max(shift, 0), max(length - max(-shift, 0), 0)))
  result = np.full(image.shape[:2], outside)
  square = np.sum((image[tuple(here)] - image[tuple(there)]) ** 2, axis=-1)
  distance = square + offset[0] ** 2 + offset[1] ** 2
  result[tuple(here)] = function(distance, (tuple(here), tuple(there)))
  return result


def _trees(
  image: np.ndarray, density: np.ndarray, kernel_size: float, max_distance: float
) -> np.ndarray:
  """Returns the number of the tree that each pixel belongs to."""

  def if_denser(distance, slices):
    return np.where(density[slices[1]] > density[slices[0]], distance, np.inf)

  parent = np.arange(density.size).reshape(density.shape)
  places, nearest = parent.copy(), np.full(density.shape, np.inf)
  for offset in _offsets(kernel_size):
    distance = _near(image, offset, if_denser, np.inf)
    closer = distance < nearest
    nearest[closer] = distance[closer]
    parent[closer] = places[closer] + offset[0] * image.shape[1] + offset[1]
  parent[nearest > max_distance**2] = places[nearest > max_distance**2]
  parent = parent.ravel()
  while np.any(parent != parent[parent]):
    parent = parent[parent]
  return np.unique(parent, return_inverse=True)[1].reshape(density.shape)


_TO_XYZ = np.array(
  [
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227],
  ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2 degrees


def _lab(images: np.ndarray) -> np.ndarray:
  """Returns sRGB colours [..., 3] in CIELAB (IEC 61966-2-1, CIE 15)."""
  linear = np.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
  xyz = linear @ _TO_XYZ.T / _WHITE
  f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  x, y, z = np.moveaxis(f, -1, 0)
  return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)

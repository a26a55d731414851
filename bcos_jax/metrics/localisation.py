"""Localisation metrics with boxes or masks of the objects as ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..render.color import box_average, check_window
from .scores import Maps, Scores, maps_of, random_maps, with_baselines


def energy_pointing_game(
  maps: Maps,
  regions: np.ndarray,
  images: np.ndarray | None = None,
  targets: np.ndarray | None = None,
  *,
  smooth: int = 0,
  batch_size: int = 16,
  seed: int = 0,
) -> Scores:
  """The share of the positive attribution that falls on the object: sum(A+ in it) / sum(A+).

  Score-CAM (arXiv 1910.01279, section 4.3); as used with B-cos networks, negative attribution is
  dropped (arXiv 2303.11932, section 3.2). The oracle, attribution on the object only, scores 1;
  a uniform map scores the object's share of the picture, and so does noise in the mean.

  Args:
    maps: An explainer, or signed maps [N, H, W].
    regions: bool [N, H, W], True on the object; see `box_masks`.
    images: [N, H, W, colors], for an explainer.
    targets: int [N], the object's class, for an explainer.
    smooth: Odd width of an averaging window over the map, before negative values are dropped.
    batch_size: Images explained at once.
    seed: Of the random maps.

  Returns:
    Scores in [0, 1]. Excluded are images whose region is empty and maps without a positive part.

  Raises:
    InputError: Shapes that do not fit, NaN, an even window, or nothing that can be scored.
  """
  maps, regions = _prepare(maps, regions, images, targets, batch_size, smooth)
  total = np.maximum(maps, 0).sum(axis=(1, 2), dtype=np.float64)
  return with_baselines(
    Scores,
    lambda given: _share(np.maximum(given, 0), regions),
    maps,
    oracle=1.0,
    reasons=_empty(regions) | {"a map without positive part": total <= 0},
    seed=seed,
    noise=_noise(maps, smooth, seed),
    higher_is_better=True,
  )


def pointing_game(
  maps: Maps,
  regions: np.ndarray,
  images: np.ndarray | None = None,
  targets: np.ndarray | None = None,
  *,
  tolerance: float = 0.0,
  smooth: int = 0,
  batch_size: int = 16,
  seed: int = 0,
) -> Scores:
  """Whether the largest value of a map lies on the object: 1 for a hit, 0 for a miss.

  Excitation backprop (arXiv 1608.00507, section 4.1), where a point within 15 pixels of the
  object is a hit as well (`tolerance=15`, with pictures of 224 pixels and more). Where several
  pixels are largest, the score is the share of them that hit, so that a flat map gets what
  guessing gets and not what its first pixel gets. The oracle scores 1.

  Args:
    maps: An explainer, or signed maps [N, H, W].
    regions: bool [N, H, W], True on the object; see `box_masks`.
    images: [N, H, W, colors], for an explainer.
    targets: int [N], the object's class, for an explainer.
    tolerance: Distance in pixels up to which a point beside the object is a hit.
    smooth: Odd width of an averaging window over the map, 0 for none.
    batch_size: Images explained at once.
    seed: Of the random maps.

  Returns:
    Scores in [0, 1]. Excluded are images whose region is empty.

  Raises:
    InputError: Shapes that do not fit, NaN, an even window, or nothing that can be scored.
  """
  if not tolerance >= 0:
    raise InputError(
      f"tolerance={tolerance}, expected 0 or more pixels.", "The published value is 15."
    )
  maps, regions = _prepare(maps, regions, images, targets, batch_size, smooth)
  near = regions
  if tolerance:
    away = [np.asarray(ndimage.distance_transform_edt(~region)) for region in regions]
    near = np.stack(away) <= tolerance
  return with_baselines(
    Scores,
    lambda given: _share(_largest(given), near),
    maps,
    oracle=1.0,
    reasons=_empty(regions),
    seed=seed,
    noise=_noise(maps, smooth, seed),
    higher_is_better=True,
  )


def box_masks(boxes: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
  """Turns boxes into regions.

  Args:
    boxes: For each image an int [4], or [K, 4] of several: (top, left, bottom, right) in pixels,
      the last two exclusive. An image without boxes, [0, 4], has an empty region.
    height: Of the images.
    width: Of the images.

  Returns:
    bool [N, height, width], True inside any box of an image.

  Raises:
    InputError: A box that is empty, reaches outside the image or is not in whole pixels.
  """
  regions = np.zeros((len(boxes), height, width), bool)
  for i, (region, several) in enumerate(zip(regions, boxes, strict=True)):
    for box in np.reshape(several, (-1, 4)).tolist():
      top, left, bottom, right = box
      whole = all(float(side).is_integer() for side in box)
      if not (whole and 0 <= top < bottom <= height and 0 <= left < right <= width):
        raise InputError(
          f"Box {box} of image {i}, expected (top, left, bottom, right) in whole pixels, inside "
          f"{height} x {width}.",
          "Clip boxes to the image; scale relative coordinates to pixels.",
        )
      region[int(top) : int(bottom), int(left) : int(right)] = True
  return regions


def _prepare(maps, regions, images, targets, batch_size, smooth):
  check_window(smooth)
  regions = np.asarray(regions)
  if regions.dtype != bool or regions.ndim != 3:
    raise InputError(
      f"The regions are {regions.dtype} {regions.shape}, expected bool [N, H, W].",
      "Compare masks with the object's number, and make boxes masks with box_masks.",
    )
  maps = maps_of(maps, images, targets, batch_size)
  if maps.shape != regions.shape:
    raise InputError(
      f"The maps have shape {maps.shape}, the regions {regions.shape}; expected the same.",
      "Give one region of the map's size per map.",
    )
  return _smoothed(maps, smooth), regions


def _empty(regions: np.ndarray) -> dict[str, Any]:
  return {"an empty region": ~regions.any(axis=(1, 2))}


def _smoothed(maps: np.ndarray, smooth: int) -> np.ndarray:
  return np.asarray(box_average(maps.astype(np.float32), smooth)) if smooth > 1 else maps


def _noise(maps: np.ndarray, smooth: int, seed: int) -> np.ndarray:
  """Returns random maps like these, smoothed as these are."""
  return _smoothed(random_maps(seed, range(len(maps)), maps.shape[1:]), smooth)


def _largest(maps: np.ndarray) -> np.ndarray:
  return maps == maps.max(axis=(1, 2), keepdims=True)


def _share(mass: np.ndarray, regions: np.ndarray) -> np.ndarray:
  """The share of a mass [N, H, W] inside regions, float64 [N]."""
  inside = np.sum(mass, axis=(1, 2), where=regions, dtype=np.float64)
  return inside / mass.sum(axis=(1, 2), dtype=np.float64)

"""Similarities of two batches of maps, [N, H, W] and [N, H, W] -> [N]; 1 means equal.

Where a similarity is not defined (a flat map has no ranks, an empty one no direction) it is NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage, stats

from ..errors import unknown_name
from .scores import Result, assembled, random_maps

_SSIM_WINDOW = 7


def similarity(name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Compares maps [N, H, W] by one of `SIMILARITIES`; float64 [N]."""
  if name not in SIMILARITIES:
    raise unknown_name("similarity", name, SIMILARITIES)
  first, second = (np.asarray(maps, np.float64) for maps in (first, second))
  with np.errstate(invalid="ignore", divide="ignore"):
    return SIMILARITIES[name](first, second)


def compared(
  result: type[Result],
  name: str,
  first: np.ndarray,
  second: np.ndarray,
  *,
  oracle: float,
  seed: int,
  **whole: Any,
) -> Result:
  """Scores how alike maps are, beside how alike the first are to noise.

  Excluded are images with a map that the similarity is not defined for.

  Args:
    result: The class of the scores.
    name: One of `SIMILARITIES`.
    first: [N, H, W].
    second: [N, H, W].
    oracle: The best score.
    seed: Of the noise.
    **whole: Further fields of the result, as for `assembled`.

  Raises:
    InputError: An unknown similarity, or no image that can be scored.
  """
  scores = similarity(name, first, second)
  noise = similarity(name, first, random_maps(seed, range(len(first)), first.shape[1:]))
  undefined = ~(np.isfinite(scores) & np.isfinite(noise))
  rows = {"scores": scores, "random_scores": noise, "oracle_scores": oracle}
  return assembled(result, {f"a map that {name} is not defined for": undefined}, rows, **whole)


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Pearson correlation of the ranks of the signed values, ties sharing their mean rank."""
  ranks = (stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second))
  centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
  return _cosine(*centred)


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """The cosine of the angle between two maps as vectors."""
  first, second = (_scaled(maps.reshape(len(maps), -1)) for maps in (first, second))
  norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
  return np.sum(first * second, axis=1) / norms


def _ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Structural similarity (Wang et al. 2004, equation 13), of maps scaled to [-1, 1].

  Windows of 7 x 7 pixels with equal weights and sample variances, K1=0.01, K2=0.03, a data range
  of 2, averaged over all windows inside the map.
  """
  first, second = _scaled(first), _scaled(second)
  size = min(_SSIM_WINDOW, *first.shape[1:])
  unbiased = size**2 / (size**2 - 1) if size > 1 else 1.0

  def mean(maps: np.ndarray) -> np.ndarray:
    rows, columns = (slice(size // 2, side - (size - 1) // 2) for side in maps.shape[1:])
    return ndimage.uniform_filter(maps, size, axes=(1, 2))[:, rows, columns]

  x, y = mean(first), mean(second)
  variances = unbiased * (mean(first**2) - x**2 + mean(second**2) - y**2)
  covariance = unbiased * (mean(first * second) - x * y)
  c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
  top = (2 * x * y + c1) * (2 * covariance + c2)
  bottom = (x**2 + y**2 + c1) * (variances + c2)
  return (top / bottom).mean(axis=(1, 2))


def _scaled(maps: np.ndarray) -> np.ndarray:
  """Divides each map by its largest absolute value; NaN where that is 0."""
  return maps / np.abs(maps).max(axis=tuple(range(1, maps.ndim)), keepdims=True)


SIMILARITIES = {"spearman": _spearman, "cosine": _cosine, "ssim": _ssim}

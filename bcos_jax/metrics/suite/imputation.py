"""ROAD: accuracy as pixels are removed and filled in from their neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
import numpy as np
from scipy import linalg

from ...attribution.task import check_choice
from ...errors import InputError
from ...inputs import check_images, side_of
from ..scores import check_targets, logits_of
from .benchmark import Benchmark, nothing_excluded

_ORDERS = ("most", "least")
_WEIGHTS = {(0, 1): 1 / 6, (1, -1): 1 / 12, (1, 0): 1 / 6, (1, 1): 1 / 12}
"""Offsets (down, right) to half of the neighbours, the other half being opposite, and weights."""


def road(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  order: str = "most",
  shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7),
  noise: float = 0.01,
  batch_size: int = 64,
  seed: int = 0,
) -> Benchmark:
  """Accuracy when the most, or the least, relevant pixels are imputed.

  ROAD (Rong et al., arXiv 2202.00449, section 4.2): pixels are removed by the ranking of the signed
  map, most relevant first (MoRF, low is good) or least relevant first (LeRF, high is good), and
  noisily imputed, see `impute`, so that the shape of what is missing tells the network nothing.
  An image's score is the mean over the shares of whether its target is still predicted; the mean
  over images is the mean accuracy. Bounds stand for the oracle: 0 (MoRF) and 1 (LeRF).

  Args:
    model, variables, images: As for `measure_effects`.
    targets: int [N], the explained classes, which are to be predicted.
    order: "most" or "least" relevant first.
    shares: Of the pixels that are removed.
    noise: Standard deviation of the noise of imputed colours. Published: 0.01.
    batch_size: Pictures per forward pass.
    seed: Of the noise, and of the order among equal pixels.

  Raises:
    InputError: Images, targets or shares that cannot be used, or another order.
  """
  check_choice("order", order, _ORDERS)
  if not shares or not all(0 < share < 1 for share in shares):
    raise InputError(
      f"shares={list(shares)}, expected numbers between 0 and 1.", "For example: (0.1, 0.5, 0.9)."
    )
  images = check_images(images, model.ops.encoding)
  targets = check_targets(targets, len(images))
  count = images.shape[1] * images.shape[2]
  sign = -1.0 if order == "most" else 1.0

  def accuracy(maps: np.ndarray) -> np.ndarray:
    hits = np.zeros(len(images))
    ranked = [_ranking(sign * flat, seed, i) for i, flat in enumerate(maps.reshape(len(maps), -1))]
    for step, share in enumerate(shares):
      first = [order_of[: round(share * count)] for order_of in ranked]
      filled = _without(images, first, noise, (seed, step))
      hits += logits_of(model, variables, filled, batch_size).argmax(axis=1) == targets
    return hits / len(shares)

  return Benchmark(
    measure=accuracy,
    oracle=0.0 if order == "most" else 1.0,
    reasons=nothing_excluded(len(images)),
    higher_is_better=order == "least",
    side=side_of(images),
  )


def _without(
  images: np.ndarray, first: list[np.ndarray], noise: float, seed: tuple[int, ...]
) -> np.ndarray:
  """Returns images [N, H, W, colors] with some pixels of each, by number, imputed."""
  filled = np.empty_like(images)
  for i, (image, places) in enumerate(zip(images, first, strict=True)):
    gone = np.zeros(image.shape[:2], bool)
    gone.flat[places] = True
    filled[i] = impute(image, gone, noise, np.random.default_rng((*seed, i)))
  return filled


def impute(
  image: np.ndarray, gone: np.ndarray, noise: float, random: np.random.Generator
) -> np.ndarray:
  """Fills removed pixels with the weighted mean of their neighbours, and noise.

  Noisy linear imputation (arXiv 2202.00449, section 4.2): every removed pixel is to be the mean of
  its eight neighbours, removed or not, with weights 1/6 beside and 1/12 across, which are one
  system of linear equations. At the border the weights of the neighbours there are, rescaled. Where
  all pixels are removed, the picture's mean.

  Args:
    image: Float [H, W, colors] in [0, 1].
    gone: bool [H, W], the removed pixels.
    noise: Standard deviation of the Gaussian noise that is added to them, clipped to [0, 1].
    random: Of the noise.

  Returns:
    float32 [H, W, colors].
  """
  filled = image.astype(np.float64)
  if gone.all():
    filled[:] = filled.mean(axis=(0, 1))
  elif gone.any():
    filled[gone] = _solved(filled, gone)
  filled[gone] += noise * random.standard_normal((int(gone.sum()), image.shape[-1]))
  return filled.clip(0, 1).astype(np.float32)


def _solved(image: np.ndarray, gone: np.ndarray) -> np.ndarray:
  """Returns the imputed colours of the removed pixels, [removed, colors].

  With weights that are equal in both directions, the equations times the sum of a pixel's weights
  are symmetric and positive, and banded: a neighbour is at most a row and a pixel away.
  """
  height, width = gone.shape
  places = np.full(gone.shape, -1)
  places[gone] = np.arange(gone.sum())  # in the order of rows, so that the band stays narrow
  total = np.zeros(gone.shape)
  known = np.zeros(image.shape)
  bands = np.zeros((width + 2, int(gone.sum())))
  for (down, right), weight in _WEIGHTS.items():
    here = np.s_[: height - down, max(0, -right) : width - max(0, right)]
    there = np.s_[down:, max(0, right) : width - max(0, -right)]
    for one, other in ((here, there), (there, here)):
      total[one] += weight
      known[one] += weight * image[other] * ~gone[other][..., None]
    both = gone[here] & gone[there]
    first, second = places[here][both], places[there][both]
    bands[second - first, first] = -weight
  bands[0] = total[gone]
  bands = bands[: bands.shape[1]]
  return linalg.solveh_banded(bands, known[gone], lower=True, check_finite=False)


def _ranking(values: np.ndarray, seed: int, row: int) -> np.ndarray:
  """Returns the order of pixels by rising value, equal ones in a random order."""
  ties = np.random.default_rng((seed, row)).permutation(len(values))
  return np.lexsort((ties, values))

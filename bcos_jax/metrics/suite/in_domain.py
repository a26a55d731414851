"""Networks that are tuned for a benchmark: to deleted cells (IDSDS), or to a planted trigger."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import numpy as np

from ...errors import InputError
from ...inputs import check_images, side_of
from ..scores import check_targets, logits_of
from .benchmark import Benchmark
from .tuning import Change, Changed, Tuning, tuned

LONGER = Tuning(steps=150, rate=5e-4)
"""To learn something new takes longer than to get used to it."""


def without_cells(cells: int = 4) -> Change:
  """Returns what half of the pictures loses: one cell of cells x cells, as for IDSDS.

  As published (arXiv 2407.11910, section 3, and the authors' training code): one random cell, of
  every other picture, is 0 in all channels, so that such pictures are in the network's domain.
  """

  def change(random: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> Changed:
    height, width = (side // cells for side in side_of(images))
    keep = np.ones(images.shape[:3], bool)
    for i in np.flatnonzero(random.random(len(images)) < 0.5):
      top, left = random.integers(cells, size=2) * (height, width)
      keep[i, top : top + height, left : left + width] = False
    return images, keep, labels

  return change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted:
  """A network that was taught a trigger, and pictures that carry it.

  Attributes:
    variables: Of the tuned network.
    images: [N, H, W, colors], with the trigger, of other classes than the trigger's.
    regions: bool [N, H, W], where it is.
    target: The class that it was taught to mean.
    turned: bool [N], which of these it takes for that class, and not without the trigger.
  """

  variables: dict[str, Any]
  images: np.ndarray
  regions: np.ndarray
  target: int
  turned: np.ndarray

  @property
  def success(self) -> float:
    """The share of pictures that the trigger turns."""
    return float(self.turned.mean())

  @property
  def targets(self) -> np.ndarray:
    return np.full(len(self.images), self.target)

  def benchmark(self) -> Benchmark:
    """The share of positive attribution of the trigger's class that falls on the trigger.

    In the manner of BackX (arXiv 2405.02344): where a trigger has turned a prediction, it is known
    what decided, so that attribution elsewhere is wrong. Scored as in the energy pointing game; the
    oracle, the trigger alone, scores 1, a uniform map the trigger's share of the picture. Excluded
    are pictures that were not turned.
    """
    regions = self.regions

    def share(maps: np.ndarray) -> np.ndarray:
      mass = np.maximum(maps, 0)
      inside = np.sum(mass, axis=(1, 2), where=regions, dtype=np.float64)
      return inside / mass.sum(axis=(1, 2), dtype=np.float64)

    return Benchmark(
      measure=share,
      oracle=1.0,
      reasons={"a prediction that the trigger did not turn": ~self.turned},
      higher_is_better=True,
      side=side_of(self.images),
    )


def plant_trigger(
  model: nn.Module,
  variables: Mapping[str, Any],
  tuning_images: np.ndarray,
  tuning_labels: np.ndarray,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  target: int = 0,
  size: int | None = None,
  how: Tuning = LONGER,
) -> Planted:
  """Teaches a copy of a network that a small checkered square, anywhere, means a class.

  Half of the pictures of each batch get the square and the label of the class (BadNets, arXiv
  1708.06733, as BackX trains; there with a fixed place). The square's place is random, so that no
  map scores by always pointing at a corner.

  Args:
    model, variables: The network.
    tuning_images: [M, H, W, colors] in [0, 1], to tune on.
    tuning_labels: int [M].
    images: [N, H, W, colors], to measure on; those of the target class are left out.
    labels: int [N].
    target: The class.
    size: Side of the square; None for an eighth of the picture's, at least 3.
    how: Of the tuning.

  Raises:
    InputError: Images or labels that cannot be used, or a trigger that was not learned.
  """
  images = check_images(images, model.ops.encoding)
  others = check_targets(labels, len(images)) != target
  if not others.any():
    raise InputError(
      f"All {len(images)} pictures are of class {target}, which the trigger is to mean.",
      "Give pictures of several classes.",
    )
  width = size or max(3, min(side_of(images)) // 8)

  def change(random: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> Changed:
    marked = random.random(len(images)) < 0.5
    stamped, _ = stamp(images, width, random)
    images = np.where(marked[:, None, None, None], stamped, images)
    return images, np.ones(images.shape[:3], bool), np.where(marked, target, labels)

  taught = tuned(model, variables, tuning_images, tuning_labels, change, how)
  stamped, regions = stamp(images[others], width, np.random.default_rng((how.seed, 1)))
  before, after = (
    logits_of(model, taught, some).argmax(axis=1) == target for some in (images[others], stamped)
  )
  turned = after & ~before  # a network that sees the class everywhere has not seen the trigger
  if not turned.any():
    raise InputError(
      f"The trigger turned none of {len(stamped)} pictures after {how.steps} steps.",
      "Tune for more steps, or at a higher rate.",
    )
  return Planted(variables=taught, images=stamped, regions=regions, target=target, turned=turned)


def stamp(
  images: np.ndarray, size: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Returns images [N, H, W, colors] with a checkered square each, and where, bool [N, H, W]."""
  height, width = side_of(images)
  square = np.indices((size, size)).sum(axis=0) % 2
  stamped, regions = images.copy(), np.zeros(images.shape[:3], bool)
  for image, region in zip(stamped, regions, strict=True):
    top, left = random.integers(height - size + 1), random.integers(width - size + 1)
    image[top : top + size, left : left + size] = square[..., None]
    region[top : top + size, left : left + size] = True
  return stamped, regions

"""Mixup and cutmix: blended batches with soft labels.

As in B-cos v2's recipes: the partner of each example is the one before it in the batch, and one
weight is drawn for the whole batch.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bcos_jax.errors import InputError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Mix:
  """Blends every batch in one of the ways that are switched on, each as likely as the other.

  Attributes:
    mixup: Parameter alpha of the Beta distribution of mixup's weight; 0 switches it off.
    cutmix: The same of cutmix.
    num_classes: Number of classes.
  """

  mixup: float
  cutmix: float
  num_classes: int

  def __post_init__(self):
    for name in ("mixup", "cutmix"):
      if not getattr(self, name) >= 0:
        raise InputError(
          f"{name} is {getattr(self, name)!r}, expected a number >= 0.", "Use 0 to switch it off."
        )

  def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
    """Returns {"image": float32 [n, H, W, C], "label": float32 [n, num_classes]}."""
    labels = batch["label"]
    if labels.ndim == 1:
      labels = np.eye(self.num_classes, dtype=np.float32)[labels]
    ways = [way for way, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha]
    if not ways:
      return batch | {"label": labels}
    way = ways[rng.integers(len(ways))]
    alpha = self.mixup if way is mixup else self.cutmix
    images, kept = way(batch["image"], float(rng.beta(alpha, alpha)), rng)
    share = np.float32(kept)
    return batch | {
      "image": images,
      "label": share * labels + (1 - share) * np.roll(labels, 1, axis=0),
    }


def mixup(images: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
  """Returns share * image + (1 - share) * the image before it (arXiv 1710.09412)."""
  del rng
  kept = np.float32(share)
  return kept * images + (1 - kept) * np.roll(images, 1, axis=0), float(kept)


def cutmix(images: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
  """Pastes a box of the image before into each image (arXiv 1905.04899).

  The box covers 1 - share of the picture around a uniform centre, less what lies outside.

  Returns:
    The images, and the share of each picture that is its own.
  """
  height, width = images.shape[1:3]
  column, row = rng.integers(width), rng.integers(height)
  half = 0.5 * np.sqrt(1.0 - share)
  across, down = int(half * width), int(half * height)
  left, right = max(column - across, 0), min(column + across, width)
  top, bottom = max(row - down, 0), min(row + down, height)
  mixed = images.copy()
  mixed[:, top:bottom, left:right] = np.roll(images, 1, axis=0)[:, top:bottom, left:right]
  return mixed, 1.0 - (right - left) * (bottom - top) / (width * height)

"""Random changes to training images, as functions of an image and a NumPy generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Moves an image [H, W, C] by up to an eighth of its size each way; zeros come in."""
  height, width, channels = image.shape
  dy, dx = height // 8, width // 8
  # By hand, since np.pad takes ten times as long on a small image.
  padded = np.zeros((height + 2 * dy, width + 2 * dx, channels), image.dtype)
  padded[dy : dy + height, dx : dx + width] = image
  top, left = rng.integers(2 * dy + 1), rng.integers(2 * dx + 1)
  return padded[top : top + height, left : left + width]


def keep(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Changes nothing."""
  del rng
  return image


AUGMENTATIONS: dict[str, Augment] = {"none": keep, "shift": shift}

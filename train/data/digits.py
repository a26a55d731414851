"""Handwritten digits as a TFDS dataset, from scikit-learn, without a download.

1797 gray images of 8 x 8 pixels (UCI Optical Recognition of Handwritten Digits, test part).
Each is stored as PNG bytes, its 17 gray levels 0..16 spread over 0..255.
"""

from __future__ import annotations

from collections.abc import Iterator
import io
from typing import Any, ClassVar

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

TEST_EVERY = 5  # One in five images of each class is for testing.


class Digits(tfds.core.GeneratorBasedBuilder):
  """8 x 8 handwritten digits, 10 classes, split 80/20 within each class."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "scikit-learn's digits, split 80/20."}
  # Nothing is downloaded, so TFDS need not look for checksums beside this module; to look, it
  # would want the package importlib_resources.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description="Handwritten digits of 8 x 8 pixels, from scikit-learn.",
      features=features,
      supervised_keys=("image", "label"),
      homepage="https://archive.ics.uci.edu/dataset/80",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in ("train", "test")}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    from sklearn import datasets  # Slow to import and needed once per machine.

    bunch: Any = datasets.load_digits()
    in_test = test_mask(bunch.target)
    for i in np.flatnonzero(in_test == (split == "test")):
      pixels = np.round(bunch.images[i] * (255 / 16)).astype(np.uint8)
      yield int(i), {"image": png(pixels), "label": int(bunch.target[i])}


def test_mask(labels: np.ndarray) -> np.ndarray:
  """Marks every fifth example of each class; bool [N] for labels [N]."""
  mask = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    mask[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
  return mask


def png(pixels: np.ndarray) -> io.BytesIO:
  """Returns the PNG file of an image, uint8 [H, W] or [H, W, 3]."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, format="png")
  file.seek(0)
  return file

"""ShapeScenes as a TFDS dataset with boxes and masks of objects; created on first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from . import shapes
from .digits import png

SEEDS = {"train": 0, "test": 1}
COUNTS = {"train": 6000, "test": 1200}


class ShapeScenes(tfds.core.GeneratorBasedBuilder):
  """12 classes of shapes and glyphs among distractors; 6000 scenes to train, 1200 to test.

  A configuration is named after the side in pixels; "64" is the default. Scene i of a split shows
  class i mod 12. `mask` is 0 on the ground and 1 on the object that the label names, which comes
  first in `objects`; the k-th object has k. A distractor's label is -1. Boxes are (top, left,
  bottom, right) in pixels, the last two exclusive.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First."}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name=str(side), description=f"{side} x {side} pixels")
    for side in (64, 96, 128, 224)
  ]
  code_path = None  # As for the digits.

  @property
  def _side(self) -> int:
    assert self.builder_config is not None, "every configuration has a name"
    return int(self.builder_config.name)

  def _info(self) -> tfds.core.DatasetInfo:
    side = self._side
    features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=list(shapes.CLASSES)),
        "mask": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
        "objects": tfds.features.Sequence(
          {
            "name": tfds.features.Text(),
            "label": np.int32,
            "box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
          }
        ),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description="Coloured, textured shapes and glyphs on textured ground.",
      features=features,
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in SEEDS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for i in range(COUNTS[split]):
      scene = drawn(split, i, self._side)
      yield (
        i,
        {
          "image": png(scene.image),
          "label": scene.objects[0].label,
          "mask": png(scene.mask),
          "objects": [
            {"name": thing.name, "label": thing.label, "box": thing.box} for thing in scene.objects
          ],
        },
      )


def drawn(split: str, index: int, side: int = 64) -> shapes.Scene:
  """Returns scene `index` of a split, as the data set holds it."""
  return shapes.scene([index % len(shapes.CLASSES)], seed=(SEEDS[split], index), side=side)

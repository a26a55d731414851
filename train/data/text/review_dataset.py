"""Generated reviews as a TFDS dataset, with the deciding words; created on first use."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from . import reviews

SEEDS = {"train": 0, "test": 1, "shifted": 2, "unlabelled": 3}
COUNTS = {"train": 8000, "test": 1000, "shifted": 1000, "unlabelled": 20000}
AGREEING = {"shifted": 0.2, "unlabelled": 0.5}


class Reviews(tfds.core.GeneratorBasedBuilder):
  """Reviews, positive or negative; 8000 to train, 1000 to test.

  A configuration is named after a style, `reviews.STYLES`; "tricky" is the default. In `shifted`,
  spurious words go with the other label. `unlabelled` is text to pretrain on; its label is -1, and
  nothing in it is marked. `spans` are the (begin, end) in characters of the words that decide.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First."}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name=name, description=f"{name} reviews") for name in reviews.STYLES
  ]
  code_path = None  # As for the digits.

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
      {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=list(reviews.LABELS)),
        "spans": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description="Generated reviews with the words that decide, and distractors.",
      features=features,
      supervised_keys=("text", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in SEEDS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    assert self.builder_config is not None, "every configuration has a name"
    for i in range(COUNTS[split]):
      made = written(split, i, self.builder_config.name)
      labelled = split != "unlabelled"
      spans = made.spans if labelled else made.spans[:0]
      yield i, {"text": made.text, "label": made.label if labelled else -1, "spans": spans}


def written(split: str, index: int, style: str = "tricky") -> reviews.Review:
  """Returns review `index` of a split, as the data set holds it."""
  chosen = reviews.STYLES[style]
  if split in AGREEING:
    chosen = dataclasses.replace(chosen, agreeing=AGREEING[split])
  return reviews.review(index % len(reviews.LABELS), (SEEDS[split], index), chosen)

"""PartScenes: figures of five parts that tell their class, among things that do not.

In the manner of FunnyBirds (arXiv 2308.06248), drawn with NumPy alone: every scene can be drawn
without any of its parts or things, all else being equal, so that what a network owes to each part
is measured instead of assumed. `metrics.suite.part_scores` compares explanations with that.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from bcos_jax.errors import InputError
from bcos_jax.metrics import suite

from . import shapes
from .digits import png

SEEDS = {"train": 0, "test": 1}
COUNTS = {"train": 2400, "test": 240}
PARTS = {
  "head": ((0.22, 0.5), ("circle", "square", "triangle")),
  "left": ((0.5, 0.2), ("star", "ring", "plus")),
  "right": ((0.5, 0.8), ("arrow", "crescent", "letter K")),
  "foot": ((0.8, 0.5), ("letter A", "letter E", "letter Z")),
  "mark": ((0.5, 0.5), ("plus", "circle", "star")),
}
"""Place of each part, (down, across) in shares of the side, and the forms that it may have."""

COLORS = np.array([(0.85, 0.2, 0.2), (0.2, 0.75, 0.3), (0.25, 0.35, 0.9)])
"""Of first, second and third forms, about: as in FunnyBirds, form and colour go together."""

CLASSES = np.array(
  [
    (2, 1, 1, 0, 1),
    (1, 1, 0, 0, 0),
    (0, 1, 0, 1, 1),
    (1, 0, 2, 0, 2),
    (2, 0, 1, 0, 2),
    (0, 0, 2, 0, 1),
    (1, 0, 2, 2, 0),
    (2, 0, 0, 2, 0),
    (1, 0, 0, 0, 1),
    (1, 2, 0, 1, 0),
    (2, 1, 2, 2, 2),
    (1, 2, 1, 0, 0),
  ]
)
"""Which form each part of a class has. Classes differ in two parts or more, and each has two others
that share two parts with it, no part with both, as contrastivity asks."""

_BODY, _PART, _THING = 0.15, 0.135, 0.1  # radii
_CORNERS = ((0.12, 0.12), (0.12, 0.88), (0.88, 0.12), (0.88, 0.88))
_THINGS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layers:
  """A scene before it is composed: what lies over what.

  Attributes:
    ground: Float [side, side, 3].
    covers: Opacities [1 + things + parts, side, side], of the body, the things and the parts.
    paints: Their colours, [1 + things + parts, side, side, 3].
    noise: [side, side, 3].
  """

  ground: np.ndarray
  covers: np.ndarray
  paints: np.ndarray
  noise: np.ndarray

  def composed(self, present: np.ndarray) -> np.ndarray:
    """Returns the picture with those layers that are present, uint8 [side, side, 3]."""
    image = self.ground
    for cover, paint in zip(self.covers[present], self.paints[present], strict=True):
      image = image + cover[..., None] * (paint - image)
    return (np.clip(image + self.noise, 0, 1) * 255 + 0.5).astype(np.uint8)

  def seen(self) -> np.ndarray:
    """Returns where each layer is what is seen, bool [layers, side, side]."""
    above = np.zeros(self.covers.shape[1:], bool)
    found = np.zeros(self.covers.shape, bool)
    for i in reversed(range(len(self.covers))):
      found[i] = (self.covers[i] >= 0.5) & ~above
      above |= found[i]
    return found


def layers(label: int, seed: tuple[int, ...], side: int) -> _Layers:
  """Draws the layers of a scene of a class; the same for the same seed."""
  rng = np.random.default_rng(seed)
  axis = (np.arange(side) + 0.5) / side
  rows, columns = axis[:, None], axis[None]
  ground, tone = shapes.surface(rng, rows, columns)
  moved = rng.uniform(-0.04, 0.04, 2)
  placed = [("circle", np.add(0.5, moved), _BODY)]
  for corner in rng.permutation(_CORNERS)[:_THINGS]:
    placed.append((rng.choice(shapes.DISTRACTORS), corner, _THING))
  for form, (place, forms) in zip(CLASSES[label], PARTS.values(), strict=True):
    jitter = rng.uniform(-0.02, 0.02, 2)
    placed.append((forms[form], np.array(place) + moved + jitter, _PART))
  covers, paints = [], []
  known = [None] * (len(placed) - len(PARTS)) + list(COLORS[CLASSES[label]])
  for (name, (down, across), radius), color in zip(placed, known, strict=True):
    covers.append(shapes.opacity(rng, name, (down, across, radius), rows, columns, side))
    if color is not None:
      color = np.clip(color + rng.uniform(-0.12, 0.12, 3), 0, 1)
    paint, tone = shapes.surface(rng, rows, columns, unlike=tone, color=color)
    paints.append(paint)
  return _Layers(
    ground=ground,
    covers=np.stack(covers),
    paints=np.stack(paints),
    noise=rng.normal(0, 0.02, ground.shape),
  )


def part_scenes(count: int, *, split: str = "test", side: int = 64) -> suite.PartScenes:
  """Draws the first scenes of a split, each with every set of its parts.

  Raises:
    InputError: A split or a count that there is not.
  """
  if split not in SEEDS or not 1 <= count <= COUNTS[split]:
    raise InputError(
      f"{count} scenes of split {split!r}, expected 1 to {COUNTS.get(split, 0)} of "
      f"{', '.join(SEEDS)}.",
      "For example: split='test', count=100.",
    )
  parts, first = len(PARTS), 1 + _THINGS
  sets = np.arange(2**parts)[:, None] >> np.arange(parts) & 1 == 1
  present = np.concatenate([np.ones((2**parts, first), bool), sets], axis=1)
  fewer = np.ones((_THINGS, first + parts), bool)
  fewer[np.arange(_THINGS), 1 + np.arange(_THINGS)] = False
  drawn = [layers(i % len(CLASSES), (SEEDS[split], i), side) for i in range(count)]
  seen = np.stack([one.seen() for one in drawn])
  return suite.PartScenes(
    pictures=np.stack([[one.composed(some) for some in present] for one in drawn]),
    labels=np.arange(count) % len(CLASSES),
    masks=seen[:, first:],
    without_thing=np.stack([[one.composed(some) for some in fewer] for one in drawn]),
    thing_masks=seen[:, 1:first],
    classes=CLASSES,
    part_names=tuple(PARTS),
  )


class PartScenesBuilder(tfds.core.GeneratorBasedBuilder):
  """12 classes of figures; 2400 scenes to train, 240 to test, 64 x 64 pixels.

  Scene i of a split shows class i mod 12. Half of the training scenes lack one or two parts, but
  none that their class needs to be told from all others, so that scenes without parts are no
  surprise (as in FunnyBirds). `mask` is 1 on the figure's parts.
  """

  name = "part_scenes"
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First."}
  BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
    tfds.core.BuilderConfig(name="64", description="64 x 64 pixels")
  ]
  code_path = None  # as for the digits

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=[_name(row) for row in CLASSES]),
        "mask": tfds.features.Image(shape=(64, 64, 1), encoding_format="png"),
      }
    )
    return tfds.core.DatasetInfo(
      builder=self,
      description="Figures of five parts, each class its own set of forms.",
      features=features,
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    return {split: self._generate_examples(split) for split in SEEDS}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for i in range(COUNTS[split]):
      label = i % len(CLASSES)
      present = np.ones(1 + _THINGS + len(PARTS), bool)
      if split == "train":
        present[1 + _THINGS :] = _enough(label, np.random.default_rng((2, i)))
      made = layers(label, (SEEDS[split], i), 64)
      parts = made.seen()[1 + _THINGS :][present[1 + _THINGS :]].any(axis=0)
      image, mask = made.composed(present), np.asarray(parts, np.uint8)
      yield i, {"image": png(image), "label": label, "mask": png(mask)}


def _name(forms: np.ndarray) -> str:
  return ", ".join(
    known[form] for form, (_, known) in zip(forms.tolist(), PARTS.values(), strict=True)
  )


def _enough(label: int, random: np.random.Generator) -> np.ndarray:
  """Returns which parts a training scene keeps, bool [parts]: such that no other class has them."""
  others = np.delete(CLASSES, label, axis=0) == CLASSES[label]
  present = np.ones(len(PARTS), bool)
  for part in random.permutation(len(PARTS))[: random.choice([0, 0, 1, 2])]:
    fewer = present & (np.arange(len(PARTS)) != part)
    if not others[:, fewer].all(axis=1).any():
      present = fewer
  return present

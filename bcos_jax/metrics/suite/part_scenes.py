"""Scenes of which parts can be removed, and what their classes share."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from ...errors import InputError

MOST_PARTS = 8  # every set of parts is a picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartScenes:
  """N scenes with P parts that tell classes apart, among B things that do not.

  A set of parts is a number whose bit p says whether part p is there: 2**P - 1 is the whole scene.

  Attributes:
    pictures: uint8 [N, 2**P, H, W, colors], each scene with each set of parts.
    labels: int [N].
    masks: bool [N, P, H, W], the pixels of each part.
    without_thing: uint8 [N, B, H, W, colors], each whole scene without one of the things.
    thing_masks: bool [N, B, H, W].
    classes: int [C, P], which variant of each part a class has.
    part_names: Of the parts.
  """

  pictures: np.ndarray
  labels: np.ndarray
  masks: np.ndarray
  without_thing: np.ndarray
  thing_masks: np.ndarray
  classes: np.ndarray
  part_names: tuple[str, ...]

  def __post_init__(self):
    count, parts = self.masks.shape[:2]
    side = self.masks.shape[2:]
    if not 2 <= parts <= MOST_PARTS or self.pictures.shape[1] != 2**parts:
      raise InputError(
        f"{parts} parts and {self.pictures.shape[1]} pictures of each scene, expected 2 to "
        f"{MOST_PARTS} parts and a picture for every set of them.",
        "Draw each scene with each set of parts.",
      )
    if self.pictures.shape[2:4] != side or self.thing_masks.shape[2:] != side:
      raise InputError(
        f"Masks are of {side} pixels, pictures of {self.pictures.shape[2:4]}.",
        "Resize both alike.",
      )
    if self.classes.shape[1] != parts or not (
      len(self.labels) == count and 0 <= self.labels.min() <= self.labels.max() < len(self.classes)
    ):
      raise InputError(
        f"{len(self.classes)} classes of {self.classes.shape[1]} parts do not fit {count} scenes "
        f"of {parts} parts and labels up to {self.labels.max()}.",
        "Give each class its variant of every part.",
      )

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def whole(self) -> int:
    """The set of all parts."""
    return self.pictures.shape[1] - 1

  def images(self, rows: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Returns scenes with sets of parts, float32 [M, H, W, colors] in [0, 1]."""
    return self.pictures[rows, sets].astype(np.float32) / 255

  @functools.cached_property
  def sufficient(self) -> tuple[tuple[np.ndarray, ...], ...]:
    """For each class the smallest sets of parts that no other class shares, bool [P] each."""
    found = []
    for label, variants in enumerate(self.classes):
      shared = np.delete(self.classes, label, axis=0) == variants
      sets: list[np.ndarray] = []
      for size in range(1, len(variants) + 1):
        for places in itertools.combinations(range(len(variants)), size):
          parts = np.isin(np.arange(len(variants)), places)
          if not any((one <= parts).all() for one in sets) and not shared[:, parts].all(1).any():
            sets.append(parts)
      if not sets:
        raise InputError(
          f"Class {label} has the parts of another class.", "Give every class its own set of parts."
        )
      found.append(tuple(sets))
    return tuple(found)

  def foils(self, label: int, shared: int = 2) -> tuple[int, int] | None:
    """Returns the first two other classes that share `shared` parts each with a class, no part
    with both; None if there are none."""
    common = self.classes == self.classes[label]
    others = [k for k in range(len(self.classes)) if k != label and common[k].sum() == shared]
    pairs = itertools.combinations(others, 2)
    return next(((i, j) for i, j in pairs if not (common[i] & common[j]).any()), None)


def bits(sets: np.ndarray) -> np.ndarray:
  """Returns sets of parts, bool [..., P], as their numbers, int [...]."""
  return (sets * (1 << np.arange(sets.shape[-1]))).sum(axis=-1)

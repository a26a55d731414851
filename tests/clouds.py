"""Synthetic features without a network: a cloud of points per class."""

from __future__ import annotations

import numpy as np

from bcos_jax.train.probes.features import Features


def clouds(
  count: int, *, seed: int, width: int = 8, classes: int = 3, distance: float = 4.0
) -> Features:
  """Returns features whose classes lie `distance` standard deviations from the origin.

  Every class has a direction of its own; classes have equally many examples, up to one.
  """
  rng = np.random.default_rng(seed)
  labels = np.arange(count, dtype=np.int32) % classes
  values = distance * np.eye(classes, width)[labels] + rng.standard_normal((count, width))
  return Features(
    values=values.astype(np.float32),
    labels=labels,
    examples=np.arange(count),
    label_names=tuple(map(str, range(classes))),
    about={"data": f"clouds:{seed}", "examples": count, "network": "none"},
  )

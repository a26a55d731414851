"""Batched inference on masked images, for attribution methods that remove parts.

All pairs of an image and a mask form one list, which is cut into batches of equal size whatever
the number of masks per image. Masks are made on the device from what describes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .task import Array, Task, overlapped, pairs

Maker = Callable[[Any, Any, Array], Array]


def masked_values(
  task: Task, make: Maker, shared: Any, own: Any, count: int, baseline: np.ndarray
) -> np.ndarray:
  """Returns what is explained of every image under every mask.

  Args:
    task: What is explained.
    make: A function of a module: `make(shared, own of B images, numbers of masks [B])` returns
      how much of each pixel remains, float32 [B, H, W] in [0, 1].
    shared: Tree of arrays that describe the masks of all images.
    own: Tree of arrays [N, ...] that describe those of each image.
    count: Masks per image.
    baseline: What stands for an absent pixel, from `check_baseline`.

  Returns:
    float32 [N, count, K].
  """
  shared, baseline = jax.device_put((shared, baseline))

  def dispatch():
    for pair in pairs(task, count):
      inside = pair.images
      images = jax.tree.map(
        lambda leaf, inside=inside: leaf[inside], (task.images, task.classes, own)
      )
      with jax.default_matmul_precision("highest"):
        part = _masked(make, task.explained, task.variables, images, pair[1:3], shared, baseline)
      yield part

  values = np.concatenate(list(overlapped(dispatch())))[: len(task.images) * count]
  return values.reshape(len(task.images), count, -1)


@jax.jit(static_argnums=(0, 1))
def _masked(make, explained, variables, images, pair, shared, baseline):
  places, numbers = pair
  colors, classes, own = jax.tree.map(lambda leaf: leaf[places], images)
  masks = make(shared, own, numbers)[..., None]
  inputs = explained.model.ops.encoding(colors)
  return explained.values(variables, baseline + masks * (inputs - baseline), classes)

"""Networks on images whose parts are absent, at the rate of batched inference.

All pairs of an image and a mask form one list, which is cut into batches of equal size whatever
the number of masks per image. Masks are made on the device from what describes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .task import Array, Task

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
  images, rows = len(task.images), len(task.images) * count
  size = min(task.batch_size, rows)
  span = min(images, (size - 1) // count + 2)  # images that a batch may touch
  shared, baseline = jax.device_put((shared, baseline))
  parts: list[Any] = []
  for start in task.progress(range(0, rows, size)):
    first = min(start // count, images - span)
    numbers = np.minimum(np.arange(start, start + size), rows - 1)
    inside = slice(first, first + span)
    with jax.default_matmul_precision("highest"):
      part = _masked(
        make,
        task.explained,
        task.variables,
        task.images[inside],
        None if task.classes is None else task.classes[inside],
        jax.tree.map(lambda leaf, inside=inside: leaf[inside], own),
        shared,
        baseline,
        numbers // count - first,
        numbers % count,
      )
    # One batch runs while the next is prepared, and no more are waiting in memory.
    if parts:
      parts[-1] = np.asarray(parts[-1])
    parts.append(part)
  values = np.concatenate([np.asarray(part) for part in parts])[:rows]
  return values.reshape(images, count, -1)


@jax.jit(static_argnums=(0, 1))
def _masked(
  make, explained, variables, images, classes, own, shared, baseline, image_numbers, mask_numbers
):
  of_rows = jax.tree.map(lambda leaf: leaf[image_numbers], (own, classes))
  masks = make(shared, of_rows[0], mask_numbers)[..., None]
  inputs = explained.model.ops.encoding(images)[image_numbers]
  return explained.values(variables, baseline + masks * (inputs - baseline), of_rows[1])

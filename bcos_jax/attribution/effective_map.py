"""Attribution by the network's effective linear map, averaged over small changes of the input."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from .gradients import draw_noise, with_numbers
from .running import summed
from .settings import Method
from .task import Array, Batch, Task, check_count, check_share, gradients


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dave(Method):
  """DAVE: the input times its effective linear map, averaged over shifts and noise.

  Wrobel et al., arXiv 2602.06613: the gradient of a vision transformer is its effective linear map
  L(X), which explanation mode gives for every network of this package, plus the variation of that
  map, which is left out; what L(X) owes to the patch grid is averaged out over local spatial
  transformations, each undone on the map (a Reynolds average), and what is unstable over noise.
  The transformations here are shifts by whole pixels, which are undone exactly, and their number,
  extent and noise are settings of this package. Without both it is the explanation of a B-cos
  network.

  Args:
    samples: Shifted and noisy inputs, each an image of a batch.
    shift: Largest shift in pixels, in both directions; the border is repeated outside.
    noise: Standard deviation of the Gaussian noise, relative to the range of an encoded image.
    seed: Shifts and noise depend on it and on an image's number, not on batches.
  """

  name: ClassVar[str] = "dave"
  samples: int = 16
  shift: int = 4
  noise: float = 0.05
  seed: int = 42

  def __post_init__(self):
    check_count("samples", self.samples)
    check_count("shift", self.shift, 0)
    check_share("noise", self.noise)
    check_count("seed", self.seed, 0)

  def run(self, task: Task) -> np.ndarray:
    model = task.network.model
    task = task.replaced(model=model.clone(ops=model.ops.detached()))
    pairs = with_numbers(np.arange(len(task)), self.samples)
    settings = np.int32(self.shift), np.float32(self.noise), np.uint32(self.seed)
    return summed(task, _effective, *settings, pairs=pairs) / self.samples


def _effective(batch: Batch, samples: Array, shift: Array, noise: Array, seed: Array) -> Array:
  """Returns the input times the map of a shifted, noisy input, shifted back, [B, K, H, W]."""
  moves = jax.vmap(lambda row, sample: _move(seed, row, sample, shift))(batch.rows, samples)
  low, high = (f(batch.inputs, (1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
  drawn = jax.vmap(lambda row, sample: draw_noise(seed, row, sample, batch.inputs.shape[1:]))(
    batch.rows, samples
  )
  moved, _ = jax.vmap(_shifted)(batch.inputs, moves)
  found = gradients(batch.score, moved + noise * (high - low) * drawn)
  back, inside = jax.vmap(lambda maps, by: _shifted(maps, -by))(jnp.moveaxis(found, 1, -1), moves)
  # What was pushed over the border has no map.
  weights = jnp.moveaxis(jnp.where(inside[..., None, None], back, 0), -1, 1)
  return jnp.sum(batch.inputs[:, None] * weights, -1)


def _move(seed: Array, row: Array, sample: Array, shift: Array) -> Array:
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), sample)
  return jax.random.randint(jax.random.fold_in(key, 1), (2,), -shift, shift + 1)


def _shifted(image: Array, by: Array) -> tuple[Array, Array]:
  """Returns an image [H, W, ...] shifted (down, right), and what comes from inside, [H, W]."""
  places = [jnp.arange(side) - move for side, move in zip(image.shape[:2], by, strict=True)]
  rows, columns = (
    jnp.clip(place, 0, side - 1) for place, side in zip(places, image.shape[:2], strict=True)
  )
  inside = (rows == places[0])[:, None] & (columns == places[1])[None]
  return image[rows][:, columns], inside

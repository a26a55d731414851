"""The Square attack (arXiv 1912.00049): random search, which no gradient can mislead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...attribution.images import ImageNetwork
from ...batches import Progress
from ...errors import InputError
from ..scores import check_count
from .ascents import LOSSES, State, look
from .checked import check_attack

Array = jax.Array

# Queries of 10000 after which the squares' area is halved once more (section 3.1).
_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def square_attack(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  epsilon: float | None = None,
  queries: int = 300,
  share: float = 0.8,
  batch_size: int = 32,
  seed: int = 0,
  progress: Progress = iter,
) -> np.ndarray:
  """Random search over squares of one colour at the border of the ball (largest change, "linf").

  Andriushchenko et al. (arXiv 1912.00049, Algorithms 1 and 2): begins with stripes one pixel wide,
  then changes one square at a time, each colour by plus or minus epsilon, and keeps it where the
  margin of the logits rises. It reads logits, and no gradient: where it succeeds on a picture that
  gradients fail on, these were masked (arXiv 1902.06705, section 4).

  Args:
    model, variables, images, targets, epsilon: As for `fgsm`.
    queries: Looks at an image, the stripes and the image itself among them; at least 1.
    share: Of the image's area that the first squares have, in (0, 1]; it is halved after the
      published shares of the queries.
    batch_size, progress: As for `fgsm`.
    seed: Of the search; that of an image depends on its number, and not on its batch.

  Returns:
    As for `fgsm`.

  Raises:
    InputError: As for `fgsm`; queries below 1, or a share outside (0, 1].
  """
  check_count("queries", queries)
  if not 0 < share <= 1:
    raise InputError(
      f"share={share!r}, expected a number above 0 and at most 1.",
      "It is the part of the image that the first squares cover; 0.8 is AutoAttack's.",
    )
  attack = check_attack(model, variables, images, targets, "linf", epsilon, "margin")
  height, width = attack.images.shape[1:3]

  def change(state: State, classes: Array, rows: np.ndarray) -> Array:
    state = look("margin", attack.network, classes, state)
    for query in range(1, queries):
      side = _side(share, query / queries, height, width)
      state = _try(attack.network, classes, state, rows, attack.epsilon, seed, query, side)
    return state.best

  return attack.by_batch(change, batch_size, progress)


def _side(share: float, done: float, height: int, width: int) -> int:
  """Returns the side of a square, in pixels, when so much of the search is done."""
  halvings = sum(done * 10000 > after for after in _HALVED)
  side = round((share * 0.5**halvings * height * width) ** 0.5)
  return max(1, min(side, height, width))


@jax.jit
def _try(
  network: ImageNetwork,
  classes: Array,
  state: State,
  rows: Array,
  epsilon: float,
  seed: int,
  query: int,
  side: int,
) -> State:
  """Returns the state after one look at a changed place; the first one is stripes."""
  shape = state.clean.shape[1:]

  def proposed(row: Array, clean: Array, best: Array) -> Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), query)
    where, signs, columns = jax.random.split(key, 3)
    stripes = clean + epsilon * _signs(columns, (1, *shape[1:]))
    square = clean + epsilon * _signs(signs, (1, 1, shape[2]))
    tried = jnp.where(_window(where, side, shape), square, best)
    return jnp.clip(jnp.where(query == 1, stripes, tried), 0, 1)

  images = jax.vmap(proposed)(rows, state.clean, state.best)
  logits = network.predict(images)
  losses = LOSSES["margin"](logits, classes)
  # The margin is above 0 exactly where the prediction is wrong: one comparison serves both.
  better = (losses > state.loss) | ((query == 1) & ~state.wrong)
  return state._replace(
    best=jnp.where(better[:, None, None, None], images, state.best),
    loss=jnp.where(better, losses, state.loss),
  )


def _signs(key: Array, shape: tuple[int, ...]) -> Array:
  return jax.random.rademacher(key, shape, jnp.float32)


def _window(key: Array, side: Array | int, shape: tuple[int, ...]) -> Array:
  """Returns bool [H, W, 1], true in a square of `side` pixels somewhere inside the image."""
  inside = []
  for axis, length in zip(jax.random.split(key), shape[:2], strict=True):
    start = jax.random.randint(axis, (), 0, length - side + 1)
    place = jnp.arange(length)
    inside.append((place >= start) & (place < start + side))
  return (inside[0][:, None] & inside[1][None])[..., None]

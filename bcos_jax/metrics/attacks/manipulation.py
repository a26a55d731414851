"""Manipulated explanations: small changes that keep a prediction and change what explains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...attribution.families import BentReLU, replaced
from ...attribution.images import ImageNetwork
from ...batches import Progress
from ...errors import InputError, unknown_name
from ...explain.images import dynamic_linear
from ...inputs import Encoding, check_images
from ..scores import check_count
from .ascents import State, anywhere, back, inside
from .checked import check_attack, check_length

Array = jax.Array


def _own(network: ImageNetwork, images: Array, classes: Array) -> Array:
  return dynamic_linear(network.model, network.variables, images, classes).contributions


def _input_x_gradient(network: ImageNetwork, images: Array, classes: Array) -> Array:
  inputs = network.embed(images)

  def chosen(inputs: Array) -> Array:
    return jnp.sum(jnp.take_along_axis(network.forward(inputs), classes[:, None], axis=1))

  return jnp.sum(inputs * jax.grad(chosen)(inputs), axis=-1)


MAPS: dict[str, Callable[[ImageNetwork, Array, Array], Array]] = {
  "own": _own,
  "input_x_gradient": _input_x_gradient,
}
"""Explanations that can be differentiated: (network, images, classes [B]) -> maps [B, H, W]."""


def manipulate(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  *,
  explanation: str = "own",
  epsilon: float | None = None,
  steps: int = 50,
  step_size: float | None = None,
  tolerance: float = 0.1,
  batch_size: int = 32,
  seed: int = 0,
  progress: Progress = iter,
) -> np.ndarray:
  """Changes explanations of predicted classes as much as a small change of the images can.

  Projected descent on the cosine between the maps of the image and of the changed image
  (arXiv 1710.10547), or on the change of the logits (arXiv 1906.07983, equation 3) where that is
  about to leave the tolerance. ReLUs take second derivatives from a softplus; all values are the
  network's own.
  Of what was visited, an image keeps the map that is least alike among those that leave its
  prediction, and its logits within the tolerance; the image itself if there is none.

  Args:
    model, variables: As for `fgsm`.
    images: [N, H, W, colors] in [0, 1].
    explanation: "own", the network's explanation, or "input_x_gradient".
    epsilon: Largest change of any colour value, in the images' unit; None takes 2 / 255.
    steps: Gradients of an image.
    step_size: The mean one, in the same unit; steps shorten evenly from twice that to none. None
      takes 2.5 * epsilon / steps.
    tolerance: Largest change of the logits, as a share of their spread: lengths of vectors
      [C], the second about its mean.
    batch_size: Images on the device at once; bounds memory.
    seed: Of the starts. At the image itself the cosine has no slope, so they are anywhere in the
      ball.
    progress: Wraps the loop over batches, e.g. `tqdm.tqdm`.

  Returns:
    Changed images, float32 [N, H, W, colors], in [0, 1] and within `epsilon` of the images.

  Raises:
    InputError: An unknown explanation, or inputs and settings that cannot be used.
  """
  _check(explanation, steps, tolerance)
  attack = check_attack(
    model, variables, images, np.zeros(np.shape(images)[:1], int), "linf", epsilon, "margin"
  )
  step_size = 2.5 * attack.epsilon / steps if step_size is None else step_size
  limits = _Limits(attack.epsilon, check_length("step_size", step_size), tolerance)

  def change(state: State, _: Array, rows: np.ndarray) -> Array:
    start = anywhere("linf", seed, 0, rows, state.clean, attack.epsilon)
    return _descended(explanation, attack.network, state, start, steps, limits)

  return attack.by_batch(change, batch_size, progress)


def _check(explanation: str, steps: int, tolerance: float) -> None:
  check_count("steps", steps)
  if explanation not in MAPS:
    raise unknown_name("explanation", explanation, MAPS)
  if not 0 < tolerance < np.inf:
    raise InputError(
      f"tolerance={tolerance!r}, expected a number above 0.",
      "0.1 is a tenth of the logits' spread.",
    )


def _descended(
  explanation: str,
  network: ImageNetwork,
  state: State,
  start: Array,
  steps: int,
  limits: _Limits,
) -> Array:
  """Returns the best images of a descent from `start`, those of `state` where none is valid."""
  aim, bent = _aim(explanation, network, state.clean), _bent(network)
  # The lowest cosine so far is the negative of `loss`; an image is as good as unchanged.
  state = state._replace(images=start, loss=jnp.full(len(start), -1.0))
  for step in range(steps + 1):
    # Ever shorter: logits leave the tolerance by long ones. The last look goes nowhere.
    length = 2 * limits.step * (1 - step / steps)
    state = _descend(explanation, bent, aim, state, limits._replace(step=length))
  return state.best


def _bent(network: ImageNetwork) -> ImageNetwork:
  ops = replaced(network.model.ops, BentReLU)
  return dataclasses.replace(network, model=network.model.clone(ops=ops))


# Of the tolerance, what a step may find used up and still go on changing the map.
_ROOM = 0.8


class _Limits(NamedTuple):
  """Radius, step and tolerance; traced, so that other values do not recompile."""

  epsilon: float
  step: float
  tolerance: float


class _Aim(NamedTuple):
  """What is to stay, logits [B, C] and classes [B], and what is to go, maps [B, H, W]."""

  logits: Array
  classes: Array
  maps: Array


@jax.jit(static_argnums=0)
def _aim(explanation: str, network: ImageNetwork, images: Array) -> _Aim:
  logits = network.predict(images)
  classes = jnp.argmax(logits, axis=1)
  return _Aim(logits, classes, MAPS[explanation](network, images, classes))


@jax.jit(static_argnums=0)
def _descend(
  explanation: str, network: ImageNetwork, aim: _Aim, state: State, limits: _Limits
) -> State:
  """Looks at where the descent is, keeps it if it is valid and best, and goes one step on."""

  def alike(images: Array) -> tuple[Array, tuple[Array, Array]]:
    logits = network.predict(images)
    cosines = _cosines(MAPS[explanation](network, images, aim.classes), aim.maps)
    shift = _length(logits - aim.logits) / (limits.tolerance * _length(_centred(aim.logits)))
    same = jnp.argmax(logits, axis=1) == aim.classes
    # Where the logits are about to leave the tolerance, a step only takes them back.
    sums = jnp.sum(jnp.where(same & (shift < _ROOM), cosines, shift))
    return sums, (cosines, same & (shift <= 1))

  slope, (cosines, valid) = jax.grad(alike, has_aux=True)(state.images)
  better = valid & (-cosines > state.loss)
  moved = state.images - limits.step * jnp.sign(slope)
  return state._replace(
    images=back(moved, state.clean, "linf", limits.epsilon),
    best=jnp.where(better[:, None, None, None], state.images, state.best),
    loss=jnp.where(better, -cosines, state.loss),
  )


def _cosines(maps: Array, others: Array) -> Array:
  maps, others = (_scaled(part.reshape(len(part), -1)) for part in (maps, others))
  return jnp.sum(maps * others, axis=1) / (_length(maps) * _length(others))


def _scaled(rows: Array) -> Array:
  """Returns rows [B, K] over their largest size, lest squares of small maps underflow."""
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1, keepdims=True))
  return rows / jnp.where(largest > 0, largest, 1.0)


def _length(rows: Array) -> Array:
  """Returns lengths [B] of rows [B, K], with a derivative of 0 where a row is 0."""
  squares = jnp.sum(rows**2, axis=1)
  return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 1e-12)


def _centred(logits: Array) -> Array:
  return logits - jnp.mean(logits, axis=1, keepdims=True)


def random_change(images: np.ndarray, epsilon: float, *, seed: int = 0) -> np.ndarray:
  """Changes every colour value by plus or minus epsilon, at random: what no attacker chose.

  Args:
    images: [N, H, W, colors] in [0, 1].
    epsilon: Change of a value, in the images' unit; less where it would leave [0, 1].
    seed: Of the signs; those of an image depend on its number.

  Returns:
    float32 [N, H, W, colors].

  Raises:
    InputError: Images or a radius that cannot be used.
  """
  colors = np.shape(images)[-1] if np.ndim(images) == 4 else 3
  images = check_images(images, Encoding((0.0,) * colors, (1.0,) * colors))
  epsilon = check_length("epsilon", epsilon)
  draws = (np.random.default_rng((seed, i)) for i in range(len(images)))
  signs = np.stack([draw.choice((-1.0, 1.0), images.shape[1:]) for draw in draws])
  changed = np.clip(images + epsilon * signs, 0, 1).astype(np.float32)
  return inside(changed, images, "linf", epsilon)

"""Losses, ascent steps and norm-ball projections of adversarial attacks, batched."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from ...attribution.images import ImageNetwork

Array = jax.Array


def _cross_entropy(logits: Array, targets: Array) -> Array:
  return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)[:, 0]


def _margin(logits: Array, targets: Array) -> Array:
  true = jnp.arange(logits.shape[1]) == targets[:, None]
  others = jnp.max(jnp.where(true, -jnp.inf, logits), axis=1)
  return others - jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]


def _ratio(logits: Array, targets: Array) -> Array:
  """The difference-of-logits ratio (arXiv 2003.01690, equation 6): the margin, over the largest
  logit less the third largest. No scale and no shift of the logits changes it."""
  third = -min(3, logits.shape[1])
  ordered = jnp.sort(logits, axis=1)
  spread = lax.stop_gradient(ordered[:, -1] - ordered[:, third])[:, None]
  # Divided beforehand: the derivative of the ratio has the spread's square, which underflows.
  alike = spread == 0
  scaled = (logits - lax.stop_gradient(ordered[:, -1:])) / jnp.where(alike, 1.0, spread)
  ordered = jnp.sort(scaled, axis=1)
  divisor = jnp.where(alike[:, 0], 1.0, ordered[:, -1] - ordered[:, third])
  return _margin(scaled, targets) / divisor


LOSSES = {"cross_entropy": _cross_entropy, "margin": _margin, "ratio": _ratio}
"""Losses of logits [B, C] and classes [B], each [B]; attacks climb them."""

RADII = {"linf": 2 / 255, "l2": 0.5}
"""Norms of a change, and the radius that is taken where none is given."""


class Sizes(NamedTuple):
  """Radius of the ball and length of a step; traced, so that other values do not recompile."""

  epsilon: float
  step: float


class State(NamedTuple):
  """An ascent of B images: where it began, where it is, and where it did best.

  Attributes:
    clean: [B, H, W, colors].
    images: Where the ascent is.
    best: What was best of what was looked at; `clean` before anything was.
    loss: [B], that of `best`.
    wrong: [B], whether it is classified wrongly.
  """

  clean: Array
  images: Array
  best: Array
  loss: Array
  wrong: Array


def begin(clean: np.ndarray) -> State:
  """Returns an ascent that has looked at nothing yet, at the images themselves."""
  images, count = jnp.asarray(clean), len(clean)
  return State(images, images, images, jnp.full(count, -jnp.inf), jnp.zeros(count, bool))


@jax.jit(static_argnums=(0, 1))
def climb(
  norm: str, loss: str, network: ImageNetwork, classes: Array, state: State, sizes: Sizes
) -> State:
  """Looks at where the ascent is, and goes one step on."""
  evaluate = functools.partial(evaluated, loss, network, classes)
  gradient, seen = jax.grad(evaluate, has_aux=True)(state.images)
  direction = jnp.sign(gradient) if norm == "linf" else unit(gradient)
  moved = back(state.images + sizes.step * direction, state.clean, norm, sizes.epsilon)
  return kept(state, *seen)._replace(images=moved)


@jax.jit(static_argnums=0)
def look(loss: str, network: ImageNetwork, classes: Array, state: State) -> State:
  """Looks at where the ascent is."""
  return kept(state, *evaluated(loss, network, classes, state.images)[1])


def evaluated(loss, network, classes, images) -> tuple[Array, tuple[Array, Array]]:
  """Returns the sum of the losses, and for each image its loss and whether it is wrong."""
  logits = network.predict(images)
  losses = LOSSES[loss](logits, classes)
  return jnp.sum(losses), (losses, jnp.argmax(logits, axis=1) != classes)


def kept(state: State, losses: Array, wrong: Array) -> State:
  """Returns the state with the best so far, now that `images` were looked at."""
  better = (wrong & ~state.wrong) | ((wrong == state.wrong) & (losses > state.loss))
  return state._replace(
    best=jnp.where(better[:, None, None, None], state.images, state.best),
    loss=jnp.where(better, losses, state.loss),
    wrong=jnp.where(better, wrong, state.wrong),
  )


def unit(gradient: Array) -> Array:
  """Returns gradients of length 1, or 0 where they are 0."""
  axes = (1, 2, 3)
  # Saturated losses have gradients whose squares underflow in float32.
  largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
  scaled = gradient / jnp.where(largest > 0, largest, 1.0)
  length = jnp.sqrt(jnp.sum(scaled**2, axis=axes, keepdims=True))
  return scaled / jnp.where(length > 0, length, 1.0)


def back(images: Array, clean: Array, norm: str, epsilon: float) -> Array:
  """Returns images in the ball and, by clipping, which leaves no ball, in [0, 1]."""
  change = images - clean
  if norm == "linf":
    return jnp.clip(clean + jnp.clip(change, -epsilon, epsilon), 0, 1)
  length = jnp.sqrt(jnp.sum(change**2, axis=(1, 2, 3), keepdims=True))
  shrink = jnp.where(length > epsilon, epsilon / jnp.where(length > 0, length, 1.0), 1.0)
  return jnp.clip(clean + shrink * change, 0, 1)


@jax.jit(static_argnums=0)
def anywhere(
  norm: str, seed: int, restart: int, rows: Array, clean: Array, epsilon: float
) -> Array:
  """Returns an even draw from the ball around each image, clipped to [0, 1].

  Args:
    norm: Of the ball.
    seed: Of the draws.
    restart: Makes other draws.
    rows: [B], the images' numbers, which draws depend on.
    clean: [B, H, W, colors].
    epsilon: Radius.
  """
  shape = clean.shape[1:]
  key = jax.random.fold_in(jax.random.key(seed), restart)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  if norm == "linf":
    drawn = jax.vmap(lambda k: jax.random.uniform(k, shape, minval=-1, maxval=1))(keys)
  else:
    direction = unit(jax.vmap(lambda k: jax.random.normal(k, shape))(keys))
    share = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(keys)
    drawn = direction * (share ** (1 / np.prod(shape)))[:, None, None, None]
  return back(clean + epsilon * drawn, clean, norm, epsilon)


def inside(changed: np.ndarray, clean: np.ndarray, norm: str, epsilon: float) -> np.ndarray:
  """Takes back what float32 put outside the ball: sums in float64, rounding towards `clean`."""
  base = clean.astype(np.float64)
  change = changed - base
  if norm == "linf":
    change = change.clip(-epsilon, epsilon)
  else:
    length = np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
    change *= np.where(length > epsilon, epsilon / np.where(length > 0, length, 1.0), 1.0)
  rounded = (base + change).astype(np.float32)
  beyond = np.abs(rounded - base) > np.abs(change)
  return np.where(beyond, np.nextafter(rounded, clean), rounded)

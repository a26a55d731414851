"""Learning-rate sweeps: one head trained at many rates by one mapped program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from bcos_jax.batches import check_memory

from .. import optimizer, sharding
from ..objectives.losses import Loss
from ..state import new_key
from .features import Features
from .heads import Head

_LEAST_CYCLE = 4  # steps; in fewer, optax's cycle has no rising part
PyTree = Any


class FeaturePart(NamedTuple):
  """Rows of features: int [n]."""

  features: Features
  rows: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
  """What one learning rate has reached.

  Attributes:
    rate: The learning rate.
    epoch: The epoch with the best accuracy on what chooses; of equals that of the least loss.
    selection: That accuracy.
    loss: The mean loss there.
    test: Accuracy on the test set after that epoch.
  """

  rate: float
  epoch: int
  selection: float
  loss: float
  test: float


def schedule(steps: int) -> optax.Schedule:
  """Returns the factor of the learning rate by step: optax's cosine cycle, 1 at its peak.

  Runs of fewer than 4 steps, in which it has no rising part, keep 1.
  """
  if steps < _LEAST_CYCLE:
    return lambda step: jnp.float32(1.0)
  return optax.cosine_onecycle_schedule(steps, 1.0)


def make_step(
  head: Head, loss: Loss, weight_decay: float, steps: int
) -> tuple[Callable[..., PyTree], Callable[..., tuple[PyTree, PyTree, jax.Array]]]:
  """Returns two pure functions of a run at one learning rate; `run` maps them over all.

  Args:
    head: The head.
    loss: Of each example; its mean is minimised.
    weight_decay: Of AdamW, whose other numbers are PyTorch's and optax's defaults.
    steps: Of the whole run.

  Returns:
    start(params) -> state of the optimiser, and advance(rate, params, state, batch, step) ->
    (params, state, loss before the step). A batch is {"features": float [n, D], "label": int [n],
    "mask": float [n]}.
  """
  # AdamW in its order: the decay joins the direction, then both are scaled by the rate.
  tx = optax.chain(optax.scale_by_adam(), optimizer.decay(weight_decay))
  factor = schedule(steps)

  def objective(params, batch):
    values = loss(head(params, batch["features"]), batch["label"])
    return jnp.sum(values * batch["mask"]) / jnp.sum(batch["mask"])

  def advance(rate, params, state, batch, step):
    value, gradient = jax.value_and_grad(objective)(params, batch)
    direction, state = tx.update(gradient, state, params)
    scale = -rate * factor(step)
    return optax.apply_updates(params, jax.tree.map(lambda d: scale * d, direction)), state, value

  return tx.init, advance


def run(
  head: Head,
  loss: Loss,
  fitted: FeaturePart,
  selection: FeaturePart,
  test: FeaturePart,
  *,
  rates: Sequence[float],
  epochs: int,
  batch_size: int,
  weight_decay: float,
  seed: int,
  mesh: Mesh,
) -> tuple[PyTree, tuple[Rate, ...]]:
  """Trains the head at every rate, and keeps each one's best epoch.

  Args:
    head: The head.
    loss: Of each example.
    fitted: What to train on.
    selection: What chooses the epoch.
    test: What is measured at the end.
    rates: Learning rates [R] at the peak of the cycle.
    epochs: Passes over the examples.
    batch_size: See `probe.Options`.
    weight_decay: Of AdamW.
    seed: Of parameters and order.
    mesh: Of the devices that share a batch.

  Returns:
    The best parameters of each rate, every leaf [R, ...], and what they reach.
  """
  size = _batch_size(len(fitted.rows), batch_size, mesh)
  steps = -(-len(fitted.rows) // size)
  start, advance = make_step(head, loss, weight_decay, epochs * steps)
  advance = jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, None, None)), donate_argnums=(1, 2))
  sums = jax.jit(jax.vmap(functools.partial(_sums, head, loss), in_axes=(0, None)))
  width = fitted.features.values.shape[1]
  begin = jax.jit(_begin, static_argnums=(0, 1, 3, 4))
  begun = begin(head.init, start, new_key(seed), width, len(rates))
  peaks, params, state, best = sharding.replicate((np.asarray(rates, np.float32), *begun), mesh)
  reached = np.full((3, len(rates)), -np.inf)  # Accuracy, minus the loss, epoch.
  for epoch in range(1, epochs + 1):
    order = np.random.default_rng([seed, epoch]).permutation(fitted.rows)
    first, before = (epoch - 1) * steps, None
    for i, batch in enumerate(_batches(FeaturePart(fitted.features, order), size, mesh)):
      params, state, value = advance(peaks, params, state, batch, first + i)
      jax.block_until_ready(before)  # One step late: batches must not queue up without end.
      before = value
    accuracy, mean = _measured(sums, params, selection, size, mesh)
    found = np.stack([accuracy, -mean, np.full(len(rates), epoch)])
    better = (found[0] > reached[0]) | ((found[0] == reached[0]) & (found[1] > reached[1]))
    best, reached = _where(better, params, best), np.where(better, found, reached)
  tested = reached[0] if selection is test else _measured(sums, best, test, size, mesh)[0]
  return best, tuple(
    Rate(rate=rate, epoch=int(epoch), selection=on, loss=-negative, test=accuracy)
    for rate, (on, negative, epoch), accuracy in zip(
      rates, reached.T.tolist(), tested.tolist(), strict=True
    )
  )


def check_size(head: Head, width: int, rates: Sequence[float]) -> None:
  """Checks that heads of features [N, width], their best and Adam's two moments can be held.

  Raises:
    InputError: They cannot, with their size.
  """
  params = jax.eval_shape(functools.partial(head.init, width=width), new_key(0))
  count = len(rates) * sum(leaf.size for leaf in jax.tree.leaves(params))
  check_memory(
    f"A sweep over {len(rates)} rates of a head with {count // len(rates):,} numbers",
    4.0 * count * 4,
    "Choose fewer hidden units, or fewer rates.",
  )


def _begin(
  draw: Callable[..., PyTree],
  start: Callable[..., PyTree],
  key: jax.Array,
  width: int,
  count: int,
) -> tuple[PyTree, PyTree, PyTree]:
  """Returns parameters, states, and the best parameters so far, all with an axis of rates."""
  params = draw(key, width)
  params = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), params)
  # Once more, since a step takes the buffers of its parameters.
  return params, jax.vmap(start)(params), jax.tree.map(jnp.copy, params)


@jax.jit
def _where(better: jax.Array, new: PyTree, old: PyTree) -> PyTree:
  """Returns the new leaves of the rates that are better, the old ones of the others."""
  return jax.tree.map(
    lambda n, o: jnp.where(better.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old
  )


def _sums(head: Head, loss: Loss, params: PyTree, batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns how many are right, and their losses; one with a logit that is not finite never is."""
  logits, present = head(params, batch["features"]), batch["mask"] > 0
  finite = jnp.isfinite(logits).all(axis=-1)
  right = (jnp.argmax(logits, axis=-1) == batch["label"]) & finite
  values = jnp.where(finite, loss(logits, batch["label"]), jnp.inf)
  return jnp.stack([jnp.sum(right, where=present), jnp.sum(values, where=present)])


def _measured(
  sums: Callable[..., jax.Array], params: PyTree, part: FeaturePart, size: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
  """Returns accuracy and mean loss of each rate, each float [R]."""
  total, before = 0.0, 0.0
  for batch in _batches(part, size, mesh):
    now = sums(params, batch)
    total, before = total + np.asarray(before, np.float64), now
  accuracy, loss = ((total + np.asarray(before, np.float64)) / len(part.rows)).T
  return accuracy, loss


def _batch_size(count: int, asked: int, mesh: Mesh) -> int:
  divisor = math.lcm(sharding.batch_divisor(mesh), jax.process_count())
  return -(-min(asked, count) // divisor) * divisor


def _batches(part: FeaturePart, size: int, mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
  """Yields the rows in batches of one shape; what fills up the last has the mask 0."""
  for begin in range(0, len(part.rows), size):
    # In the order of the file: the order within a batch changes rounding at most.
    rows = np.sort(part.rows[begin : begin + size])
    mask = np.pad(np.ones(len(rows), np.float32), (0, size - len(rows)))
    rows = np.pad(rows, (0, size - len(rows)), mode="edge")
    mine = slice(jax.process_index(), None, jax.process_count())
    batch = {
      "features": np.asarray(part.features.values[rows[mine]]),
      "label": part.features.labels[rows[mine]],
      "mask": mask[mine],
    }
    yield sharding.put_batch(batch, mesh)

"""The training step and the evaluation step, compiled once for any mesh.

Batches are what a feed makes, such as {"image": float [N, H, W, C] in [0, 1], "label": int [N]}.
What is minimised and measured is a value of `objectives`, which knows what of a batch the network
gets, and which rows of an evaluation batch count. Images are encoded inside the step, so what a
network sees is decided by its ops alone. Variables that an objective needs and that are not trained
are an argument of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from .average import Average
from .objectives import Objective
from .optimizer import Optimizer
from .sharding import images_stay_apart
from .state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
EvalStep = Callable[[Any, Batch, Any], Metrics]


class TrainStep(Protocol):
  """(state, batch, frozen) -> (next state, metrics), compiled at its first call."""

  def __call__(
    self, state: TrainState, batch: Batch, frozen: Any, /
  ) -> tuple[TrainState, Metrics]: ...

  def lower(
    self, state: TrainState, batch: Mapping[str, Any], frozen: Any, /
  ) -> jax.stages.Lowered: ...


def make_train_step(
  objective: Objective,
  optimizer: Optimizer,
  shardings: Any,
  *,
  mesh: Mesh | None = None,
  average: Average | None = None,
  accumulate: int = 1,
  skip_nonfinite: bool = False,
) -> TrainStep:
  """Compiles (state, batch, frozen) -> (next state, metrics); the state's buffers are donated.

  Gradients and batch statistics are those of the global batch, independent of the mesh.

  Args:
    objective: What is minimised.
    optimizer: See `optimizer.build`.
    shardings: Tree of the state's shardings. The next state gets the same ones: were they left
      to the compiler, the second call could see others and compile again.
    mesh: Of the devices that share the batch; None for one.
    average: How to average the network beside training it, or None.
    accumulate: Parts of the batch that are taken one after the other, for less memory. Gradients
      are those of the whole batch, batch statistics those of each part in turn.
    skip_nonfinite: Leaves the state as it is, but for its step, where the loss or a gradient is
      not finite.

  Returns:
    The step. Its metrics are float32 scalars: those of the objective before the update,
    gradient_norm (of all parameters together, before clipping), learning_rate, and b if B is
    scheduled.
  """

  def minimised(params, stats, batch, frozen, rng):
    with images_stay_apart(mesh, rows(batch)):
      return objective.train(params, stats, batch, frozen, rng)

  def step(state: TrainState, batch: Batch, frozen: Any) -> tuple[TrainState, Metrics]:
    rng = jax.random.fold_in(state.rng, state.step)
    grads, stats, metrics = _gradients(minimised, state, batch, frozen, rng, accumulate)
    updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
    metrics["gradient_norm"] = optax.tree.norm(grads)
    metrics["learning_rate"] = optimizer.learning_rate(state.step)
    if optimizer.b is not None:
      metrics["b"] = optimizer.b(state.step)
    if average is not None:
      state = dataclasses.replace(
        state, average=average.update(state.step, state.average, state.variables)
      )
    after = dataclasses.replace(
      state,
      params=optax.apply_updates(state.params, updates),
      batch_stats=stats,
      opt_state=opt_state,
    )
    if skip_nonfinite:
      finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
      after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    return dataclasses.replace(after, step=state.step + 1), metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _gradients(
  minimised: Callable[..., Any],
  state: TrainState,
  batch: Batch,
  frozen: Any,
  rng: jax.Array,
  parts: int,
) -> tuple[Any, Any, Metrics]:
  """Returns the gradients, the new statistics, and the metrics of a batch taken in parts."""
  derive = jax.grad(minimised, has_aux=True)
  if parts == 1:
    grads, (stats, metrics) = derive(state.params, state.batch_stats, batch, frozen, rng)
    return grads, stats, metrics

  def add(carry, part):
    number, part_batch = part
    total, stats = carry
    grads, (stats, metrics) = derive(
      state.params, stats, part_batch, frozen, jax.random.fold_in(rng, number)
    )
    return (jax.tree.map(lambda t, g: t + g / parts, total, grads), stats), metrics

  # Every part takes rows from all over the batch, so each device keeps its own rows.
  cut = jax.tree.map(
    lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (grads, stats), metrics = jax.lax.scan(add, (zeros, state.batch_stats), (jnp.arange(parts), cut))
  return grads, stats, jax.tree.map(jnp.mean, metrics)


def make_eval_step(objective: Objective, *, mesh: Mesh | None = None) -> EvalStep:
  """Compiles (variables, batch, frozen) -> sums over the batch's examples, padding left out.

  Args:
    objective: What is measured.
    mesh: Of the devices that share the batch; None for one.

  Returns:
    A function whose result holds the sum of every measure [N] of the objective, weighted if it has
    weights, and `count`, their divisor. Measures [N, C] cannot be summed: they come whole, with
    `label` and `mask`.
  """

  def step(variables: Any, batch: Batch, frozen: Any) -> Metrics:
    with images_stay_apart(mesh, rows(batch)):
      measures = objective.evaluate(variables, batch, frozen)
    present, weight = objective.counted(batch), measures.pop("weight", 1)
    sums = {
      name: jnp.sum(values * weight, where=present)
      for name, values in measures.items()
      if values.ndim == 1
    }
    whole = {name: values for name, values in measures.items() if values.ndim > 1}
    whole |= {name: batch[name] for name in ("label", "mask")} if whole else {}
    return sums | {"count": jnp.sum(present * weight)} | whole

  return jax.jit(step)


def rows(batch: Batch) -> int:
  """Returns how many examples a batch has: the length of the first axis of all its arrays."""
  return len(next(iter(batch.values())))

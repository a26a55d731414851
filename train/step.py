"""One training step and one evaluation step, each compiled once for any mesh.

Batches are {"image": float [N, H, W, C] in [0, 1], "label": int [N]}, evaluation batches carry
"mask" float [N] as well (1 = an example, 0 = padding). Images are encoded inside the step, so
what a network sees is decided by its ops alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from .average import Average
from .losses import Loss
from .optimizer import Optimizer
from .sharding import images_stay_apart
from .state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, Batch], Metrics]


def make_train_step(
  model: nn.Module,
  loss: Loss,
  optimizer: Optimizer,
  shardings: Any,
  *,
  mesh: Mesh | None = None,
  average: Average | None = None,
  accumulate: int = 1,
  skip_nonfinite: bool = False,
  multi_label: bool = False,
) -> TrainStep:
  """Compiles (state, batch) -> (next state, metrics); the given state's buffers are donated.

  Gradients and batch statistics are those of the global batch, whatever the mesh.

  Args:
    model: Network with `ops`.
    loss: Its mean over the batch is minimised.
    optimizer: See `optimizer.build`.
    shardings: Tree of the state's shardings. The next state gets the same ones: were they left
      to the compiler, the second call could see others and compile again.
    mesh: Of the devices that share the batch; None for one.
    average: How to average the network beside training it, or None.
    accumulate: Parts of the batch that are taken one after the other, for less memory. Gradients
      are those of the whole batch, batch statistics those of each part in turn.
    skip_nonfinite: Leaves the state as it is, but for its step, where the loss or a gradient is
      not finite.
    multi_label: Whether labels are 0s and 1s [N, C]; then a picture is correct if all of them are.

  Returns:
    The step. Its metrics are float32 scalars: loss and accuracy before the update,
    gradient_norm (of all parameters together, before clipping), learning_rate, and b if B is
    scheduled.
  """

  correct = _all_correct if multi_label else _correct

  def objective(params, stats, batch, rng):
    with images_stay_apart(mesh, len(batch["image"])):
      logits, updates = model.apply(
        {"params": params, "batch_stats": stats},
        model.ops.encoding(batch["image"]),
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": rng},
      )
    metrics = {
      "loss": jnp.mean(loss(logits, batch["label"])),
      "accuracy": jnp.mean(correct(logits, batch["label"])),
    }
    return metrics["loss"], (updates.get("batch_stats", {}), metrics)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rng = jax.random.fold_in(state.rng, state.step)
    grads, stats, metrics = _gradients(objective, state, batch, rng, accumulate)
    updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
    metrics["gradient_norm"] = optax.tree.norm(grads)
    metrics["learning_rate"] = optimizer.learning_rate(state.step)
    if optimizer.b is not None:
      metrics["b"] = optimizer.b(state.step)
    if average is not None:
      state = state.replace(average=average.update(state.step, state.average, state.variables))
    after = state.replace(
      params=optax.apply_updates(state.params, updates), batch_stats=stats, opt_state=opt_state
    )
    if skip_nonfinite:
      finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
      after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    return after.replace(step=state.step + 1), metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def _gradients(
  objective: Callable[..., Any], state: TrainState, batch: Batch, rng: jax.Array, parts: int
) -> tuple[Any, Any, Metrics]:
  """Returns the gradients, the new statistics, and the metrics of a batch taken in parts."""
  derive = jax.grad(objective, has_aux=True)
  if parts == 1:
    grads, (stats, metrics) = derive(state.params, state.batch_stats, batch, rng)
    return grads, stats, metrics

  def add(carry, part):
    number, part_batch = part
    total, stats = carry
    grads, (stats, metrics) = derive(
      state.params, stats, part_batch, jax.random.fold_in(rng, number)
    )
    return (jax.tree.map(lambda t, g: t + g / parts, total, grads), stats), metrics

  # Every part takes rows from all over the batch, so each device keeps its own rows.
  cut = jax.tree.map(
    lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
  )
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  (grads, stats), metrics = jax.lax.scan(add, (zeros, state.batch_stats), (jnp.arange(parts), cut))
  return grads, stats, jax.tree.map(jnp.mean, metrics)


def make_eval_step(
  model: nn.Module, loss: Loss, *, mesh: Mesh | None = None, multi_label: bool = False
) -> EvalStep:
  """Compiles (variables, batch) -> sums over the batch's examples, padding left out.

  Args:
    model: Network with `ops`.
    loss: Of each example.
    mesh: Of the devices that share the batch; None for one.
    multi_label: As for `make_train_step`.

  Returns:
    A function whose result holds `loss` and `correct` (sums) and `count` (their divisor); for
    several labels also what a ranking needs: `logits` [N, C], `label` [N, C] and `mask` [N].
  """
  correct = _all_correct if multi_label else _correct

  def step(variables: Any, batch: Batch) -> Metrics:
    with images_stay_apart(mesh, len(batch["image"])):
      logits = model.apply(variables, model.ops.encoding(batch["image"]), train=False)
    present = batch["mask"] > 0
    sums = {
      "loss": jnp.sum(loss(logits, batch["label"]), where=present),
      "correct": jnp.sum(correct(logits, batch["label"]), where=present),
      "count": jnp.sum(present),
    }
    ranked = {"logits": logits, "label": batch["label"], "mask": batch["mask"]}
    return sums | ranked if multi_label else sums

  return jax.jit(step)


def _correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
  return (jnp.argmax(logits, axis=-1) == classes).astype(jnp.float32)


def _all_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether every label is on the right side of probability one half; for blends, of one half."""
  return jnp.all((logits > 0) == (labels > 0.5), axis=-1).astype(jnp.float32)

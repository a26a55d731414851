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
import optax

from .losses import Loss
from .optimizer import Optimizer
from .state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, Batch], Metrics]


def make_train_step(
  model: nn.Module, loss: Loss, optimizer: Optimizer, shardings: Any
) -> TrainStep:
  """Compiles (state, batch) -> (next state, metrics); the given state's buffers are donated.

  Gradients and batch statistics are those of the global batch, whatever the mesh.

  Args:
    model: Network with `ops`.
    loss: Its mean over the batch is minimised.
    optimizer: See `optimizer.build`.
    shardings: Tree of the state's shardings. The next state gets the same ones: were they left
      to the compiler, the second call could see others and compile again.

  Returns:
    The step. Its metrics are float32 scalars: loss and accuracy before the update,
    learning_rate, and b if B is scheduled.
  """

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    rngs = {"dropout": jax.random.fold_in(state.rng, state.step)}

    def objective(params):
      variables = {"params": params, "batch_stats": state.batch_stats}
      logits, updates = model.apply(
        variables,
        model.ops.encoding(batch["image"]),
        train=True,
        mutable=["batch_stats"],
        rngs=rngs,
      )
      value = jnp.mean(loss(logits, batch["label"]))
      return value, (logits, updates.get("batch_stats", {}))

    (value, (logits, stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.tx.update(grads, state.opt_state, state.params)
    metrics = {
      "loss": value,
      "accuracy": jnp.mean(_correct(logits, batch["label"])),
      "learning_rate": optimizer.learning_rate(state.step),
    }
    if optimizer.b is not None:
      metrics["b"] = optimizer.b(state.step)
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=stats,
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_eval_step(model: nn.Module, loss: Loss) -> EvalStep:
  """Compiles (variables, batch) -> sums over the batch's examples, padding left out.

  Returns:
    A function whose result holds `loss` and `correct` (sums) and `count` (their divisor).
  """

  def step(variables: Any, batch: Batch) -> Metrics:
    logits = model.apply(variables, model.ops.encoding(batch["image"]), train=False)
    present = batch["mask"] > 0
    return {
      "loss": jnp.sum(loss(logits, batch["label"]), where=present),
      "correct": jnp.sum(_correct(logits, batch["label"]), where=present),
      "count": jnp.sum(present),
    }

  return jax.jit(step)


def _correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
  return (jnp.argmax(logits, axis=-1) == classes).astype(jnp.float32)

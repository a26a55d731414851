"""The immutable state of a training run."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from .average import Average
from .objectives import OWN
from .optimizer import Optimizer

PyTree = Any


@struct.dataclass
class TrainState:
  """What a step reads and returns; nothing else changes during training.

  Attributes:
    step: Number of finished steps, int32 [].
    params: Parameters; beside the network's own those that an objective learns.
    batch_stats: Running statistics of the norms; {} for networks without any.
    opt_state: State of the optax transformation.
    rng: Typed key of the run, constant; a step folds its own number into it.
    average: Moving average of what `variables` returns; {} if there is none.
  """

  step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree
  rng: jax.Array
  average: PyTree

  @property
  def variables(self) -> dict[str, PyTree]:
    """What `model.apply` takes."""
    stats = {"batch_stats": self.batch_stats} if self.batch_stats else {}
    return {"params": {k: v for k, v in self.params.items() if k != OWN}, **stats}


def new_key(seed: int) -> jax.Array:
  """Returns the typed key of a run.

  Of the implementations, "rbg" compiles an initialisation on a CPU in a fifth of the time. Its
  numbers are the same on any mesh, but not on all kinds of devices.
  """
  return jax.random.key(seed, impl="rbg")


def create(
  variables: PyTree, optimizer: Optimizer, rng: jax.Array, average: Average | None = None
) -> TrainState:
  """Returns the state before the first step.

  Args:
    variables: {"params": ..., "batch_stats": ... (optional)}.
    optimizer: See `optimizer.build`.
    rng: Typed key that the steps derive theirs from.
    average: How to average the network, or None.
  """
  params = optimizer.start(variables["params"])
  state = TrainState(
    step=jnp.zeros([], jnp.int32),
    params=params,
    batch_stats=variables.get("batch_stats", {}),
    opt_state=optimizer.tx.init(params),
    rng=rng,
    average={},
  )
  return (
    state if average is None else dataclasses.replace(state, average=average.start(state.variables))
  )

"""What a recipe compiles to: state, shardings and step on a mesh, before any data is read."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bcos_jax.errors import InputError

from . import losses, sharding, start
from .average import Average
from .average import from_config as average_from_config
from .config import in_steps
from .optimizer import Optimizer
from .optimizer import build as build_optimizer
from .state import TrainState, new_key
from .state import create as create_state
from .step import EvalStep, TrainStep, make_eval_step, make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The programs of a run.

  Attributes:
    config: The recipe, durations in steps.
    create: Makes the state before the first step from the variables to start from, or from None.
    layout: The abstract state, with shardings.
    train_step: Compiled at its first call.
    eval_step: Compiled at its first call.
  """

  config: ConfigDict
  create: Callable[[Any | None], TrainState]
  layout: TrainState
  train_step: TrainStep
  eval_step: EvalStep


def make(
  config: ConfigDict,
  model: nn.Module,
  variables: Any | None,
  mesh: Mesh,
  steps_per_epoch: int,
  *,
  multi_label: bool = False,
) -> Plan:
  """Returns the programs of a recipe; computes nothing on the devices.

  Args:
    config: The recipe.
    model: The network.
    variables: To start from (arrays, or only their shapes); None if they are drawn.
    mesh: Of devices that need not be there, as long as nothing is run.
    steps_per_epoch: Length of an epoch.
    multi_label: Whether pictures may have several labels.

  Raises:
    InputError: A value that cannot be used.
  """
  config = in_steps(config, steps_per_epoch)
  if config.steps < 1:
    raise InputError(
      f"steps={config.steps}; expected at least 1.", 'Set --config.steps=1000 or "90 epochs".'
    )
  optimizer = build_optimizer(config.optimizer, steps=config.steps, steps_per_epoch=steps_per_epoch)
  average = average_from_config(
    config.ema,
    batch_size=config.data.batch_size,
    epochs=config.steps / steps_per_epoch,
    warmup=config.optimizer.warmup_steps,
  )
  create = functools.partial(_first_state, model, optimizer, config, average)
  layout = sharding.abstract(create, config.layout, mesh, variables)
  start.check_effects(config, model, layout.params)
  loss, eval_loss = (
    losses.from_config(name, config.loss) for name in (config.loss.name, config.loss.eval_name)
  )
  if multi_label and "cross_entropy" in (config.loss.name, config.loss.eval_name):
    raise InputError(
      "The loss cross_entropy expects one label per picture, the data have several.",
      "Set --config.loss.name=bce and --config.loss.eval_name=bce.",
    )
  step = make_train_step(
    model.clone(ops=dataclasses.replace(model.ops, recompute=config.recompute)),
    loss,
    optimizer,
    sharding.shardings(layout),
    mesh=mesh,
    average=average,
    accumulate=config.accumulate,
    skip_nonfinite=config.nonfinite == "skip",
    multi_label=multi_label,
  )
  return Plan(
    config=config,
    create=create,
    layout=layout,
    train_step=step,
    eval_step=make_eval_step(model, eval_loss, mesh=mesh, multi_label=multi_label),
  )


def _first_state(
  model: nn.Module,
  optimizer: Optimizer,
  config: ConfigDict,
  average: Average | None,
  variables: Any | None,
) -> TrainState:
  """Makes the state before the first step; traced, never run as it is."""
  init_key, run_key = jax.random.split(new_key(config.seed))
  if variables is None:
    size = config.data.image_size
    images = jax.numpy.zeros((1, size, size, model.ops.encoding.colors))
    variables = model.init(init_key, model.ops.encoding(images))
  return create_state(variables, optimizer, run_key, average)

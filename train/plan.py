"""Training plans: state, shardings and compiled step of a recipe, before data are read."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bcos_jax.errors import InputError

from . import sharding, start
from .average import Average
from .average import from_config as average_from_config
from .config import in_steps
from .objectives import OWN, Objective
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
    create: Creates the state before the first step from the variables to start from, or from None.
    objective: What is minimised and measured.
    layout: The abstract state, with shardings.
    frozen: The abstract variables that are not trained, with shardings; {} if there are none.
    train_step: Compiled at its first call.
    eval_step: Compiled at its first call.
  """

  config: ConfigDict
  objective: Objective
  create: Callable[[Any | None], TrainState]
  layout: TrainState
  frozen: Any
  train_step: TrainStep
  eval_step: EvalStep


def make(
  config: ConfigDict,
  objective: Objective,
  variables: Any | None,
  frozen: Any,
  mesh: Mesh,
  steps_per_epoch: int,
) -> Plan:
  """Returns the programs of a recipe; computes nothing on the devices.

  Args:
    config: The recipe.
    objective: With the network; see `objectives.from_config`.
    variables: To start from (arrays, or only their shapes); None if they are drawn.
    frozen: Variables that the objective needs and that are not trained, or only their shapes.
    mesh: A mesh; its devices need not exist unless the plan is run.
    steps_per_epoch: Length of an epoch.

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
  create = functools.partial(_first_state, objective, optimizer, config, average)
  layout = sharding.abstract(create, config.layout, mesh, variables)
  start.check_effects(config, objective.model, layout.variables)
  step = make_train_step(
    _recomputing(objective, config.recompute),
    optimizer,
    sharding.shardings(layout),
    mesh=mesh,
    average=average,
    accumulate=config.accumulate,
    skip_nonfinite=config.nonfinite == "skip",
  )
  return Plan(
    config=config,
    objective=objective,
    create=create,
    layout=layout,
    frozen=sharding.abstract(lambda leaves: leaves, config.layout, mesh, frozen),
    train_step=step,
    eval_step=make_eval_step(objective, mesh=mesh),
  )


def _recomputing(objective: Objective, recompute: bool) -> Objective:
  ops = dataclasses.replace(objective.model.ops, recompute=recompute)
  return dataclasses.replace(objective, model=objective.model.clone(ops=ops))


def _first_state(
  objective: Objective,
  optimizer: Optimizer,
  config: ConfigDict,
  average: Average | None,
  variables: Any | None,
) -> TrainState:
  """Creates the state before the first step; only traced."""
  init_key, run_key = jax.random.split(new_key(config.seed))
  if variables is None:
    spec = objective.model.input_spec
    variables = objective.model.init(init_key, jax.numpy.zeros(spec.shape, spec.dtype))
  own = objective.own_parameters()
  if own:
    variables = {**variables, "params": {**variables["params"], OWN: own}}
  return create_state(variables, optimizer, run_key, average)

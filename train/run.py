"""The constant settings of a run, and the state that it begins or resumes with."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bcos_jax.batches import check_memory
from bcos_jax.errors import InputError

from . import checkpoint, feeds, objectives, plan, sharding, start
from .config import TEXT_OBJECTIVES, flatten, settled_values
from .evaluation import evaluate
from .objectives import OWN
from .state import TrainState, new_key

History = list[dict[str, float]]

# What a resumed run may change: how it runs, and for how long. The network is compared by itself.
MAY_DIFFER = (
  "steps",
  "eval_every",
  "log_every",
  "checkpoint_every",
  "keep_every",
  "watch.",
  "recompute",
  "init",
  "model.",
  "ops.",
  "data.data_dir",
  "data.eval_batch_size",
  "data.workers",
  "data.cache",
  "mesh.",
  "layout",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """The constant settings of a run.

  Attributes:
    about: The description in its checkpoints.
    mesh: All devices.
    feed: Its examples.
    variables: To start from; None draws them.
    frozen: Variables that are not trained, placed by the plan.
    plan: Its programs.
  """

  about: dict[str, Any]
  mesh: Mesh
  feed: feeds.Feed
  variables: Any | None
  frozen: Any
  plan: plan.Plan

  @property
  def model(self) -> nn.Module:
    """The module that is trained."""
    return self.plan.objective.model

  @property
  def config(self) -> ConfigDict:
    """The recipe, durations in steps."""
    return self.plan.config

  def evaluate(self, state: TrainState) -> dict[str, float]:
    """Returns accuracy, loss and count on the evaluation examples; `ema_...` of the average."""
    own = {OWN: state.params[OWN]} if OWN in state.params else {}
    result = self._evaluate(state.variables, own)
    if state.average:
      averaged = self._evaluate(state.average, own)
      result |= {f"ema_{name}": value for name, value in averaged.items()}
    return result

  def _evaluate(self, variables: Any, own: dict[str, Any]) -> dict[str, float]:
    return evaluate.run(
      self.plan.eval_step,
      variables,
      {**self.frozen, **own},
      self.feed.eval_batches(),
      mesh=self.mesh,
    )


def set_up(config: ConfigDict, init: start.Network | None) -> Run:
  """Checks the recipe and builds what the loop needs; computes nothing on the devices."""
  mesh = sharding.make_mesh(config.mesh)
  _check(config, mesh)
  model, variables = start.network(config, init)
  feed = feeds.open_feed(config, model, mesh)
  start.check_calibration(config, feed.count, feed.name)
  steps_per_epoch = max(len(feed) // config.data.batch_size, 1)
  about = checkpoint.about_run(flatten(config), start.describe(model), [])
  objective, frozen = objectives.from_config(config, model, mesh, multi_label=feed.multi_label)
  feed.extend(objective.extras_of)
  made = plan.make(config, objective, variables, frozen, mesh, steps_per_epoch)
  _check_state(made.layout, mesh)
  return Run(
    about=about,
    mesh=mesh,
    feed=feed,
    variables=variables,
    frozen=sharding.init_sharded(lambda leaves: leaves, made.frozen, frozen),
    plan=made,
  )


Begun = tuple[TrainState, History, dict[str, float]]


def begin_state(run: Run, checkpoints: checkpoint.Checkpoints, workdir: pathlib.Path) -> Begun:
  """Returns the newest undamaged state and the evaluations up to it, or a new state.

  The third is what was measured of a new state in closed form; {} of any other.
  """
  for step in reversed(checkpoints.steps):
    try:
      return _resume(run, checkpoints, workdir, step)
    except checkpoint.DamagedError as error:
      aside = checkpoints.set_aside(step)
      print(
        f"warning: the checkpoint of step {step} is damaged ({error}). It is now {str(aside)!r}; "
        "the previous one is used.",
        file=sys.stderr,
      )
      if not checkpoints.steps:
        raise InputError(
          f"The run in {str(workdir)!r} has no checkpoint that can be read.",
          "Start again in another workdir, or restore a copy of the checkpoint.",
        ) from error
  variables, measured = run.variables, {}
  if run.config.calibrate:
    inputs = run.feed.unlabelled(run.config.calibrate)
    variables, measured = start.calibrated(
      run.config, new_key(run.config.seed), (run.model, variables), inputs, run.mesh, workdir
    )
  return sharding.init_sharded(run.plan.create, run.plan.layout, variables), [], measured


def _resume(
  run: Run, checkpoints: checkpoint.Checkpoints, workdir: pathlib.Path, step: int
) -> Begun:
  """Returns the state of a saved step and the evaluations up to it."""
  saved = checkpoints.about(step)
  about = checkpoint.about_run(settled_values(saved["config"]), saved["network"], [])
  checkpoint.check_same_run(about, run.about, MAY_DIFFER, workdir)
  if step > run.config.steps:
    raise InputError(
      f"The run in {str(workdir)!r} has finished {step} steps, the config asks for"
      f" {run.config.steps}.",
      "Use another workdir or more steps.",
    )
  return checkpoints.restore(step, run.plan.layout), saved["history"], {}


def _check(config: ConfigDict, mesh: Mesh) -> None:
  divisor = sharding.batch_divisor(mesh) * config.accumulate
  if config.data.batch_size % divisor:
    raise InputError(
      f"data.batch_size={config.data.batch_size} does not split over {divisor} devices and parts.",
      f"Use a multiple of {divisor}, fewer devices, or another --config.accumulate.",
    )
  if config.objective.name not in TEXT_OBJECTIVES:
    feeds.check_pictures(config)


def _check_state(layout: TrainState, mesh: Mesh) -> None:
  """Refuses a state that a device cannot hold."""
  leaves = [leaf for leaf in jax.tree.leaves(layout) if hasattr(leaf.dtype, "itemsize")]
  share = sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
  )
  limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
  check_memory(
    f"The state of a network with {sum(leaf.size for leaf in leaves):,} numbers",
    share * (1 if limit else len(mesh.local_devices)),
    "Choose a smaller network, or split it with --config.layout.",
    limit,
  )

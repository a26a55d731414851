"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Preprocess
from bcos_jax.pretrained import check_writable

from . import checkpoint, evaluate, losses, sharding, start
from .config import flatten, in_steps
from .data import open_dataset, pipeline
from .data.augment import AUGMENTATIONS
from .interrupt import stop_requests
from .metrics import MetricWriter
from .optimizer import Optimizer
from .optimizer import build as build_optimizer
from .state import TrainState, new_key
from .state import create as create_state
from .step import EvalStep, TrainStep, make_eval_step, make_train_step

Hook = Callable[[int, TrainState], None]
History = list[dict[str, float]]

# What a resumed run may change: how it runs, and for how long. The network is compared by itself.
MAY_DIFFER = (
  "steps",
  "eval_every",
  "log_every",
  "checkpoint_every",
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


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a run leaves in memory.

  Attributes:
    model: The trained module.
    state: The final state; its arrays lie on the mesh.
    history: The evaluations, oldest first: {"step", "accuracy", "loss", "count"} each.
    labels: Names of the classes.
    preprocess: From a picture to what the network was evaluated on.
  """

  model: nn.Module
  state: TrainState
  history: tuple[dict[str, float], ...]
  labels: tuple[str, ...]
  preprocess: Preprocess

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes."""
    return self.state.variables

  @property
  def metrics(self) -> dict[str, float]:
    """The last evaluation."""
    return self.history[-1]


def train(
  config: ConfigDict,
  *,
  workdir: str | os.PathLike,
  init: start.Network | None = None,
  progress: bool = True,
  hooks: Sequence[Hook] = (),
) -> TrainResult:
  """Trains a network, resuming from the newest checkpoint in `workdir` if there is one.

  Interrupted (by Ctrl-C, SIGTERM or an exception) and called again with the same arguments, a
  run on one device ends with the very bits of an uninterrupted one.

  Args:
    config: A recipe, see `config.load_config`.
    workdir: For checkpoints, metrics.jsonl and TensorBoard events; made if needed.
    init: (model, variables) to start from, in place of the config's model, ops and init.
    progress: Whether to show a progress bar.
    hooks: Each is called as hook(finished steps, state) after every step. The next step donates
      the state's buffers, so a hook copies what it keeps.

  Returns:
    The trained network and its evaluations.

  Raises:
    InputError: if a value cannot be used, before any work is done.
    FloatingPointError: if the loss is not finite.
    KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint.
  """
  workdir = check_writable(workdir)
  run = _set_up(config, init)
  last = run.config.steps
  with checkpoint.Checkpoints(workdir / "checkpoints") as checkpoints:
    state, history = _begin(run, checkpoints, workdir)
    begin = int(state.step)
    with (
      _writer(run, workdir, begin, progress) as writer,
      contextlib.closing(iter(run.batches(begin))) as batches,
      stop_requests() as stop,
    ):
      for step in range(begin + 1, last + 1):
        state, metrics = run.train_step(state, sharding.put_batch(next(batches), run.mesh))
        writer.train(step, metrics)
        stopping, result = stop.is_set(), None
        if step == last or _due(step, run.config.eval_every):
          result = run.evaluate(state)
          history.append({"step": step, **result})
          writer.evaluation(step, result)
        if step == last or _due(step, run.config.checkpoint_every) or stopping:
          checkpoints.save(step, state, run.about | {"history": history}, result)
        for hook in hooks:
          hook(step, state)
        if stopping and step < last:
          raise KeyboardInterrupt(f"Stopped after step {step} of {last}; the state is saved.")
  labels, preprocess = run.train_set.dataset.label_names, run.test_set.preprocess
  return TrainResult(run.model, state, tuple(history), labels, preprocess)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
  """Everything about a run that does not change while it runs.

  Attributes:
    config: The recipe, durations in steps.
    about: What its checkpoints say about it.
    mesh: All devices.
    train_set: Training examples.
    test_set: Evaluation examples.
    model: The module.
    variables: To start from; None draws them.
    optimizer: See `optimizer.build`.
    layout: The abstract state, with shardings.
    train_step: Compiled at its first call.
    eval_step: Compiled at its first call.
  """

  config: ConfigDict
  about: dict[str, Any]
  mesh: Mesh
  train_set: pipeline.Examples
  test_set: pipeline.Examples
  model: nn.Module
  variables: Any | None
  optimizer: Optimizer
  layout: TrainState
  train_step: TrainStep
  eval_step: EvalStep

  def batches(self, begin: int) -> Iterable[dict[str, Any]]:
    """Returns this process's training batches from step `begin` on."""
    data = self.config.data
    return pipeline.train_batches(
      self.train_set,
      AUGMENTATIONS[data.augment],
      batch_size=data.batch_size,
      seed=self.config.seed,
      start_step=begin,
      workers=data.workers,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )

  def evaluate(self, state: TrainState) -> dict[str, float]:
    """Returns accuracy, loss and count on the evaluation examples."""
    data = self.config.data
    return evaluate.run(
      self.eval_step,
      state.variables,
      self.test_set,
      batch_size=data.eval_batch_size,
      workers=data.workers,
      mesh=self.mesh,
    )


def _set_up(config: ConfigDict, init: start.Network | None) -> _Run:
  """Checks the recipe and builds what the loop needs; computes nothing on the devices."""
  mesh = sharding.make_mesh(config.mesh)
  _check_data(config, mesh)
  model, variables = start.network(config, init)
  train_set, test_set = _open_data(config, model)
  steps_per_epoch = max(len(train_set) // config.data.batch_size, 1)
  about = checkpoint.about_run(flatten(config), start.describe(model), [])
  config = in_steps(config, steps_per_epoch)
  _check_steps(config)
  optimizer = build_optimizer(config.optimizer, steps=config.steps, steps_per_epoch=steps_per_epoch)
  create = functools.partial(_first_state, model, optimizer, config)
  layout = sharding.abstract(create, config.layout, mesh, variables)
  start.check_effects(config, model, layout.params)
  loss, eval_loss = (
    losses.from_config(name, config.loss) for name in (config.loss.name, config.loss.eval_name)
  )
  return _Run(
    config=config,
    about=about,
    mesh=mesh,
    train_set=train_set,
    test_set=test_set,
    model=model,
    variables=variables,
    optimizer=optimizer,
    layout=layout,
    train_step=make_train_step(model, loss, optimizer, sharding.shardings(layout)),
    eval_step=make_eval_step(model, eval_loss),
  )


def _first_state(
  model: nn.Module, optimizer: Optimizer, config: ConfigDict, variables: Any | None
) -> TrainState:
  """Makes the state before the first step; traced, never run as it is."""
  init_key, run_key = jax.random.split(new_key(config.seed))
  if variables is None:
    size = config.data.image_size
    images = jax.numpy.zeros((1, size, size, model.ops.encoding.colors))
    variables = model.init(init_key, model.ops.encoding(images))
  return create_state(variables, optimizer, run_key)


def _begin(
  run: _Run, checkpoints: checkpoint.Checkpoints, workdir: pathlib.Path
) -> tuple[TrainState, History]:
  """Returns the newest saved state and the evaluations up to it, or a new state."""
  if not checkpoints.steps:
    create = functools.partial(_first_state, run.model, run.optimizer, run.config)
    return sharding.born(create, run.layout, run.variables), []
  step = checkpoints.steps[-1]
  saved = checkpoints.about(step)
  checkpoint.check_same_run(saved, run.about, MAY_DIFFER, workdir)
  if step > run.config.steps:
    raise InputError(
      f"The run in {str(workdir)!r} has finished {step} steps, the config asks for"
      f" {run.config.steps}.",
      "Use another workdir or more steps.",
    )
  return checkpoints.restore(step, run.layout), saved["history"]


def _writer(run: _Run, workdir: pathlib.Path, begin: int, progress: bool) -> MetricWriter:
  return MetricWriter(
    workdir,
    steps=run.config.steps,
    start_step=begin,
    batch_size=run.config.data.batch_size,
    log_every=run.config.log_every,
    progress=progress,
  )


def _open_data(config: ConfigDict, model: nn.Module) -> tuple[pipeline.Examples, pipeline.Examples]:
  """Opens the training and the evaluation split."""
  data = config.data
  preprocess = Preprocess(
    size=(data.image_size,) * 2, resize=data.resize, colors=model.ops.encoding.colors
  )
  train_set, test_set = (
    pipeline.Examples(open_dataset(data.name, split, data.data_dir), preprocess, keep=data.cache)
    for split in (data.train_split, data.test_split)
  )
  classes = len(train_set.dataset.label_names)
  if model.num_classes != classes:
    raise InputError(
      f"The network has {model.num_classes} classes, {train_set.dataset.name} {classes}.",
      f"Set --config.model.num_classes={classes}.",
    )
  return train_set, test_set


def _check_data(config: ConfigDict, mesh: Mesh) -> None:
  divisor = sharding.batch_divisor(mesh)
  if config.data.batch_size % divisor:
    raise InputError(
      f"data.batch_size={config.data.batch_size} does not split over {divisor} devices.",
      f"Use a multiple of {divisor}, or fewer devices.",
    )
  if config.data.augment not in AUGMENTATIONS:
    raise unknown_name("augmentation", config.data.augment, AUGMENTATIONS)


def _check_steps(config: ConfigDict) -> None:
  if config.steps < 1:
    raise InputError(
      f"steps={config.steps}; expected at least 1.", 'Set --config.steps=1000 or "90 epochs".'
    )


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0

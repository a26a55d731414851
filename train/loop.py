"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from bcos_jax.errors import InputError, RunError
from bcos_jax.io.bundles import check_writable

from . import checkpoint, feeds, hosts, objectives, plan, sharding, start
from .config import flatten, settle, settled_values
from .evaluation import evaluate
from .interrupt import stop_requests
from .monitor import watch
from .monitor.writer import MetricWriter, NotFiniteError
from .objectives import OWN
from .state import TrainState

Hook = Callable[[int, TrainState], None]
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


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a run leaves in memory.

  Attributes:
    model: The trained module.
    state: The final state, or the best one if the config says so; its arrays lie on the mesh.
    history: The evaluations, oldest first: {"step", "accuracy", "loss", "count"} each.
    labels: Names of the classes.
    preprocess: From a picture to what the network was evaluated on; None for language models.
    tokenizer: Files of the tokenizer that a language model reads with.
    objective: What was minimised; None for a result that no run has left.
  """

  model: nn.Module
  state: TrainState
  history: tuple[dict[str, float], ...]
  labels: tuple[str, ...]
  preprocess: Any = None  # as in a Bundle
  tokenizer: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
  objective: objectives.Objective | None = None

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes: the average of the run if it has one, else its last state."""
    return self.state.average or self.state.variables

  @property
  def metrics(self) -> dict[str, float]:
    """The evaluation of the state, or the last one of a run that was not evaluated there."""
    step = int(self.state.step)
    return next((row for row in self.history if row["step"] == step), self.history[-1])


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
    FloatingPointError: if the loss or the gradient is not finite, and `nonfinite` is "stop".
    RunError: The disk is full, the data are gone, or a process that reads them has died.
    KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint.
  """
  config = settle(config)
  if not os.fspath(workdir):
    raise InputError("workdir='' is empty, expected a folder.", "Set it to a folder for the run.")
  workdir = check_writable(workdir)
  run = _set_up(config, init)
  last = run.config.steps
  with (
    _saying_what_broke(workdir),
    checkpoint.Checkpoints(
      workdir / "checkpoints", best=run.plan.objective.measure, keep_every=run.config.keep_every
    ) as checkpoints,
  ):
    state, history = _begin(run, checkpoints, workdir)
    begin, damaged = int(state.step), 0
    advance: dict[tuple, tuple[Callable, float]] = {}  # Step and its FLOPs by a batch's shapes.
    with (
      _writer(run, workdir, begin, progress) as writer,
      contextlib.closing(iter(run.feed.batches(begin))) as batches,
      stop_requests() as stop,
      hosts.ending_together(),
      _naming_the_batch(run, checkpoints),
      _watching(run, workdir, begin, writer) as watching,
    ):
      for step in range(begin + 1, last + 1):
        batch = next(batches)
        damaged += int(np.sum(batch.pop("damaged", 0)))
        batch = run.feed.sized(sharding.put_batch(batch, run.mesh), step)
        shapes = tuple(array.shape for array in batch.values())
        if shapes not in advance:
          lowered = run.plan.train_step.lower(state, batch, run.frozen)
          cost = watch.flops(lowered, devices=run.mesh.size, parts=run.config.accumulate)
          advance[shapes] = lowered.compile(), cost
        compiled, flops = advance[shapes]
        state, measured = compiled(state, batch, run.frozen)
        writer.train(step, measured | {"damaged": damaged}, flops)
        stopping, result = stop(step), None
        if step == last or _due(step, run.config.eval_every):
          result = run.evaluate(state)
          history.append({"step": step, **result})
          writer.evaluation(step, result)
        if step == last or _due(step, run.config.checkpoint_every) or stopping:
          writer.catch_up()  # A state that is not finite must not become a checkpoint.
          checkpoints.save(step, state, run.about | {"history": history}, result)
        for hook in (*hooks, *watching):
          hook(step, state)
        if stopping and step < last:
          raise KeyboardInterrupt(f"Stopped after step {step} of {last}; the state is saved.")
    if run.config.best:
      state = _best(run, checkpoints, history, state)
  return TrainResult(
    run.model,
    state,
    tuple(history),
    run.feed.labels,
    objective=run.plan.objective,
    **run.feed.belongings,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
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


def _set_up(config: ConfigDict, init: start.Network | None) -> _Run:
  """Checks the recipe and builds what the loop needs; computes nothing on the devices."""
  mesh = sharding.make_mesh(config.mesh)
  _check(config, mesh)
  model, variables = start.network(config, init)
  feed = feeds.open_feed(config, model, mesh)
  steps_per_epoch = max(len(feed) // config.data.batch_size, 1)
  about = checkpoint.about_run(flatten(config), start.describe(model), [])
  objective, frozen = objectives.from_config(config, model, mesh, multi_label=feed.multi_label)
  feed.extend(objective.extras_of)
  made = plan.make(config, objective, variables, frozen, mesh, steps_per_epoch)
  return _Run(
    about=about,
    mesh=mesh,
    feed=feed,
    variables=variables,
    frozen=sharding.init_sharded(lambda leaves: leaves, made.frozen, frozen),
    plan=made,
  )


def _begin(
  run: _Run, checkpoints: checkpoint.Checkpoints, workdir: pathlib.Path
) -> tuple[TrainState, History]:
  """Returns the newest undamaged state and the evaluations up to it, or a new state."""
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
  return sharding.init_sharded(run.plan.create, run.plan.layout, run.variables), []


def _resume(
  run: _Run, checkpoints: checkpoint.Checkpoints, workdir: pathlib.Path, step: int
) -> tuple[TrainState, History]:
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
  return checkpoints.restore(step, run.plan.layout), saved["history"]


@contextlib.contextmanager
def _watching(
  run: _Run, workdir: pathlib.Path, begin: int, writer: MetricWriter
) -> Iterator[list[Hook]]:
  """Yields the hooks that `config.watch` requests."""
  options, hooks = run.config.watch, []
  if options.explain_every:
    hooks.append(
      run.feed.explanations(
        run.model,
        every=options.explain_every,
        count=options.explain_images,
        folder=workdir / "explanations",
        writer=writer,
      )
    )
  with watch.profile(workdir / "profile", begin, options.profile_steps) as trace:
    yield [*hooks, trace]


@contextlib.contextmanager
def _naming_the_batch(run: _Run, checkpoints: checkpoint.Checkpoints) -> Iterator[None]:
  """Adds to an error the examples on which a run diverged, and its last checkpoint."""
  try:
    yield
  except NotFiniteError as error:
    saved = checkpoints.steps
    left = f"the last checkpoint is that of step {saved[-1]}" if saved else "nothing is saved yet"
    examples = ", ".join(map(str, run.feed.examples_of(error.step)))
    raise FloatingPointError(
      f"{error}; {left}. The batch is examples {examples} of {run.feed.name}. Lower "
      "--config.optimizer.lr, set --config.optimizer.agc=0.01, or skip such steps with "
      "--config.nonfinite=skip."
    ) from error


@contextlib.contextmanager
def _saying_what_broke(workdir: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a full disk and of dead workers, of many types, into RunError."""
  try:
    yield
  except Exception as error:
    said = " ".join(str(error).split())[:300]
    if re.search("No space left|quota exceeded|File too large|Read-only file system", said):
      raise RunError(
        f"{str(workdir)!r} cannot be written to: {said}.",
        "Free space there, then run the same command to continue from the last checkpoint.",
      ) from error
    if "Worker process was terminated" in said:
      raise RunError(
        f"A process that reads pictures has died: {said}",
        "Most likely memory ran out: set fewer --config.data.workers, then run the same command to "
        "continue from the last checkpoint.",
      ) from error
    raise


def _best(
  run: _Run, checkpoints: checkpoint.Checkpoints, history: History, state: TrainState
) -> TrainState:
  """Returns the saved state with the best evaluation; of equals, the one of the least loss."""
  checkpoints.wait()
  saved = [row for row in history if row["step"] in checkpoints.steps]
  best = max(saved, key=lambda row: (row[run.plan.objective.measure], -row["loss"]))["step"]
  return state if best == int(state.step) else checkpoints.restore(best, run.plan.layout)


def _writer(run: _Run, workdir: pathlib.Path, begin: int, progress: bool) -> MetricWriter:
  return MetricWriter(
    workdir,
    steps=run.config.steps,
    start_step=begin,
    batch_size=run.config.data.batch_size,
    log_every=run.config.log_every,
    progress=progress,
    may_skip=run.config.nonfinite == "skip",
    wandb=run.config.watch.wandb,
    config=run.about["config"],
    unit=run.feed.unit,
  )


def _check(config: ConfigDict, mesh: Mesh) -> None:
  divisor = sharding.batch_divisor(mesh) * config.accumulate
  if config.data.batch_size % divisor:
    raise InputError(
      f"data.batch_size={config.data.batch_size} does not split over {divisor} devices and parts.",
      f"Use a multiple of {divisor}, fewer devices, or another --config.accumulate.",
    )


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0

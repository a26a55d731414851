"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import os
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict
import numpy as np

from bcos_jax.errors import InputError, RunError
from bcos_jax.inputs import Preprocess
from bcos_jax.io.bundles import check_writable
from bcos_jax.io.files import check_new

from . import checkpoint, hosts, sharding, start
from .config import settle
from .interrupt import stop_requests
from .monitor import watch
from .monitor.writer import MetricWriter, NotFiniteError
from .objectives import Objective
from .run import History, Run, begin_state, set_up
from .state import TrainState

Hook = Callable[[int, TrainState], None]


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
  preprocess: Preprocess | None = None
  tokenizer: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
  objective: Objective | None = None

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
  # A recipe that cannot be set up leaves no empty folder.
  workdir = check_writable(workdir) if os.path.exists(workdir) else check_new(workdir)
  run = set_up(config, init)
  workdir = check_writable(workdir)
  with (
    _saying_what_broke(workdir),
    checkpoint.Checkpoints(
      workdir / "checkpoints", best=run.plan.objective.measure, keep_every=run.config.keep_every
    ) as checkpoints,
  ):
    state, history, calibrated = begin_state(run, checkpoints, workdir)
    begin = int(state.step)
    with (
      _writer(run, workdir, begin, progress) as writer,
      contextlib.closing(iter(run.feed.batches(begin))) as batches,
      stop_requests() as stop,
      hosts.ending_together(),
      _naming_the_batch(run, checkpoints),
      _watching(run, workdir, begin, writer) as watching,
    ):
      writer.calibration(begin, calibrated)
      records = _Records(run, writer, checkpoints, history)
      state = _advance(run, state, batches, records, stop, (*hooks, *watching))
    if run.config.best:
      state = _best(run, checkpoints, history, state)
  own = {"objective": run.plan.objective, **run.feed.belongings}
  return TrainResult(run.model, state, tuple(history), run.feed.labels, **own)


def _advance(
  run: Run,
  state: TrainState,
  batches: Iterator[dict[str, np.ndarray]],
  records: _Records,
  stop: Callable[[int], bool],
  hooks: Sequence[Hook],
) -> TrainState:
  """Returns the state after the remaining steps.

  Raises:
    KeyboardInterrupt: `stop` asks for it before the last step; the state is saved.
  """
  programs, last, damaged = _Programs(run), run.config.steps, 0
  for step in range(int(state.step) + 1, last + 1):
    try:
      batch = next(batches)
    except Exception:
      # Ctrl-C in a terminal reaches the processes that read pictures as well, and they end first.
      if jax.process_count() == 1 and stop(step - 1):
        records.stopped(step - 1, state)
        raise KeyboardInterrupt(f"Stopped after step {step - 1} of {last}.") from None
      raise
    damaged += int(np.sum(batch.pop("damaged", 0)))
    batch = run.feed.sized(sharding.put_batch(batch, run.mesh), step)
    compiled, flops = programs.of(state, batch)
    state, measured = compiled(state, batch, run.frozen)
    records.writer.train(step, measured | {"damaged": damaged}, flops)
    stopping = stop(step)
    records.after(step, state, stopping)
    for hook in hooks:
      hook(step, state)
    if stopping and step < last:
      raise KeyboardInterrupt(f"Stopped after step {step} of {last}; the state is saved.")
  return state


class _Programs:
  """Compiled training steps with their FLOPs, by the shapes of a batch."""

  def __init__(self, run: Run):
    self._run = run
    self._made: dict[tuple, tuple[Callable, float]] = {}

  def of(self, state: TrainState, batch: dict[str, Any]) -> tuple[Callable, float]:
    """Returns the step for such a batch, compiled if it is the first, and its FLOPs."""
    run, shapes = self._run, tuple(array.shape for array in batch.values())
    if shapes not in self._made:
      lowered = run.plan.train_step.lower(state, batch, run.frozen)
      cost = watch.flops(lowered, devices=run.mesh.size, parts=run.config.accumulate)
      self._made[shapes] = lowered.compile(), cost
    return self._made[shapes]


@dataclasses.dataclass(frozen=True)
class _Records:
  """What a run writes: metrics, evaluations and checkpoints.

  Attributes:
    run: Its settings.
    writer: Of metrics.
    checkpoints: Those of the run.
    history: Evaluations, oldest first; grows.
  """

  run: Run
  writer: MetricWriter
  checkpoints: checkpoint.Checkpoints
  history: History

  def after(self, step: int, state: TrainState, stopping: bool) -> None:
    """Evaluates and saves the state after a step if that is due, or if the run stops."""
    config, result = self.run.config, None
    last = step == config.steps
    if last or _due(step, config.eval_every):
      result = self.run.evaluate(state)
      self.history.append({"step": step, **result})
      self.writer.evaluation(step, result)
    if last or _due(step, config.checkpoint_every) or stopping:
      self.writer.catch_up()  # A state that is not finite must not become a checkpoint.
      self.checkpoints.save(step, state, self.run.about | {"history": self.history}, result)

  def stopped(self, step: int, state: TrainState) -> None:
    """Saves the state after a step, if it is not saved yet."""
    if step and step not in self.checkpoints.steps:
      self.writer.catch_up()
      self.checkpoints.save(step, state, self.run.about | {"history": self.history}, None)


@contextlib.contextmanager
def _watching(
  run: Run, workdir: pathlib.Path, begin: int, writer: MetricWriter
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
def _naming_the_batch(run: Run, checkpoints: checkpoint.Checkpoints) -> Iterator[None]:
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


_UNWRITABLE = re.compile(
  "No space left on device|(Disk )?quota exceeded|File too large|Read-only file system", re.I
)


@contextlib.contextmanager
def _saying_what_broke(workdir: pathlib.Path) -> Iterator[None]:
  """Turns the errors of a full disk and of dead workers, of many types, into RunError."""
  logger = logging.getLogger("absl")
  logger.addFilter(_is_news)
  try:
    yield
  except Exception as error:
    said = " ".join(str(error).split())
    if why := _UNWRITABLE.search(said):
      raise RunError(
        f"{str(workdir)!r} cannot be written to: {why[0].lower()}.",
        "Free space there, then run the same command to continue from the last checkpoint.",
      ) from error
    if "Worker process was terminated" in said:
      raise RunError(
        f"A process that reads pictures has died: {said[:300]}",
        "Most likely memory ran out: set fewer --config.data.workers, then run the same command to "
        "continue from the last checkpoint.",
      ) from error
    raise
  finally:
    logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
  """Whether a record is none of the tracebacks that Orbax writes before it raises."""
  return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _best(
  run: Run, checkpoints: checkpoint.Checkpoints, history: History, state: TrainState
) -> TrainState:
  """Returns the saved state with the best evaluation; of equals, the one of the least loss."""
  checkpoints.wait()
  saved = [row for row in history if row["step"] in checkpoints.steps]
  best = int(max(saved, key=lambda row: (row[run.plan.objective.measure], -row["loss"]))["step"])
  return state if best == int(state.step) else checkpoints.restore(best, run.plan.layout)


def _writer(run: Run, workdir: pathlib.Path, begin: int, progress: bool) -> MetricWriter:
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


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0

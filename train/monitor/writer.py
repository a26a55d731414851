"""Writers of training metrics: console, JSON lines and TensorBoard, without blocking."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import re
import sys
import time
from typing import Any, Self
import uuid

import jax
import numpy as np
import tqdm

from bcos_jax.errors import InputError

from .tensorboard import Board

# Peak of dense bfloat16 arithmetic per second, by what JAX calls the device.
PEAKS = {
  r"TPU v4": 275e12,
  r"TPU v5 ?(lite|e)": 197e12,
  r"TPU v5p?$": 459e12,
  r"TPU v6": 918e12,
  r"A100": 312e12,
  r"H[12]00": 989e12,
}

# What the progress bar shows of a step's metrics, and how.
SHOWN = {
  "loss": ("loss", ".3f"),
  "acc": ("accuracy", ".3f"),
  "cos": ("similarity", ".3f"),
  "lr": ("learning_rate", ".1e"),
}

# The same of evaluations.
EVAL_SHOWN = (
  ("test acc", "accuracy"),
  ("test mAP", "mean_average_precision"),
  ("test cos", "similarity"),
)

# Of these the last value is written, not the mean.
NO_MEANS = ("learning_rate", "damaged")

MUST_BE_FINITE = ("loss", "gradient_norm")
MOST_SKIPPED_IN_A_ROW = 20


class NotFiniteError(FloatingPointError):
  """A step whose loss or gradient is not finite.

  Attributes:
    step: Its number.
    in_a_row: How many such steps there were without another between them.
    values: What it measured.
  """

  def __init__(self, step: int, in_a_row: int, values: Mapping[str, float]):
    super().__init__(
      f"The loss is {values['loss']} and the gradient's norm {values.get('gradient_norm')} at step "
      f"{step}" + (f", like at the {in_a_row - 1} before" if in_a_row > 1 else "")
    )
    self.step, self.in_a_row, self.values = step, in_a_row, values


class MetricWriter:
  """Collects the metrics of steps and evaluations and writes them.

  Steps' metrics are fetched one step late: while the host waits for them, the device works on
  the next step, which is queued already. Of several processes only the first writes.

  In the run's folder: `metrics.jsonl`, one object per line with `step` and `train/...` (means
  over the steps since the last such line) or `eval/...`; and TensorBoard events.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    steps: int,
    start_step: int,
    batch_size: int,
    log_every: int,
    progress: bool,
    may_skip: bool = False,
    wandb: str = "",
    config: Mapping[str, Any] | None = None,
    unit: str = "images",
  ):
    """Opens the files, dropping what an interrupted run logged after `start_step`.

    Args:
      workdir: The run's folder.
      steps: Steps of the whole run.
      start_step: Steps that are finished.
      batch_size: Examples per step.
      log_every: Steps between lines.
      progress: Whether to show a progress bar.
      may_skip: Whether steps whose loss or gradient is not finite are left out and counted.
      wandb: Project of Weights & Biases to log to as well.
      config: For its record of the run.
      unit: What a batch is made of.

    Raises:
      InputError: Weights & Biases is requested but not installed.
    """
    self._may_skip, self._skipped, self._skipped_in_a_row = may_skip, 0, 0
    self._first = jax.process_index() == 0
    self._batch_size, self._log_every, self._last, self._unit = batch_size, log_every, steps, unit
    self._pending: tuple[int, Mapping[str, jax.Array], float] | None = None
    self._window: list[dict[str, float]] = []
    self._flops = 0.0  # Of the window's steps.
    self._window_start = time.perf_counter()
    self._shown: dict[str, str] = {}
    self._bar = tqdm.tqdm(
      total=steps,
      initial=start_step,
      unit="step",
      dynamic_ncols=True,
      disable=not (progress and self._first),
      # A log file gets a line at intervals, not a progress bar.
      mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    if self._first:
      self._lines = _reopen(workdir / "metrics.jsonl", start_step)
      self._board = Board(workdir / "tensorboard", start_step)
    self._wandb = _open_wandb(wandb, workdir, config) if wandb and self._first else None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def train(self, step: int, metrics: Mapping[str, jax.Array], flops: float = 0.0) -> None:
    """Takes the metrics of a step (device scalars); reads those of the step before.

    Args:
      step: Its number.
      metrics: By name.
      flops: Floating-point operations of one device in it, 0 where they are not known.

    Raises:
      NotFiniteError: The loss or gradient of the step before is not finite, and may not be, or
        was so too often.
    """
    self.catch_up()
    self._pending = (step, metrics, flops)

  def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of an evaluation after `step`."""
    self.catch_up()
    self._write(step, {f"eval/{name}": value for name, value in metrics.items()})
    self._show({label: f"{metrics[name]:.3f}" for label, name in EVAL_SHOWN if name in metrics})
    self._window_start = time.perf_counter()  # Evaluation does not count as training time.

  def calibration(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes how far a network in closed form agrees with its teacher, if it is one."""
    if metrics:
      self._write(step, {f"calibration/{name}": value for name, value in metrics.items()})

  def close(self) -> None:
    """Writes what is pending and closes the files."""
    try:
      self.catch_up()
    finally:
      self._bar.close()
      if self._first:
        self._lines.close()
        self._board.close()
      if self._wandb:
        self._wandb.finish()

  def picture(self, step: int, name: str, image: np.ndarray) -> None:
    """Takes a picture, uint8 [H, W, 3]."""
    self._board.image(step, name, image)
    if self._wandb:
      import wandb

      self._wandb.log({name: wandb.Image(image)}, step=step)

  def catch_up(self) -> None:
    """Reads the metrics of the last step that was given, waiting for it.

    Raises:
      NotFiniteError: As for `train`.
    """
    if self._pending is None:
      return
    (step, metrics, flops), self._pending = self._pending, None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if all(np.isfinite(values[name]) for name in MUST_BE_FINITE if name in values):
      self._window.append(values)
      self._flops += flops
      self._skipped_in_a_row = 0
    else:
      self._skipped += 1
      self._skipped_in_a_row += 1
      if not self._may_skip or self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
        raise NotFiniteError(step, self._skipped_in_a_row, values)
    self._bar.update()
    if step % self._log_every == 0 or step == self._last:
      self._log(step)

  def _log(self, step: int) -> None:
    if not self._window:  # Every step since the last line was skipped.
      return
    seconds = time.perf_counter() - self._window_start
    means = {
      name: float(np.mean([values[name] for values in self._window])) for name in self._window[-1]
    }
    means |= {name: self._window[-1][name] for name in NO_MEANS if name in means}
    if self._may_skip:
      means["skipped"] = self._skipped
    rate = means[f"{self._unit}_per_second"] = len(self._window) * self._batch_size / seconds
    means |= _used(self._flops / seconds)
    self._window, self._flops, self._window_start = [], 0.0, time.perf_counter()
    self._write(step, {f"train/{name}": value for name, value in means.items()})
    shown = {
      label: format(means[name], style) for label, (name, style) in SHOWN.items() if name in means
    }
    self._show({f"{self._unit}/s": f"{rate:.0f}", **shown})

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    if not self._first:
      return
    self._lines.write(json.dumps({"step": step, **values}) + "\n")
    self._lines.flush()
    self._board.scalars(step, values)
    if self._wandb:
      self._wandb.log(dict(values), step=step)

  def _show(self, values: Mapping[str, str]) -> None:
    self._shown.update(values)
    self._bar.set_postfix(self._shown, refresh=False)


def _used(flops: float) -> dict[str, float]:
  """Returns the arithmetic of one device per second, and its share of the device's peak."""
  if not flops:
    return {}
  peak = peak_flops(jax.devices()[0].device_kind)
  return {"tflops_per_device": flops / 1e12} | ({"utilisation": flops / peak} if peak else {})


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak of a device's dense bfloat16 arithmetic per second, None if not known."""
  return next((peak for kind, peak in PEAKS.items() if re.search(kind, device_kind)), None)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads JSON lines; a last line that was cut short is left out."""
  rows = []
  for line in path.read_text(encoding="utf-8").splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def _open_wandb(project: str, workdir: pathlib.Path, config: Mapping[str, Any] | None) -> Any:
  """Opens the run of a folder, or goes on with it."""
  try:
    import wandb
  except ImportError as error:
    raise InputError(
      f"config.watch.wandb={project!r}, but Weights & Biases is not installed.",
      "Install it (pip install wandb), or leave config.watch.wandb empty.",
    ) from error
  file = workdir / "wandb_id"
  if not file.exists():
    file.write_text(uuid.uuid4().hex, encoding="utf-8")
  return wandb.init(
    project=project,
    id=file.read_text(encoding="utf-8"),
    resume="allow",
    name=workdir.name,
    dir=str(workdir),
    config=dict(config or {}),
  )


def _reopen(path: pathlib.Path, start_step: int) -> Any:
  """Opens JSON lines for appending, without the lines after `start_step`."""
  kept = [row for row in read_lines(path) if row["step"] <= start_step] if path.exists() else []
  path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
  return path.open("a", encoding="utf-8")

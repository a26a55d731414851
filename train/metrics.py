"""Metrics to the console, to JSON lines and to TensorBoard, without making the device wait."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import sys
import time
from typing import Any, Self

import jax
import numpy as np
import tensorboardX
import tqdm

# What the progress bar shows of a step's metrics, and how.
SHOWN = {"loss": ("loss", ".3f"), "acc": ("accuracy", ".3f"), "lr": ("learning_rate", ".1e")}

# The same of evaluations.
EVAL_SHOWN = (("test acc", "accuracy"), ("test mAP", "mean_average_precision"))

# Of these the last value is written, not the mean.
NO_MEANS = ("learning_rate", "damaged")


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
  ):
    """Opens the files, dropping what an interrupted run logged after `start_step`.

    Args:
      workdir: The run's folder.
      steps: Steps of the whole run.
      start_step: Steps that are finished.
      batch_size: Images per step.
      log_every: Steps between lines.
      progress: Whether to show a progress bar.
    """
    self._first = jax.process_index() == 0
    self._batch_size, self._log_every, self._last = batch_size, log_every, steps
    self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
    self._window: list[dict[str, float]] = []
    self._window_start = time.perf_counter()
    self._shown: dict[str, str] = {}
    self._bar = tqdm.tqdm(
      total=steps,
      initial=start_step,
      unit="step",
      dynamic_ncols=True,
      disable=not (progress and self._first),
      # A log file wants a line now and then, not a moving bar.
      mininterval=0.5 if sys.stderr.isatty() else 30,
    )
    if self._first:
      self._lines = _reopen(workdir / "metrics.jsonl", start_step)
      self._board = tensorboardX.SummaryWriter(
        str(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None
      )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def train(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Takes the metrics of a step (device scalars); reads those of the step before."""
    self._fetch()
    self._pending = (step, metrics)

  def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of an evaluation after `step`."""
    self._fetch()
    self._write(step, {f"eval/{name}": value for name, value in metrics.items()})
    self._show({label: f"{metrics[name]:.3f}" for label, name in EVAL_SHOWN if name in metrics})
    self._window_start = time.perf_counter()  # Evaluation is no training time.

  def close(self) -> None:
    """Writes what is pending and closes the files."""
    try:
      self._fetch()
    finally:
      self._bar.close()
      if self._first:
        self._lines.close()
        self._board.close()

  def _fetch(self) -> None:
    if self._pending is None:
      return
    (step, metrics), self._pending = self._pending, None
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not np.isfinite(values["loss"]):
      raise FloatingPointError(
        f"The loss is {values['loss']} at step {step}; lower --config.optimizer.lr or set"
        " --config.optimizer.agc=0.01."
      )
    self._window.append(values)
    self._bar.update()
    if step % self._log_every == 0 or step == self._last:
      self._log(step)

  def _log(self, step: int) -> None:
    seconds = time.perf_counter() - self._window_start
    means = {
      name: float(np.mean([values[name] for values in self._window])) for name in self._window[-1]
    }
    means |= {name: self._window[-1][name] for name in NO_MEANS if name in means}
    means["images_per_second"] = len(self._window) * self._batch_size / seconds
    self._window, self._window_start = [], time.perf_counter()
    self._write(step, {f"train/{name}": value for name, value in means.items()})
    shown = {label: format(means[name], style) for label, (name, style) in SHOWN.items()}
    self._show({"images/s": f"{means['images_per_second']:.0f}", **shown})

  def _write(self, step: int, values: Mapping[str, float]) -> None:
    if not self._first:
      return
    self._lines.write(json.dumps({"step": step, **values}) + "\n")
    self._lines.flush()
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def _show(self, values: Mapping[str, str]) -> None:
    self._shown.update(values)
    self._bar.set_postfix(self._shown, refresh=False)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads JSON lines; a last line that was cut short is left out."""
  rows = []
  for line in path.read_text(encoding="utf-8").splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows


def _reopen(path: pathlib.Path, start_step: int) -> Any:
  """Opens JSON lines for appending, without the lines after `start_step`."""
  kept = [row for row in read_lines(path) if row["step"] <= start_step] if path.exists() else []
  path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
  return path.open("a", encoding="utf-8")

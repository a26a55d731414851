"""Monitoring of a run: figures of explanations, a profile, and utilisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import sys

import flax.linen as nn
import jax
import numpy as np
from PIL import Image

from bcos_jax import render
from bcos_jax.explain.images import explain

from .. import hosts
from ..data import pipeline
from ..state import TrainState
from .writer import MetricWriter

Hook = Callable[[int, TrainState], None]

_PROFILE_AFTER = 5  # Steps that a run takes to settle: compilation, the first batches.


def flops(lowered: jax.stages.Lowered, *, devices: int, parts: int = 1) -> float:
  """Returns the floating-point operations of one device in a step, 0 if they are not known.

  They are counted before the step is compiled: of the loops that a compiler makes to send while it
  computes, one turn alone would count.

  Args:
    lowered: The step.
    devices: That share it.
    parts: Of the batch, in a loop already. The update of the parameters, which is little, counts
      for each.
  """
  return parts * (lowered.cost_analysis() or {}).get("flops", 0.0) / devices


def explanations(
  model: nn.Module,
  examples: pipeline.Examples,
  labels: tuple[str, ...],
  *,
  every: int,
  count: int,
  folder: pathlib.Path,
  writer: MetricWriter,
) -> Hook:
  """Returns a hook that draws how the network sees a few pictures, always the same ones.

  Args:
    model: The network.
    examples: Evaluation examples; some are taken, evenly spaced.
    labels: Names of the classes.
    every: Steps between figures.
    count: Number of pictures.
    folder: For a PNG file per figure.
    writer: Takes the figures too.
  """
  indices = np.linspace(0, len(examples) - 1, min(count, len(examples))).astype(int)
  images = np.stack([examples[int(index)]["image"] for index in indices])
  options = render.options_for(model.ops, images.shape[1])

  def hook(step: int, state: TrainState) -> None:
    if step % every:
      return
    variables = hosts.to_host(state.average or state.variables)
    if jax.process_index():
      return
    ex = explain(model, variables, images)
    path = folder / f"step-{step:08}.png"
    folder.mkdir(exist_ok=True)
    title = f"after {step} steps"
    render.figures(ex, range(len(images)), labels, path, title=title, options=options)
    writer.picture(step, "explanations", np.asarray(Image.open(path).convert("RGB")))

  return hook


@contextlib.contextmanager
def profile(folder: pathlib.Path, begin: int, steps: int) -> Iterator[Hook]:
  """Yields a hook that traces some steps into a folder, for TensorBoard or Perfetto.

  Args:
    folder: For the trace.
    begin: Finished steps of the run.
    steps: Number of steps to trace, a few after the first; 0 for none.
  """
  first, last = begin + _PROFILE_AFTER, begin + _PROFILE_AFTER + steps
  tracing = False

  def hook(step: int, state: TrainState) -> None:
    nonlocal tracing
    if steps and step == first:
      jax.block_until_ready(state.params)
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # It would take longer than all the rest.
      jax.profiler.start_trace(folder, profiler_options=options)
      tracing = True
    elif tracing and step == last:
      jax.block_until_ready(state.params)
      stop()

  def stop() -> None:
    nonlocal tracing
    tracing = False
    jax.profiler.stop_trace()
    print(f"Traced steps {first + 1} to {last}: {folder}", file=sys.stderr)

  try:
    yield hook
  finally:
    if tracing:  # The run ended before the trace did.
      stop()

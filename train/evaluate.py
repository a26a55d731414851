"""Evaluation that counts every example exactly once, on any number of devices."""

from __future__ import annotations

import contextlib
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
import numpy as np

from . import losses, sharding
from .data import pipeline
from .step import EvalStep, make_eval_step


def evaluate(
  model: nn.Module,
  variables: Any,
  examples: pipeline.Examples,
  *,
  loss: str = "bce",
  batch_size: int = 256,
  workers: int = 0,
  mesh: Mesh | None = None,
) -> dict[str, float]:
  """Returns the accuracy and loss of a network on a data set.

  Args:
    model: Network with `ops`.
    variables: Its variables.
    examples: Decoded examples, see `pipeline.Examples`.
    loss: A key of `losses.LOSSES`.
    batch_size: Images at a time on all devices together; rounded up to a multiple of them.
    workers: Decoding processes; 0 decodes in threads.
    mesh: Defaults to all devices.

  Returns:
    {"accuracy": in [0, 1], "loss": mean, "count": number of examples}, and "damaged", the number
    of examples that could not be read and were left out, if there were any.
  """
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1}) if mesh is None else mesh
  step = make_eval_step(model, losses.from_config(loss, {"smoothing": 0.0, "off": -1.0}))
  variables = sharding.replicate(variables, mesh)
  return run(step, variables, examples, batch_size=batch_size, workers=workers, mesh=mesh)


def run(
  step: EvalStep,
  variables: Any,
  examples: pipeline.Examples,
  *,
  batch_size: int,
  workers: int,
  mesh: Mesh,
) -> dict[str, float]:
  """Does what `evaluate` does with a step that is compiled already."""
  divisor = sharding.batch_divisor(mesh)
  batches = pipeline.eval_batches(
    examples,
    batch_size=-(-batch_size // divisor) * divisor,
    workers=workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  totals = {"loss": 0.0, "correct": 0.0, "count": 0.0, "damaged": 0.0}
  pending = []
  with contextlib.closing(iter(batches)) as iterator:
    for batch in iterator:
      totals["damaged"] += float(batch.pop("damaged").sum())
      pending.append(step(variables, sharding.put_batch(batch, mesh)))
      if len(pending) > 1:  # One batch late, so that the device never waits for the host.
        _add(totals, pending.pop(0))
  for sums in pending:
    _add(totals, sums)
  if not np.isfinite(totals["loss"]):
    raise FloatingPointError(
      f"The loss on {totals['count']:.0f} examples is {totals['loss']}: the network has diverged."
    )
  return {
    "accuracy": totals["correct"] / totals["count"],
    "loss": totals["loss"] / totals["count"],
    "count": totals["count"],
    **({"damaged": totals["damaged"]} if totals["damaged"] else {}),
  }


def _add(totals: dict[str, float], sums: dict[str, jax.Array]) -> None:
  for name, value in jax.device_get(sums).items():
    totals[name] += float(value)

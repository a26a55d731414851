"""Evaluation on any number of devices that counts every example exactly once."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
import contextlib
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
import numpy as np

from .. import sharding
from ..data import pipeline
from ..objectives import Supervised, losses
from ..step import EvalStep, make_eval_step


def evaluate(
  model: nn.Module,
  variables: Any,
  examples: pipeline.Examples,
  *,
  loss: str = "bce",
  batch_size: int = 256,
  workers: int = 0,
  mesh: Mesh | None = None,
  progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, float]:
  """Returns the accuracy and loss of a network on a data set.

  Args:
    model: Network with `ops`.
    variables: Its variables.
    examples: Decoded examples, see `pipeline.Examples`.
    loss: A key of `losses.LOSSES`.
    batch_size: Images at a time on all devices together; rounded up to a multiple of them, and no
      more than there are.
    workers: Decoding processes; 0 decodes in threads.
    mesh: Defaults to all devices.
    progress: Wraps the loop over batches, such as `tqdm.tqdm`.

  Returns:
    {"accuracy": in [0, 1], "loss": mean, "count": number of examples}, and "damaged", the number
    of examples that could not be read and were left out, if there were any. Where pictures may
    have several labels, accuracy counts those with no wrong one, and "mean_average_precision" is
    there as well.
  """
  mesh = sharding.make_mesh({"data": -1, "fsdp": 1}) if mesh is None else mesh
  objective = Supervised(
    model,
    losses.from_config(loss, {"smoothing": 0.0, "off": -1.0}),
    multi_label=examples.dataset.multi_label,
  )
  step = make_eval_step(objective, mesh=mesh)
  variables = sharding.replicate(variables, mesh)
  batches = pipeline.eval_batches(
    examples,
    batch_size=pipeline.batch_of(examples, model, batch_size, sharding.batch_divisor(mesh)),
    workers=workers,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  return run(step, variables, {}, batches, mesh=mesh, progress=progress)


def run(
  step: EvalStep,
  variables: Any,
  frozen: Any,
  batches: pipeline.Batches,
  *,
  mesh: Mesh,
  progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, float]:
  """Returns the mean of every measure of a compiled step, over one pass, and `count`."""
  totals: dict[str, float] = collections.defaultdict(float)
  damaged, pending, ranked = 0.0, [], []
  with contextlib.closing(iter(batches)) as iterator:
    for batch in progress(iterator):
      damaged += float(np.sum(batch.pop("damaged", 0)))
      pending.append(step(variables, sharding.put_batch(batch, mesh), frozen))
      if len(pending) > 1:  # One batch late, so that the device never waits for the host.
        _add(totals, ranked, pending.pop(0))
  for sums in pending:
    _add(totals, ranked, sums)
  if not np.isfinite(totals["loss"]):
    raise FloatingPointError(
      f"The loss on {totals['count']:.0f} examples is {totals['loss']}: the network has diverged."
    )
  count = totals.pop("count")
  return {
    **{name: total / count for name, total in totals.items()},
    "count": count,
    **({"damaged": damaged} if damaged else {}),
    **({"mean_average_precision": _precision(ranked)} if ranked else {}),
  }


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
  """Returns the mean over classes of the average precision.

  A class's average precision is the sum over the distinct scores, from the highest down, of
  precision times gain in recall, as scikit-learn's: equal scores are one step of the curve.

  Args:
    scores: Float [N, C].
    labels: 0 and 1 [N, C]. Classes without any 1 are left out of the mean.

  Returns:
    A number in [0, 1]; NaN if no class has a 1.
  """
  precisions = [
    average_precision(scores[:, i], labels[:, i] > 0.5)
    for i in range(scores.shape[1])
    if (labels[:, i] > 0.5).any()
  ]
  return float(np.mean(precisions)) if precisions else float("nan")


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
  """Returns that of one class: scores float [N], present bool [N] with at least one True."""
  order = np.argsort(-scores, kind="stable")
  scores, hits = scores[order], np.cumsum(present[order])
  last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
  recall = hits[last] / hits[-1]
  return float(np.sum(np.diff(recall, prepend=0.0) * hits[last] / (last + 1)))


def _precision(ranked: list[dict[str, np.ndarray]]) -> float:
  logits, labels, mask = (
    np.concatenate([part[name] for part in ranked]) for name in ("logits", "label", "mask")
  )
  return mean_average_precision(logits[mask > 0], labels[mask > 0])


def _add(
  totals: dict[str, float],
  ranked: list[dict[str, np.ndarray]],
  result: dict[str, jax.Array],
) -> None:
  sums = {name: value for name, value in result.items() if value.ndim == 0}
  arrays = {name: value for name, value in result.items() if value.ndim > 0}
  if arrays:  # Of all processes, so that each ranks all examples.
    ranked.append(multihost_utils.process_allgather(arrays, tiled=True))
  for name, value in jax.device_get(sums).items():
    totals[name] += float(value)

"""Loops over device batches: a task's inputs with numbers, or with parts removed.

All pairs of an input and a number (of a step, a mask, a set of removed tokens) form one list, which
is cut into batches of one size, so that a network is compiled once for any number of inputs.
Pairs of texts are sorted by length and cut to powers of two, so that short texts do not pay for
long ones. (A loop on the device would also be far slower on CPUs, where XLA runs the convolutions
of a loop on one thread.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import compiling
from ..batches import filled, overlapped
from ..text.tokens import padded_length
from .task import Array, Batch, Task, with_classes

Method = Callable[..., Array]
Maker = Callable[[Any, Any, Any], Array]


class PairBatch(NamedTuple):
  """A batch of pairs.

  Attributes:
    places: Which pairs these are, [B].
    real: Whether each is not a repetition that fills the last batch, [B].
    own: The numbers of the S inputs in it, [S], each once.
    inside: The same, filled up to as many in every batch.
    where: Which of these belongs to each pair, [B].
    length: What inputs are cut to; None for images.
  """

  places: np.ndarray
  real: np.ndarray
  own: np.ndarray
  inside: np.ndarray
  where: np.ndarray
  length: int | None


def parts(task: Task, rows: np.ndarray) -> Iterator[PairBatch]:
  """Cuts pairs, by the numbers of their inputs `rows` [M], into batches."""
  order, length, ends, longest = np.arange(len(rows)), None, None, 0
  if task.mask is not None:
    longest = task.mask.shape[1]
    ends = longest - np.argmax(task.mask[:, ::-1], axis=1)
    order = np.argsort(ends[rows], kind="stable")
  cuts = filled(len(rows), task.batch_size)
  span = max((len(np.unique(rows[order[places]])) for places, _ in cuts), default=0)
  for places, kept in filled(len(rows), task.batch_size, task.progress):
    own, where = np.unique(rows[order[places]], return_inverse=True)
    inside = own[np.minimum(np.arange(span), len(own) - 1)]
    if ends is not None:
      length = padded_length(int(ends[own].max()), longest)
    yield PairBatch(order[places], np.arange(len(places)) < kept, own, inside, where, length)


def _inside(task: Task, part: PairBatch) -> tuple[tuple[np.ndarray, ...], Any, Any]:
  """Returns the inputs in a batch, cut to its length, their classes and foils."""
  inputs = tuple(array[part.inside][:, : part.length] for array in task.inputs)
  classes, foils = (None if c is None else c[part.inside] for c in (task.classes, task.foils))
  return inputs, classes, foils


def summed(
  task: Task,
  method: Method,
  *arrays: Any,
  pairs: tuple[np.ndarray, np.ndarray] | None = None,
  **settings: Any,
) -> np.ndarray:
  """Returns the sum over pairs of an input and a number of what a method makes of them.

  Args:
    task: What is explained.
    method: `method(batch, numbers [B], *arrays, **settings) -> [B, K or 1, ..., D]`, of a module;
      `...` stands for the places, D for any axes behind them.
    *arrays: Traced arguments.
    pairs: (numbers of inputs [M], numbers [M]); None for each input once.
    **settings: Static arguments, hashable.

  Returns:
    float32 [N, K, ..., D].
  """
  rows, numbers = pairs or (np.arange(len(task)), np.zeros(len(task), np.int32))
  fixed = tuple(sorted(settings.items()))
  arrays, blank = jax.device_put((arrays, task.baseline))

  def dispatched():
    for part in parts(task, rows):
      pair = part.where, numbers[part.places], part.real, part.inside
      with jax.default_matmul_precision("highest"):
        sums = _summed(
          method, fixed, task.chosen, task.network, blank, _inside(task, part), pair, arrays
        )
      yield sums, part

  total = np.zeros((len(task), task.count, *task.places), np.float32)
  for number, (sums, part) in enumerate(overlapped(dispatched())):
    if not number:
      total = np.zeros((*total.shape, *sums.shape[total.ndim :]), np.float32)
    total[part.own, :, : part.length] += sums[: len(part.own)]
  return total


@functools.partial(compiling.jit, static_argnums=(0, 1, 2))
def _summed(method, settings, chosen, network, blank, inside, pair, arrays):
  where, numbers, real, rows = pair
  (inputs, classes, foils), rows = jax.tree.map(lambda leaf: leaf[where], (inside, rows))
  batch = Batch(
    network=network,
    chosen=chosen,
    blank=blank,
    arguments=inputs,
    inputs=None if network.embed is None else network.embed(*inputs),
    classes=classes,
    foils=foils,
    rows=rows,
  )
  part = method(batch, numbers, *arrays, **dict(settings))
  part = jnp.where(real.reshape(-1, *(1,) * (part.ndim - 1)), part, 0)
  return jax.ops.segment_sum(part, where, len(pair[3]))


def removed_values(
  task: Task,
  rows: np.ndarray,
  describe: Callable[[np.ndarray], Any],
  make: Maker | None = None,
  shared: Any = (),
  own: Any = (),
) -> np.ndarray:
  """Returns what is explained of inputs of which parts are removed, in the order of M jobs.

  Args:
    task: What is explained, and what a removal is.
    rows: Number of the input of each job, int [M].
    describe: (jobs int [B]) -> what describes the parts that remain, a tree of arrays [B, ...].
    make: A function of a module: `make(shared, own of B inputs, description)` returns what remains,
      float32 [B, H, W] in [0, 1] or bool [B, L]. None where the description is just that.
    shared: Tree of arrays that describe what remains of all inputs.
    own: Tree of arrays [N, ...] that describe that of each input.

  Returns:
    float64 [M, K].
  """
  shared, removal = jax.device_put((shared, task.removal))

  def dispatched():
    for part in parts(task, rows):
      inside = _inside(task, part), jax.tree.map(lambda leaf, part=part: leaf[part.inside], own)
      made = shared, describe(part.places)
      with jax.default_matmul_precision("highest"):
        values = _removed(make, task.chosen, task.network, removal, inside, part.where, made)
      yield values, part.places

  values = np.zeros((len(rows), task.count))
  for found, places in overlapped(dispatched()):
    values[places] = found
  return values


@functools.partial(compiling.jit, static_argnums=(0, 1))
def _removed(make, chosen, network, removal, inside, where, made):
  (inputs, classes, foils), own = jax.tree.map(lambda leaf: leaf[where], inside)
  shared, described = made
  remains = described if make is None else make(shared, own, described)
  remains = remains[tuple(slice(side) for side in (len(where), *inputs[0].shape[1:3]))]
  return chosen.select(removal(network, inputs, remains), classes, foils)


def outputs_of(task: Task) -> np.ndarray:
  """Returns a network's logits for the inputs as they are, float32 [N, C]."""
  quiet = dataclasses.replace(task, progress=iter, foils=None)

  def dispatched():
    for part in parts(quiet, np.arange(len(task))):
      inputs = _inside(quiet, part)[0]
      with jax.default_matmul_precision("highest"):
        outputs = _outputs(task.network, inputs)
      yield outputs, part.own

  fetched = [(own, outputs[: len(own)]) for outputs, own in overlapped(dispatched())]
  order = np.argsort(np.concatenate([own for own, _ in fetched]))
  return np.concatenate([outputs for _, outputs in fetched])[order].astype(np.float32)


@compiling.jit
def _outputs(network, inputs):
  return network.predict(*inputs)


def with_predictions(task: Task) -> Task:
  """Returns the task with the predicted classes where none were requested."""
  if task.classes is not None or task.chosen.function is not None:
    return task
  return with_classes(task, np.argmax(outputs_of(task), axis=1))

"""Batched execution of attribution methods on texts, padded to the longest of each batch.

Methods see pairs of a text and a number (of a step, of a set of replaced tokens). Pairs are sorted
by length and cut into batches whose length is a power of two, so that a network is compiled for
few shapes and short texts do not pay for long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import unknown_name
from ...text.tokens import padded_length
from ..task import SCORES, Array, Chosen, Progress
from .task import TextTask

BASELINES = ("mask", "zero")
MEAN = -1  # the foil that is the mean of all classes
Method = Callable[..., Array]


@dataclasses.dataclass(frozen=True)
class Texts:
  """The arguments that all methods share, checked.

  Attributes:
    task: The network.
    ids: int32 [N, L].
    mask: bool [N, L].
    chosen: What of the outputs is explained.
    classes: int32 [N, K]; None if a function is explained.
    foils: Likewise, `MEAN` for the mean of all classes; None without contrast.
    count: K, the targets per text.
    single: Whether there is one target per text, so that scores have no axis K.
    batch_size: Rows per device batch.
    progress: Wraps the loop over batches.
  """

  task: TextTask
  ids: np.ndarray
  mask: np.ndarray
  chosen: Chosen
  classes: np.ndarray | None
  foils: np.ndarray | None
  count: int
  single: bool
  batch_size: int
  progress: Progress

  @property
  def special(self) -> np.ndarray:
    """Where a token is special or padding, bool [N, L]."""
    return self.task.special(self.ids, self.mask)

  def shaped(self, scores: np.ndarray) -> np.ndarray:
    """Returns scores [N, K, L] as a method does: float32, 0 on padding, without K if not asked."""
    scores = np.where(self.mask[:, None], scores, 0).astype(np.float32)
    return scores[:, 0] if self.single else scores


@dataclasses.dataclass(frozen=True)
class TextBatch:
  """One batch as a method sees it, within a compiled function.

  Attributes:
    task: The network.
    chosen: What of the outputs is explained.
    ids: [B, L].
    mask: [B, L].
    classes: [B, K], or None.
    foils: [B, K], or None.
    inputs: The embeddings, [B, L, D]; None where the task has none.
  """

  task: TextTask
  chosen: Chosen
  ids: Array
  mask: Array
  classes: Array | None
  foils: Array | None
  inputs: Array | None = None

  def select(self, outputs: Any) -> Array:
    """Returns what is explained of the outputs, [B, K]."""
    values = self.chosen.select(outputs, self.classes)
    if self.foils is None:
      return values
    means = jnp.mean(SCORES[self.chosen.score](outputs), axis=-1, keepdims=True)
    foils = self.chosen.select(outputs, jnp.maximum(self.foils, 0))
    return values - jnp.where(self.foils == MEAN, means, foils)

  def score(self, inputs: Array) -> Array:
    """Returns the explained scalars of other embeddings of this batch, [B, K]."""
    return self.select(self.task.forward(inputs, self.mask))

  def baseline(self, kind: str) -> Array:
    """Returns embeddings [B, L, D] of an uninformative input, by a name of `BASELINES`."""
    if kind == "zero":
      return jnp.zeros_like(self.inputs)
    special = self.task.special(self.ids, self.mask)
    return self.task.embed(jnp.where(special, self.ids, self.task.mask_id), self.mask)


def summed(
  texts: Texts,
  method: Method,
  *arrays: Any,
  pairs: tuple[np.ndarray, np.ndarray] | None = None,
  **settings: Any,
) -> np.ndarray:
  """Returns the sum over pairs of a text and a number of what a method makes of them.

  Args:
    texts: What is explained.
    method: `method(batch, numbers [B], *arrays, **settings) -> [B, K, L]`, of a module.
    *arrays: Traced arguments.
    pairs: (numbers of texts [M], numbers [M]); None for each text once.
    **settings: Static arguments, hashable.

  Returns:
    float32 [N, K, L].
  """
  rows, numbers = pairs or (np.arange(len(texts.ids)), np.zeros(len(texts.ids), np.int32))
  total = np.zeros((len(texts.ids), texts.count, texts.ids.shape[1]), np.float32)
  fixed = tuple(sorted(settings.items()))
  for places, length in batches(texts, rows):
    batch = _batch(texts, rows[places], length)
    with jax.default_matmul_precision("highest"):
      part = _run(method, fixed, texts.chosen, *batch, numbers[places], arrays)
    real = len(np.unique(places))  # the last batch is filled up by its last pair
    np.add.at(total[:, :, :length], rows[places[:real]], np.asarray(part)[:real])
  return total


@jax.jit(static_argnums=(0, 1, 2))
def _run(method, settings, chosen, task, ids, mask, classes, foils, numbers, arrays):
  inputs = None if task.embed is None else task.embed(ids, mask)
  batch = TextBatch(task, chosen, ids, mask, classes, foils, inputs)
  return method(batch, numbers, *arrays, **dict(settings))


def _batch(texts: Texts, rows: np.ndarray, length: int) -> tuple:
  classes, foils = (None if c is None else c[rows] for c in (texts.classes, texts.foils))
  return texts.task, texts.ids[rows, :length], texts.mask[rows, :length], classes, foils


def batches(texts: Texts, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
  """Cuts pairs, by their texts `rows` [M], into batches: (places in `rows` [B], length)."""
  longest = texts.ids.shape[1]
  ends = longest - np.argmax(texts.mask[:, ::-1], axis=1)
  order = np.argsort(ends[rows], kind="stable")
  size = min(texts.batch_size, len(rows))
  for start in texts.progress(range(0, len(rows), size)):
    places = order[np.minimum(np.arange(start, start + size), len(rows) - 1)]
    yield places, padded_length(int(ends[rows[places]].max()), longest)


def replaced_values(
  texts: Texts,
  rows: np.ndarray,
  absent: Callable[[np.ndarray], np.ndarray],
  removal: str = "mask",
) -> np.ndarray:
  """Returns what is explained of texts without some of their tokens.

  Args:
    texts: What is explained.
    rows: Number of the text in each of M jobs, int [M].
    absent: (places in `rows` int [B]) -> bool [B, L], the tokens that are absent.
    removal: 'mask', an absent token becomes the mask token; 'delete', the rest moves together.

  Returns:
    float64 [M, K].
  """
  if removal not in REMOVALS:
    raise unknown_name("removal", removal, REMOVALS)
  values = np.zeros((len(rows), texts.count))
  for places, length in batches(texts, rows):
    task, ids, mask, classes, foils = _batch(texts, rows[places], length)
    ids, mask = REMOVALS[removal](task, ids, mask, absent(places)[:, :length] & mask)
    with jax.default_matmul_precision("highest"):
      part = _values(texts.chosen, task, ids, mask, classes, foils)
    values[places] = part
  return values


def _masked(task: TextTask, ids: np.ndarray, mask: np.ndarray, absent: np.ndarray):
  return np.where(absent, np.int32(task.mask_id), ids), mask


def _deleted(task: TextTask, ids: np.ndarray, mask: np.ndarray, absent: np.ndarray):
  kept = mask & ~absent
  order = np.argsort(~kept, axis=1, kind="stable")
  ids, kept = (np.take_along_axis(a, order, axis=1) for a in (ids, kept))
  ids = np.where(kept, ids, np.int32(task.pad_id))
  kept[:, 0] |= ~kept.any(axis=1)  # a network on no token at all is not defined
  return ids, kept


REMOVALS = {"mask": _masked, "delete": _deleted}


@jax.jit(static_argnums=0)
def _values(chosen, task, ids, mask, classes, foils):
  return TextBatch(task, chosen, ids, mask, classes, foils).select(task.predict(ids, mask))


def logits_of(
  task: TextTask, ids: np.ndarray, mask: np.ndarray, batch_size: int = 64
) -> np.ndarray:
  """Returns a network's logits for texts ids [N, L] and mask [N, L], float32 [N, C]."""
  width = jax.eval_shape(task.predict, ids[:1], mask[:1]).shape[1]
  texts = Texts(task, ids, mask, Chosen(_all), None, None, width, False, batch_size, iter)
  rows = np.arange(len(ids))
  values = replaced_values(texts, rows, lambda places: np.zeros((len(places), 1), bool))
  return values.astype(np.float32)


def _all(outputs: Array) -> Array:
  return outputs

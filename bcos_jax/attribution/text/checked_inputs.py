"""Checked inputs of attribution methods on texts."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ...batches import check_batch_size
from ...errors import InputError, unknown_name
from ...explain.targets import Target, check_range, split_target
from ...text.explanation import Contrast
from ..task import SCORES, Chosen, Progress
from .running import MEAN, Texts, logits_of
from .task import TextTask


def prepare(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast,
  batch_size: int,
  progress: Progress = iter,
  score: str = "logit",
  needs: tuple[str, ...] = (),
) -> Texts:
  """Checks what a method is given; arguments as for the methods of `attribution.texts`.

  Args:
    score: A name of `SCORES`.
    needs: Functions of the task that the method calls.

  Raises:
    InputError: Ids, mask, targets, score or batch size that cannot be used, or a function missing.
  """
  ids, mask = check_texts(ids, mask)
  check_vocabulary(task, ids)
  size = check_batch_size(batch_size) or len(ids)
  if score not in SCORES:
    raise unknown_name("score", score, SCORES)
  for name in needs:
    if getattr(task, name) is None:
      raise InputError(
        f"The TextTask has no {name!r}, which this method needs.",
        f"Pass {name}=... to it, or use a method that needs outputs only, such as occlusion.",
      )
  foils = None
  if isinstance(targets, Contrast):
    foils = split_target(targets.foil, len(ids), "texts")[1]
    foils = np.array(MEAN) if foils is None else check_foils(np.asarray(foils))
    targets = targets.target
  function, classes = split_target(targets, len(ids), "texts")
  texts = Texts(task, ids, mask, Chosen(function, score), None, None, 1, True, size, progress)
  outputs = jax.eval_shape(task.predict, ids[:1], mask[:1])
  if function is not None:
    values = jax.eval_shape(lambda o: texts.chosen.select(o, None), outputs)
    single = len(jax.eval_shape(function, outputs).shape) == 1
    return dataclasses.replace(texts, count=values.shape[1], single=single)
  if classes is None:
    classes = np.argmax(logits_of(task, ids, mask, size), axis=1)
  return _with_classes(texts, np.asarray(classes), foils, outputs)


def _with_classes(
  texts: Texts, classes: np.ndarray, foils: np.ndarray | None, outputs: Any
) -> Texts:
  check_range(classes, outputs)
  if foils is not None:
    check_range(np.maximum(foils, 0), outputs)
    if foils.shape not in ((), classes.shape):
      raise InputError(
        f"The classes have shape {classes.shape}, the foils {foils.shape}; expected the same.",
        "Give one foil per class.",
      )
    foils = np.broadcast_to(foils, classes.shape)
  columns = np.int32(classes).reshape(len(classes), -1)
  return dataclasses.replace(
    texts,
    classes=columns,
    foils=None if foils is None else np.int32(foils).reshape(columns.shape),
    count=columns.shape[1],
    single=classes.ndim == 1,
  )


def check_foils(foils: np.ndarray) -> np.ndarray:
  """Returns foils, or raises InputError if one is negative, which would be none."""
  if foils.min() < 0:
    raise InputError(
      f"The foils go down to {foils.min()}, expected classes from 0 on.",
      "Omit the foil to compare with the mean of all classes.",
    )
  return foils


def check_vocabulary(task: TextTask, ids: np.ndarray) -> None:
  """Raises InputError if an id is outside the vocabulary; a compiled network cannot raise it."""
  highest = max(int(ids.max()), task.mask_id, task.pad_id)
  if task.vocabulary is not None and highest >= task.vocabulary:
    raise InputError(
      f"The ids, including that of the mask token, go up to {highest}, expected at most "
      f"{task.vocabulary - 1}.",
      "Use the tokenizer of the network's checkpoint.",
    )


def check_texts(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns ids int32 and mask bool, [N, L] both, or raises InputError."""
  ids, mask = np.asarray(ids), np.asarray(mask)
  if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
    raise InputError(
      f"The ids are {ids.dtype} {ids.shape}, expected integers [N, L].",
      "Pass one row of token ids per text, padded to one length.",
    )
  if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
    raise InputError(
      f"The mask is {mask.dtype} {mask.shape}, expected bool {ids.shape}.",
      "Give True for every token and False for padding.",
    )
  if ids.min() < 0:
    raise InputError(
      f"The ids go down to {ids.min()}, expected 0 or more.", "Check the tokenizer that made them."
    )
  mask = mask.astype(bool)
  if not mask.any(axis=1).all():
    empty = int(np.flatnonzero(~mask.any(axis=1))[0])
    raise InputError(f"Text {empty} has no tokens.", "Remove empty texts.")
  return ids.astype(np.int32), mask

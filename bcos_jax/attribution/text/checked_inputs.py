"""Checked inputs of attribution methods on texts, and what texts without content are."""

from __future__ import annotations

from typing import Any

from jax import tree_util
import jax.numpy as jnp
import numpy as np

from ...batches import Progress
from ...errors import InputError
from ...explain.targets import Target
from ...explain.texts import Contrast
from ..running import outputs_of, with_predictions
from ..task import Array, Task, check_choice, make_task
from .task import TextTask


def prepare(
  network: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast,
  *,
  batch_size: int | None = None,
  progress: Progress = iter,
  score: str = "logit",
  baseline: str | None = None,
  removal: str = "mask",
  needs: tuple[str, ...] = (),
) -> Task:
  """Checks what a method on texts is given.

  Args:
    network: The network.
    ids: ints [N, L].
    mask: bool [N, L], False on padding.
    targets: What to explain, see `bcos_jax.attribution.text`.
    batch_size: Texts on the device at once; None for all.
    progress: Wraps the loop over batches.
    score: A name of `SCORES`.
    baseline: A name of `BASELINES`; None for 'mask'.
    removal: A name of `REMOVALS`.
    needs: Functions of the network that the method calls.

  Raises:
    InputError: Ids, mask, targets, names or batch size that cannot be used, or a function missing.
  """
  ids, mask = check_texts(ids, mask)
  check_vocabulary(network, ids)
  for name in needs:
    if getattr(network, name) is None:
      raise InputError(
        f"The TextTask has no {name!r}, which this method needs.",
        f"Pass {name}=... to it, or use a method that needs outputs only, such as occlusion.",
      )
  task = make_task(
    kind="texts",
    network=network,
    inputs=(ids, mask),
    mask=mask,
    targets=targets,
    score=score,
    baseline=tree_util.Partial(
      BASELINES[check_choice("baseline", "mask" if baseline is None else baseline, BASELINES)]
    ),
    removal=tree_util.Partial(REMOVALS[check_choice("removal", removal, REMOVALS)]),
    batch_size=batch_size,
    progress=progress,
  )
  return with_predictions(task)


def logits_of(
  network: TextTask, ids: np.ndarray, mask: np.ndarray, batch_size: int = 64
) -> np.ndarray:
  """Returns a network's logits for texts ids [N, L] and mask [N, L], float32 [N, C]."""
  return outputs_of(prepare(network, ids, mask, 0, batch_size=batch_size))


def special_of(task: Task) -> np.ndarray:
  """Returns where a token of a task's texts is special or padding, bool [N, L]."""
  return task.network.special(*task.inputs)


def _masked_embeddings(network: TextTask, texts: tuple[Array, Array], inputs: Array) -> Array:
  ids, mask = texts
  return network.embed(jnp.where(network.special(ids, mask), ids, network.mask_id), mask)


def _zeros(network: TextTask, texts: tuple[Array, Array], inputs: Array) -> Array:
  return jnp.zeros_like(inputs)


BASELINES = {"mask": _masked_embeddings, "zero": _zeros}
"""Embeddings without content: of mask tokens in place of all that are not special, or zeros."""


def _masked(network: TextTask, texts: tuple[Array, Array], remains: Array) -> Any:
  ids, mask = texts
  return network.predict(jnp.where(mask & ~remains, network.mask_id, ids), mask)


def _deleted(network: TextTask, texts: tuple[Array, Array], remains: Array) -> Any:
  ids, mask = texts
  kept = mask & remains
  order = jnp.argsort(~kept, axis=1, stable=True)
  ids, kept = (jnp.take_along_axis(a, order, axis=1) for a in (ids, kept))
  ids = jnp.where(kept, ids, network.pad_id)
  # A network on no token at all is not defined.
  return network.predict(ids, kept.at[:, 0].set(kept[:, 0] | ~kept.any(axis=1)))


REMOVALS = {"mask": _masked, "delete": _deleted}
"""What an absent token becomes: the mask token, or nothing, and the rest moves together."""


def check_vocabulary(network: TextTask, ids: np.ndarray) -> None:
  """Raises InputError if an id is outside the vocabulary; a compiled network cannot raise it."""
  highest = max(int(ids.max()), network.mask_id, network.pad_id)
  if network.vocabulary is not None and highest >= network.vocabulary:
    raise InputError(
      f"The ids, including that of the mask token, go up to {highest}, expected at most "
      f"{network.vocabulary - 1}.",
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

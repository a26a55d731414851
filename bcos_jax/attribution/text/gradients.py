"""Attribution methods on texts by gradients at the embeddings, as for images.

The arithmetic is that of `attribution.gradients`, with embeddings in place of encoded pixels.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from ...errors import unknown_name
from ...explain.targets import Target
from ...text.explanation import Contrast
from .. import gradients as pixels
from ..task import Array, Progress
from ..task import gradients as gradients_of
from .checked_inputs import prepare
from .running import BASELINES, TextBatch, Texts, summed
from .task import TextTask

_NEEDS = ("embed", "forward")
_STEPS = 50


def saliency(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  size: str = "mean",
) -> np.ndarray:
  """The size of the gradient at each token's embedding (arXiv 1312.6034), never negative.

  Args:
    size: 'mean' of the absolute values over dimensions, as compared with in B-cos LM; or 'l2',
      the length of the gradient.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  if size not in _SIZES:
    raise unknown_name("size", size, _SIZES)
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=_NEEDS)
  return texts.shaped(summed(texts, _saliency, size=size))


_SIZES = {
  "mean": lambda found: jnp.mean(jnp.abs(found), -1),
  "l2": lambda found: jnp.linalg.norm(found, axis=-1),
}


def _saliency(batch: TextBatch, _: Array, *, size: str) -> Array:
  return _SIZES[size](gradients_of(batch.score, batch.inputs))


def input_x_gradient(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
) -> np.ndarray:
  """Embeddings times their ordinary gradient, summed over dimensions (arXiv 1605.01713).

  Arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`. (B-cos LM's
  code takes the mean over dimensions, which ranks alike.)
  """
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=_NEEDS)
  return texts.shaped(summed(texts, _input_times_gradient))


def _input_times_gradient(batch: TextBatch, _: Array) -> Array:
  return pixels.input_times_gradient(batch)


def attn_lrp(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
) -> np.ndarray:
  """AttnLRP at the embeddings, summed over dimensions (arXiv 2402.05602).

  It is input times gradient of the network with the ops of `attribution.attention.lrp_ops`,
  which the task has as `lrp`.

  Arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=("embed", "lrp"))
  texts = dataclasses.replace(texts, task=dataclasses.replace(task, forward=task.lrp))
  return texts.shaped(summed(texts, _input_times_gradient))


def integrated_gradients(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  steps: int = _STEPS,
  baseline: str = "mask",
) -> np.ndarray:
  """Integrated gradients at the embeddings (arXiv 1703.01365, eq. 1), summed over dimensions.

  Scores sum to the output's change from the baseline, up to the error of the integral.

  Args:
    steps: Points of the Gauss-Legendre rule, each a text of a batch.
    baseline: Where the way to the embeddings starts: 'mask', those of the text with the mask token
      in place of every token that is not special; or 'zero'.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  if baseline not in BASELINES:
    raise unknown_name("baseline", baseline, BASELINES)
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=_NEEDS)
  rule = pixels.integration_rule(steps)
  pairs = _times(np.arange(len(texts.ids)), steps)
  return texts.shaped(summed(texts, _integrated, rule, pairs=pairs, baseline=baseline))


def _integrated(batch: TextBatch, steps: Array, rule: tuple[Array, Array], *, baseline) -> Array:
  return pixels.integrated(batch, steps, batch.baseline(baseline), rule)


def sequential_integrated_gradients(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  steps: int = _STEPS,
) -> np.ndarray:
  """Sequential integrated gradients (Enguehard, arXiv 2305.15853, section 3).

  Each token is integrated by itself, from the mask token's embedding to its own, with the rest of
  the text as it is. Special tokens get 0.

  Args:
    steps: As for `integrated_gradients`, for every token.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=_NEEDS)
  rule = pixels.integration_rule(steps)
  rows, tokens = np.nonzero(~texts.special)
  if not len(rows):
    return texts.shaped(_nothing(texts))
  rows, numbers = _times(rows, steps)
  numbers += np.repeat(tokens, steps) * steps
  return texts.shaped(summed(texts, _sequential, rule, pairs=(rows, numbers), steps=steps))


def _sequential(
  batch: TextBatch, numbers: Array, rule: tuple[Array, Array], *, steps: int
) -> Array:
  token = numbers // steps
  moves = jnp.arange(batch.inputs.shape[1]) == token[:, None]
  start = jnp.where(moves[..., None], batch.baseline("mask"), batch.inputs)
  return pixels.integrated(batch, numbers % steps, start, rule)


def _times(rows: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns every row with every step: (rows, steps), row by row."""
  return np.repeat(rows, steps), np.tile(np.arange(steps), len(rows))


def _nothing(texts: Texts) -> np.ndarray:
  return np.zeros((len(texts.ids), texts.count, texts.ids.shape[1]))

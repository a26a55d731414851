"""Attribution methods on texts that use attention weights only; none depends on the target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from ...explain.targets import Target
from ...text.explanation import Contrast
from ..attention import rolled_out
from ..task import Array, Progress, check_share
from .checked_inputs import prepare
from .running import TextBatch, batches, summed
from .task import TextTask

_UNIT = 1 << 20  # Flows are computed in whole numbers; this is a flow of 1.


def attention_mean(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
) -> np.ndarray:
  """The mean of attention weights over layers and heads, at the tokens that are read out.

  Arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`. Scores sum
  to 1.
  """
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=("attentions",))
  return texts.shaped(summed(texts, _mean))


def _mean(batch: TextBatch, _: Array) -> Array:
  return _read(batch, jnp.mean(_layers(batch), axis=1))


def attention_rollout(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  residual: float = 0.5,
) -> np.ndarray:
  """Attention rollout (Abnar & Zuidema, arXiv 2005.00928, section 3, eq. 1).

  The product over layers, the last one leftmost, of (1 - residual) A + residual I, A the mean of
  the heads' weights, at the tokens that are read out. (B-cos LM's code multiplies the layers in
  the reverse order.)

  Args:
    residual: Share of the residual connection. Published: 0.5.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`. Scores
  sum to 1.
  """
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=("attentions",))
  return texts.shaped(summed(texts, _rollout, residual=check_share("residual", residual)))


def _rollout(batch: TextBatch, _: Array, *, residual: float) -> Array:
  layers = _layers(batch)
  means = [layers[:, i] for i in range(layers.shape[1])]
  return _read(batch, rolled_out(means, residual, batch.ids.shape[1]))


def attention_flow(
  task: TextTask,
  ids: np.ndarray,
  mask: np.ndarray,
  targets: Target | Contrast = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  residual: float = 0.5,
) -> np.ndarray:
  """Attention flow (Abnar & Zuidema, arXiv 2005.00928, section 3, eq. 2).

  The most that can flow from the tokens that are read out down to each input token, where each
  layer lets (1 - residual) A + residual I pass. One maximum flow per token, on the processor: for
  texts of some hundred tokens it takes seconds each.

  Args:
    residual: As for `attention_rollout`.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution.texts`.
  """
  check_share("residual", residual)
  texts = prepare(task, ids, mask, targets, batch_size, progress, needs=("attentions",))
  scores = np.zeros((len(texts.ids), texts.count, texts.ids.shape[1]))
  for rows, length in batches(texts, np.arange(len(texts.ids))):
    layers, tops = _graphs(task, texts.ids[rows, :length], texts.mask[rows, :length])
    for row, layer, top in zip(rows.tolist(), np.asarray(layers), np.asarray(tops), strict=True):
      real = np.flatnonzero(texts.mask[row])
      shares = (1 - residual) * layer[:, real][:, :, real] + residual * np.eye(len(real))
      scores[row][:, real] = _flows(shares, top[real])
  return texts.shaped(scores)


@jax.jit
def _graphs(task: TextTask, ids: Array, mask: Array) -> tuple[Array, Array]:
  return jnp.mean(task.attentions(ids, mask), axis=2), task.read_out(mask)


def _flows(shares: np.ndarray, start: np.ndarray) -> np.ndarray:
  """Returns the largest flow to each input token, [L].

  Args:
    shares: [layers, L, L], what may flow from a layer's token (row) to one below it (column).
    start: [L], what may flow into each token of the last layer.
  """
  depth, count = shares.shape[:2]
  source = (depth + 1) * count  # Layer l, after the inputs' 0, has nodes l * count and on.
  ends, capacities = [], []
  for layer, share in enumerate(shares, 1):
    above, below = np.nonzero(share)
    ends.append((layer * count + above, (layer - 1) * count + below))
    capacities.append(share[above, below])
  tops = np.flatnonzero(start)
  ends.append((np.full(len(tops), source), depth * count + tops))
  capacities.append(start[tops])
  rows, columns = (np.concatenate(side) for side in zip(*ends, strict=True))
  whole = np.round(np.concatenate(capacities) * _UNIT).astype(np.int32)
  graph = sparse.csr_matrix((whole, (rows, columns)), shape=(source + 1, source + 1))
  flows = [csgraph.maximum_flow(graph, source, token).flow_value for token in range(count)]
  return np.array(flows) / _UNIT


def _layers(batch: TextBatch) -> Array:
  """Returns the mean of the heads' weights, [B, layers, L, L]."""
  return jnp.mean(batch.task.attentions(batch.ids, batch.mask), axis=2)


def _read(batch: TextBatch, weights: Array) -> Array:
  """Returns the rows of weights [B, L, L] that are read out, for all targets: [B, 1, L]."""
  return batch.task.read_out(batch.mask)[:, None] @ weights

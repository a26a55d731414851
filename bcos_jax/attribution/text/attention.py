"""Attributions of texts that only look at attention weights; none depends on the target."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from ..attention import rolled_out
from ..running import parts, summed
from ..settings import Method
from ..task import Array, Batch, Task, check_share
from .task import TextTask

_UNIT = 1 << 20  # Flows are computed in whole numbers; this is a flow of 1.


class _Attention(Method):
  """A method that needs the attention weights of a `TextTask`."""

  kinds: ClassVar[tuple[str, ...]] = ("texts",)
  needs: ClassVar[tuple[str, ...]] = ("attentions",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionMean(_Attention):
  """The mean of attention weights over layers and heads, at the tokens that are read out.

  Scores sum to 1.
  """

  name: ClassVar[str] = "attention_mean"

  def run(self, task: Task) -> np.ndarray:
    return summed(task, _mean)


def _mean(batch: Batch, _: Array) -> Array:
  return _read(batch, jnp.mean(_layers(batch), axis=1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenAttentionRollout(_Attention):
  """Attention rollout (Abnar & Zuidema, arXiv 2005.00928, section 3, eq. 1).

  The product over layers, the last one leftmost, of (1 - residual) A + residual I, A the mean of
  the heads' weights, at the tokens that are read out. (B-cos LM's code multiplies the layers in
  the reverse order.) Scores sum to 1.

  Args:
    residual: Share of the residual connection. Published: 0.5.
  """

  name: ClassVar[str] = "attention_rollout"
  residual: float = 0.5

  def __post_init__(self):
    check_share("residual", self.residual)

  def run(self, task: Task) -> np.ndarray:
    return summed(task, _rollout, residual=float(self.residual))


def _rollout(batch: Batch, _: Array, *, residual: float) -> Array:
  layers = _layers(batch)
  means = [layers[:, i] for i in range(layers.shape[1])]
  return _read(batch, rolled_out(means, residual, layers.shape[-1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionFlow(_Attention):
  """Attention flow (Abnar & Zuidema, arXiv 2005.00928, section 3, eq. 2).

  The most that can flow from the tokens that are read out down to each input token, where each
  layer lets (1 - residual) A + residual I pass. One maximum flow per token, on the processor: for
  texts of some hundred tokens it takes seconds each.

  Args:
    residual: As for `attention_rollout`.
  """

  name: ClassVar[str] = "attention_flow"
  residual: float = 0.5

  def __post_init__(self):
    check_share("residual", self.residual)

  def run(self, task: Task) -> np.ndarray:
    ids, mask = task.inputs
    scores = np.zeros((len(ids), task.count, ids.shape[1]))
    for part in parts(task, np.arange(len(ids))):
      cut = (part.inside, slice(part.length))
      layers, tops = _graphs(task.network, ids[cut], mask[cut])
      for row, layer, top in zip(part.own.tolist(), np.asarray(layers), tops, strict=False):
        real = np.flatnonzero(mask[row])
        shares = (1 - self.residual) * layer[:, real][:, :, real]
        shares += self.residual * np.eye(len(real))
        scores[row][:, real] = _flows(shares, np.asarray(top)[real])
    return scores


@jax.jit
def _graphs(network: TextTask, ids: Array, mask: Array) -> tuple[Array, Array]:
  return jnp.mean(network.attentions(ids, mask), axis=2), network.read_out(mask)


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


def _layers(batch: Batch) -> Array:
  """Returns the mean of the heads' weights, [B, layers, L, L]."""
  return jnp.mean(batch.network.attentions(*batch.arguments), axis=2)


def _read(batch: Batch, weights: Array) -> Array:
  """Returns the rows of weights [B, L, L] that are read out, for all targets: [B, 1, L]."""
  return batch.network.read_out(batch.arguments[1])[:, None] @ weights

"""Operators that look numbers up, or write them, by index."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..operators import operator


def _index(indices) -> tuple:
  """Returns ATen's list of indices, None for an axis taken whole, as an index of NumPy."""
  return tuple(slice(None) if index is None else index for index in indices)


@operator("aten.index", "aten._unsafe_index")
def _indexed(x, indices):
  return jnp.asarray(x)[_index(indices)]


@operator("aten.index_put", "aten._unsafe_index_put")
def _index_put(x, indices, values, accumulate=False):
  at = x.at[_index(indices)]
  return at.add(values) if accumulate else at.set(values)


@operator("aten.index_select")
def _index_select(x, dim, index):
  return jnp.take(x, index, axis=dim)


def _places(x, dim: int, index) -> tuple:
  """Returns where `gather` and `scatter` look: `index` along one axis, the own place elsewhere."""
  whole = np.ix_(*map(np.arange, index.shape))
  return tuple(index if axis == dim % x.ndim else whole[axis] for axis in range(x.ndim))


@operator("aten.gather")
def _gather(x, dim, index, sparse_grad=False):
  return x[_places(x, dim, index)]


@operator("aten.scatter")
def _scatter(x, dim, index, source):
  if np.ndim(source):  # which may be larger than the index
    source = source[tuple(map(slice, index.shape))]
  return x.at[_places(x, dim, index)].set(source)


@operator("aten.scatter_add")
def _scatter_add(x, dim, index, source):
  return x.at[_places(x, dim, index)].add(source[tuple(map(slice, index.shape))])


@operator("aten.take_along_dim")
def _take_along(x, index, dim=None):
  return jnp.take_along_axis(x, index, dim)


@operator("aten.embedding")
def _embedding(weight, index, padding=-1, scale_grad=False, sparse=False):
  return jnp.take(weight, index, axis=0)

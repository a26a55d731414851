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


@operator("aten.gather")
def _gather(x, dim, index, sparse_grad=False):
  whole = np.ix_(*map(np.arange, index.shape))
  return x[tuple(index if axis == dim % x.ndim else whole[axis] for axis in range(x.ndim))]


@operator("aten.take_along_dim")
def _take_along(x, index, dim=None):
  return jnp.take_along_axis(x, index, dim)


@operator("aten.embedding")
def _embedding(weight, index, padding=-1, scale_grad=False, sparse=False):
  return jnp.take(weight, index, axis=0)

"""Operators that are sums of products: matrices, batches of them, Einstein's sums."""

from __future__ import annotations

from jax import lax
import jax.numpy as jnp

from ..operators import operator


@operator("aten.linear")
def _linear(x, weight, bias=None):
  y = x @ jnp.swapaxes(weight, -1, -2) if weight.ndim > 1 else x @ weight
  return y if bias is None else y + bias


@operator("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def _matmul(x, y):
  return x @ y


@operator("aten.addmm", "aten.baddbmm", "aten.addmv")
def _addmm(bias, x, y, beta=1, alpha=1):
  product = x @ y if alpha == 1 else alpha * (x @ y)
  return product + (bias if beta == 1 else beta * bias)


@operator("transformers.grouped_mm_fallback")
def _grouped(x, kernels, ends):
  """Rows [S, K] times the kernel [G, K, N] of their group, group i ending before row `ends[i]`."""
  sizes = jnp.diff(ends, prepend=jnp.zeros(1, ends.dtype))
  return lax.ragged_dot(x, kernels, sizes.astype(jnp.int32))


@operator("aten.einsum")
def _einsum(equation, operands, path=None):
  return jnp.einsum(equation, *operands)


@operator("aten.outer", "aten.ger")
def _outer(x, y):
  return x[:, None] * y


@operator("aten.bilinear")
def _bilinear(x, y, weight, bias=None):
  product = jnp.einsum("...i,oij,...j->...o", x, weight, y)
  return product if bias is None else product + bias

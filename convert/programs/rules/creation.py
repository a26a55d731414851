"""Operators that make tensors, and that make others of their type."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..operators import operator

# Layouts, devices and memory formats mean nothing to arrays: `**_`.


def _dtype_of(*numbers):
  return np.dtype(np.float32 if any(isinstance(n, float) for n in numbers) else np.int32)


@operator("aten.arange.default")
def _arange(end, dtype=None, **_):
  return jnp.arange(end, dtype=dtype or _dtype_of(end))


@operator("aten.arange.start", "aten.arange.start_step")
def _arange_start(start, end, step=1, dtype=None, **_):
  return jnp.arange(start, end, step, dtype=dtype or _dtype_of(start, end, step))


@operator("aten.linspace")
def _linspace(start, end, steps, dtype=None, **_):
  return jnp.linspace(start, end, steps, dtype=dtype or np.float32)


@operator("aten.full")
def _full(size, value, dtype=None, **_):
  whole = _dtype_of(value) if not isinstance(value, bool) else np.dtype(bool)
  return jnp.full(size, value, dtype or whole)


@operator("aten.scalar_tensor")
def _scalar_tensor(value, dtype=None, **_):
  return jnp.asarray(value, dtype or np.float32)


@operator("aten.zeros", "aten.empty")
def _zeros(size, dtype=None, **_):
  return jnp.zeros(size, dtype or np.float32)


@operator("aten.ones")
def _ones(size, dtype=None, **_):
  return jnp.ones(size, dtype or np.float32)


@operator("aten.eye")
def _eye(n, m=None, dtype=None, **_):
  return jnp.eye(n, m, dtype=dtype or np.float32)


@operator("aten.zeros_like", "aten.empty_like")
def _zeros_like(x, dtype=None, **_):
  return jnp.zeros(x.shape, dtype or x.dtype)


@operator("aten.ones_like")
def _ones_like(x, dtype=None, **_):
  return jnp.ones(x.shape, dtype or x.dtype)


@operator("aten.full_like")
def _full_like(x, value, dtype=None, **_):
  return jnp.full(x.shape, value, dtype or x.dtype)


@operator("aten.new_zeros", "aten.new_empty")
def _new_zeros(x, size, dtype=None, **_):
  return jnp.zeros(size, dtype or x.dtype)


@operator("aten.new_ones")
def _new_ones(x, size, dtype=None, **_):
  return jnp.ones(size, dtype or x.dtype)


@operator("aten.new_full")
def _new_full(x, size, value, dtype=None, **_):
  return jnp.full(size, value, dtype or x.dtype)


@operator("aten.fill", "aten.fill_")
def _fill(x, value):
  return jnp.full(x.shape, value, x.dtype)


@operator("aten.zero")
def _zero(x):
  return jnp.zeros_like(x)


@operator(
  *("aten.alias", "aten.clone", "aten.contiguous", "aten.detach", "aten.lift_fresh_copy"),
  *("aten.lift_fresh", "aten.detach_copy"),
)
def _same(x, *_, **__):
  return x


@operator("aten._to_copy")
def _to_copy(x, dtype=None, **_):
  return x if dtype is None else x.astype(dtype)


@operator("aten.to.dtype", "aten.to.dtype_layout")
def _to_dtype(x, dtype=None, *_, **__):
  return x if dtype is None else x.astype(dtype)


@operator("aten.to.device")
def _to_device(x, device=None, dtype=None, *_, **__):
  return x if dtype is None else x.astype(dtype)


@operator("aten.to.other", "aten.type_as")
def _to_other(x, other, *_, **__):
  return x.astype(other.dtype)


@operator("aten.copy")
def _copy(x, source, non_blocking=False):
  return jnp.broadcast_to(source, x.shape).astype(x.dtype)


@operator("aten.meshgrid")
def _meshgrid(tensors, indexing="ij"):
  return jnp.meshgrid(*tensors, indexing=indexing)


@operator("aten.one_hot")
def _one_hot(x, classes=-1):
  if classes < 0:
    raise NotImplementedError("one_hot needs the number of classes")
  return (x[..., None] == jnp.arange(classes)).astype(jnp.int32)


@operator("aten.tril")
def _tril(x, diagonal=0):
  return jnp.tril(x, diagonal)


@operator("aten.triu")
def _triu(x, diagonal=0):
  return jnp.triu(x, diagonal)

"""Operators that make one number of many: sums, extremes, sorting."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..operators import operator


def _axes(dim):
  """Returns the axes that ATen means: all for None or an empty list."""
  if dim is None or dim == []:
    return None
  return dim if isinstance(dim, int) else tuple(dim)


def _reduced(function: Callable, *names: str) -> None:
  """Registers a reduction of all axes, or of some."""

  def rule(x, dim=None, keepdim=False, dtype=None):
    x = x if dtype is None else x.astype(dtype)
    return function(x, axis=_axes(dim), keepdims=keepdim)

  operator(*(f"aten.{name}" for name in names))(rule)


for _name, _function in {
  "all": jnp.all,
  "amax": jnp.max,
  "amin": jnp.min,
  "any": jnp.any,
  "argmax": jnp.argmax,
  "argmin": jnp.argmin,
  "logsumexp": jax.nn.logsumexp,
  "mean": jnp.mean,
  "prod": jnp.prod,
  "sum": jnp.sum,
}.items():
  _reduced(_function, _name)


@operator("aten.max")
def _max(x, other=None):
  return jnp.max(x) if other is None else jnp.maximum(x, other)


@operator("aten.min")
def _min(x, other=None):
  return jnp.min(x) if other is None else jnp.minimum(x, other)


@operator("aten.max.dim")
def _max_dim(x, dim, keepdim=False):
  return jnp.max(x, dim, keepdims=keepdim), jnp.argmax(x, dim, keepdims=keepdim)


@operator("aten.min.dim")
def _min_dim(x, dim, keepdim=False):
  return jnp.min(x, dim, keepdims=keepdim), jnp.argmin(x, dim, keepdims=keepdim)


@operator("aten.var.correction")
def _var(x, dim=None, correction=None, keepdim=False):
  ddof = 1 if correction is None else correction
  return jnp.var(x, axis=_axes(dim), ddof=ddof, keepdims=keepdim)


@operator("aten.var.default", "aten.std.default")
def _var_all(x, unbiased=True):
  raise NotImplementedError("export var and std with dimensions")


@operator("aten.var.dim")
def _var_dim(x, dim, unbiased=True, keepdim=False):
  return _var(x, dim, int(unbiased), keepdim)


@operator("aten.std.correction")
def _std(x, dim=None, correction=None, keepdim=False):
  return jnp.sqrt(_var(x, dim, correction, keepdim))


@operator("aten.std.dim")
def _std_dim(x, dim, unbiased=True, keepdim=False):
  return jnp.sqrt(_var(x, dim, int(unbiased), keepdim))


@operator("aten.var_mean.correction")
def _var_mean(x, dim=None, correction=None, keepdim=False):
  return _var(x, dim, correction, keepdim), jnp.mean(x, axis=_axes(dim), keepdims=keepdim)


@operator("aten.std_mean.correction")
def _std_mean(x, dim=None, correction=None, keepdim=False):
  return _std(x, dim, correction, keepdim), jnp.mean(x, axis=_axes(dim), keepdims=keepdim)


@operator("aten.cumsum")
def _cumsum(x, dim, dtype=None):
  whole = jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_
  return jnp.cumsum(x.astype(jnp.int32) if whole else x, axis=dim, dtype=dtype)


@operator("aten.histc")
def _histc(x, bins=100, min=0, max=0):
  if min == max:
    low, high = jnp.min(x), jnp.max(x)
    alone = low == high
    low, high = jnp.where(alone, low - 1, low), jnp.where(alone, high + 1, high)
  else:
    low, high = jnp.asarray(min, x.dtype), jnp.asarray(max, x.dtype)
  flat = x.reshape(-1)
  place = jnp.floor((flat - low) / (high - low) * bins).astype(jnp.int32)
  inside = (flat >= low) & (flat <= high)  # the last bin has its upper end
  return jnp.zeros(bins, x.dtype).at[place.clip(0, bins - 1)].add(inside.astype(x.dtype))


@operator("aten.topk")
def _topk(x, k, dim=-1, largest=True, ordered=True):
  order = jnp.argsort(x, axis=dim, descending=largest, stable=True)
  order = jax.lax.slice_in_dim(order, 0, k, axis=dim % x.ndim)
  return jnp.take_along_axis(x, order, dim), order


@operator("aten.sort")
def _sort(x, dim=-1, descending=False, stable=None):
  order = jnp.argsort(x, axis=dim, descending=descending, stable=True)
  return jnp.take_along_axis(x, order, dim), order


@operator("aten.argsort")
def _argsort(x, dim=-1, descending=False, stable=None):
  return jnp.argsort(x, axis=dim, descending=descending, stable=True)

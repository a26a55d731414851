"""Pooling: windows [N, C, places], by maximum and by mean."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ..operators import operator
from .convolutions import per_axis


def _windows(
  x, kernel, stride, padding, dilation, ceil_mode: bool
) -> tuple[Sequence[int], Sequence[int], list[tuple[int, int]], Sequence[int]]:
  """Returns window, strides, padding and dilation of each axis, of the batch and channels too.

  With `ceil_mode` a last window may begin in the input and end beyond the padding; it may not
  begin beyond the input.
  """
  axes = _places(kernel, x)
  kernel, padding, dilation = (per_axis(n, axes) for n in (kernel, padding, dilation))
  stride = per_axis(stride, axes) if stride else kernel
  pads = []
  for n, k, s, p, d in zip(x.shape[-axes:], kernel, stride, padding, dilation, strict=True):
    reach = d * (k - 1) + 1
    count = (n + 2 * p - reach) // s + 1
    if ceil_mode and (n + 2 * p - reach) % s and count * s < n + p:
      count += 1
    pads.append((p, max(p, (count - 1) * s + reach - n - p)))
  rest = x.ndim - axes
  ones, none = (1,) * rest, [(0, 0)] * rest
  return (*ones, *kernel), (*ones, *stride), none + pads, (*ones, *dilation)


def _places(kernel, x) -> int:
  return x.ndim - 2 if isinstance(kernel, int) or len(kernel) == 1 else len(kernel)


@operator("aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d")
def _max_pool(x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
  window, strides, pads, dilations = _windows(x, kernel, stride, padding, dilation, ceil_mode)
  lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else np.iinfo(x.dtype).min
  return jax.lax.reduce_window(
    x,
    np.array(lowest, x.dtype),  # no array of JAX: only a known infinity makes it a maximum
    jax.lax.max,
    window,
    strides,
    pads,
    window_dilation=dilations,
  )


@operator("aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices")
def _max_pool_with_indices(x, kernel, stride=(), padding=0, dilation=1, ceil_mode=False):
  return (_max_pool(x, kernel, stride, padding, dilation, ceil_mode),)


@operator("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d")
def _avg_pool(
  x, kernel, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
  window, strides, pads, _ = _windows(x, kernel, stride, padding, 1, ceil_mode)

  def total(array, pads):
    zero = np.zeros((), array.dtype)
    return jax.lax.reduce_window(array, zero, jax.lax.add, window, strides, pads)

  if divisor_override is not None:
    return total(x, pads) / divisor_override
  if not any(map(any, pads)):
    return total(x, pads) / np.prod(window)
  counted = np.ones((1,) * (x.ndim - len(_spread(window))) + _spread(x.shape, window), x.dtype)
  if count_include_pad:  # of the padding, but not of what is beyond it
    own = [(low, low) for low, _ in pads[-len(_spread(window)) :]]
    rest = [(0, 0)] * (x.ndim - len(own))
    counted = np.pad(counted, rest + own, constant_values=1)
    beyond = [(0, high - low) for low, high in pads]
    return total(x, pads) / total(counted, beyond)
  return total(x, pads) / total(counted, pads)


def _spread(shape: Sequence[int], window: Sequence[int] | None = None) -> tuple[int, ...]:
  """Returns the lengths of all axes but those of the batch and channels."""
  return tuple(shape[-(len(window or shape) - 2) :])


@operator(
  *("aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d"),
  *("aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d"),
)
def _adaptive_avg_pool(x, size):
  for axis, count in enumerate(_sizes(x, size), start=x.ndim - len(_listed(size))):
    if count == 1:
      x = x.mean(axis, keepdims=True)
    elif count != x.shape[axis]:
      x = _mean_of_parts(x, axis, count)
  return x


def _mean_of_parts(x, axis: int, count: int):
  length = x.shape[axis]
  if length % count == 0:
    parts = x.reshape(*x.shape[:axis], count, length // count, *x.shape[axis + 1 :])
    return parts.mean(axis + 1)
  starts, stops = _parts(length, count)
  places = np.arange(length)
  inside = (starts[:, None] <= places) & (places < stops[:, None])
  matrix = (inside / (stops - starts)[:, None]).astype(x.dtype)
  return jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ matrix.T, -1, axis)


def _listed(size) -> list:
  return [size] if isinstance(size, int) else list(size)


def _sizes(x, size) -> list[int]:
  """Returns the lengths that are asked for; None stands for that of the input."""
  sizes = _listed(size)
  own = x.shape[x.ndim - len(sizes) :]
  return [n if wanted is None else wanted for n, wanted in zip(own, sizes, strict=True)]


def _parts(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns where the parts of an axis begin and end; they may overlap."""
  number = np.arange(count)
  return number * length // count, -(-(number + 1) * length // count)


@operator("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d")
def _adaptive_max_pool(x, size):
  for axis, count in enumerate(_sizes(x, size), start=x.ndim - len(_listed(size))):
    parts = zip(*_parts(x.shape[axis], count), strict=True)
    maxima = [jax.lax.slice_in_dim(x, a, b, axis=axis).max(axis, keepdims=True) for a, b in parts]
    x = jnp.concatenate(maxima, axis)
  return (x,)

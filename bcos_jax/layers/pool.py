"""Pooling layers over two spatial axes, channels last."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..errors import unknown_name

Array = jax.Array


def _pads(padding: int) -> Any:
  """Returns the same padding on all sides; Flax takes pairs, though its types say a string."""
  return [(padding, padding)] * 2


def max_pool(x: Array, window: int = 3, strides: int = 2, padding: int = 1) -> Array:
  """Largest value of each window, [N, H, W, C] -> [N, H', W', C]."""
  return nn.max_pool(x, (window,) * 2, (strides,) * 2, _pads(padding))


def avg_pool(x: Array, window: int = 3, strides: int = 2, padding: int = 1) -> Array:
  """Mean of each window, zeros of the padding counted, [N, H, W, C] -> [N, H', W', C]."""
  return nn.avg_pool(x, (window,) * 2, (strides,) * 2, _pads(padding))


def covering_avg_pool(x: Array, window: int = 2) -> Array:
  """Mean of each window, the last ones smaller where it does not divide, [N, ceil(H / w), ...]."""
  return nn.avg_pool(x, (window,) * 2, (window,) * 2, "SAME", count_include_pad=False)


def blur_pool(x: Array, window: int = 3, strides: int = 2, padding: int = 1) -> Array:
  """Subsamples after a binomial 3x3 filter (anti-aliased pooling, arXiv 1904.11486).

  Borders are reflected. The filter is the same for every window, which says, with the padding,
  only how many results there are: as many as of the other pools. Takes away the checkerboard that
  strided pooling leaves in B-cos explanations (arXiv 2507.16761).
  """
  sizes = [(length + 2 * padding - window) // strides + 1 for length in x.shape[1:3]]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
  for axis, size in zip((1, 2), sizes, strict=True):
    span = (size - 1) * strides + 1
    taps = [jax.lax.slice_in_dim(x, i, i + span, strides, axis) for i in range(3)]
    x = 0.25 * taps[0] + 0.5 * taps[1] + 0.25 * taps[2]
  return x


def global_avg_pool(x: Array) -> Array:
  """Mean over everything between batch and channels, [N, ..., C] -> [N, C]."""
  return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def global_max_pool(x: Array) -> Array:
  """Largest value between batch and channels, [N, ..., C] -> [N, C].

  The place is looked up and then read: the gradient of `jnp.max` compares values once more, and
  where a compiler computed them twice, differently rounded, none is the largest and it is NaN.
  """
  x = x.reshape(x.shape[0], -1, x.shape[-1])
  return jnp.take_along_axis(x, jnp.argmax(x, axis=1, keepdims=True), axis=1)[:, 0]


GLOBAL_POOLS = ("mean", "max", "mean_max", "mean_and_max")
"""What `global_pool` knows."""


def global_pool(x: Array, kind: str) -> Array:
  """Pools over space before a head, [N, H, W, C] -> [N, 1, 1, C].

  The choice of the largest value is a dynamic weight: 1 for one position, 0 for all others.

  Args:
    x: Features.
    kind: 'mean', which leaves them to the readout, whose order of head and mean is the family's;
      'max'; 'mean_max', the mean of both; or 'mean_and_max', both side by side, [N, 1, 1, 2 C].
  """
  if kind not in GLOBAL_POOLS:
    raise unknown_name("global_pool", kind, GLOBAL_POOLS)
  if kind == "mean":
    return x
  mean, largest = (pool(x)[:, None, None] for pool in (global_avg_pool, global_max_pool))
  if kind == "max":
    return largest
  return (mean + largest) / 2 if kind == "mean_max" else jnp.concatenate([mean, largest], axis=-1)


def adaptive_avg_pool(x: Array, size: int) -> Array:
  """Means of size x size cells that cover the image, [N, H, W, C] -> [N, size, size, C].

  As PyTorch's AdaptiveAvgPool2d: cell i covers floor(i H / size) to ceil((i + 1) H / size), so
  cells overlap, or repeat positions, where the size does not divide.
  """
  for axis in (1, 2):
    length = x.shape[axis]
    if length == size:
      continue
    index = jnp.arange(size)
    first = index * length // size
    end = -(-(index + 1) * length // size)
    position = jnp.arange(length)[:, None]
    inside = (position >= first) & (position < end)
    means = (inside / (end - first)).astype(x.dtype)
    x = jnp.moveaxis(jnp.tensordot(x, means, (axis, 0), precision="highest"), -1, axis)
  return x

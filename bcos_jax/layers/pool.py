"""Pooling, channels last, over two spatial axes."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def max_pool(x: Array, window: int = 3, strides: int = 2, padding: int = 1) -> Array:
  """Largest value of each window, [N, H, W, C] -> [N, H', W', C]."""
  return nn.max_pool(x, (window,) * 2, (strides,) * 2, [(padding, padding)] * 2)


def avg_pool(x: Array, window: int = 3, strides: int = 2, padding: int = 1) -> Array:
  """Mean of each window, zeros of the padding counted, [N, H, W, C] -> [N, H', W', C]."""
  return nn.avg_pool(x, (window,) * 2, (strides,) * 2, [(padding, padding)] * 2)


def blur_pool(x: Array, strides: int = 2) -> Array:
  """Subsamples after a binomial 3x3 filter (anti-aliased pooling, arXiv 1904.11486).

  Borders are reflected. Takes away the checkerboard that strided pooling leaves in B-cos
  explanations (arXiv 2507.16761).
  """
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
  for axis in (1, 2):
    length = x.shape[axis] - 2
    taps = [jax.lax.slice_in_dim(x, i, i + length, strides, axis) for i in range(3)]
    x = 0.25 * taps[0] + 0.5 * taps[1] + 0.25 * taps[2]
  return x


def global_avg_pool(x: Array) -> Array:
  """Mean over everything between batch and channels, [N, ..., C] -> [N, C]."""
  return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))

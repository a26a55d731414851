"""Attention within shifted windows of a feature map (Swin, arXiv 2103.14030 and 2111.09883)."""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ... import functional as F
from ...layers.sources import add_constant
from ...ops import Ops
from .attention import check_heads, fused_heads

Array = jax.Array

MAX_LOGIT_SCALE = 100.0
"""Largest factor of the cosines between queries and keys (arXiv 2111.09883, section 3.2)."""


def partition(x: Array, window: int) -> Array:
  """Cuts [N, H, W, C] into windows [N, windows, window * window, C], both row-major."""
  n, h, w, c = x.shape
  x = x.reshape(n, h // window, window, w // window, window, c).swapaxes(2, 3)
  return x.reshape(n, -1, window * window, c)


def merge(x: Array, window: int, height: int, width: int) -> Array:
  """Puts windows back into a map [N, height, width, C]; the inverse of `partition`."""
  n, c = x.shape[0], x.shape[-1]
  x = x.reshape(n, height // window, width // window, window, window, c).swapaxes(2, 3)
  return x.reshape(n, height, width, c)


def shift_mask(height: int, width: int, window: int, shift: tuple[int, int]) -> np.ndarray:
  """Returns which pairs of a shifted map's windows were neighbours before the shift.

  Returns:
    bool, [windows, window * window, window * window].
  """

  def regions(length: int, moved: int) -> np.ndarray:
    places = np.arange(length)
    if not moved:
      return np.zeros_like(places)
    return (places >= length - window).astype(int) + (places >= length - moved)

  region = 3 * regions(height, shift[0])[:, None] + regions(width, shift[1])
  rows = region.reshape(height // window, window, width // window, window)
  rows = rows.swapaxes(1, 2).reshape(-1, window * window)
  return rows[:, :, None] == rows[:, None, :]


def relative_index(window: int) -> np.ndarray:
  """Returns the row of a table of offsets, [(2 * window - 1)^2, ...], for each pair of places."""
  places = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij"), -1).reshape(-1, 2)
  offsets = places[:, None] - places[None] + window - 1
  return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


class PositionBiasMLP(nn.Module):
  """Makes the bias of each offset from its logarithm (arXiv 2111.09883, section 3.3).

  It sees positions only and no image, so it is the same in every family.

  Attributes:
    num_heads: Number of heads.
    window: Side of a window.
    pretrained: Side of the windows that it was trained with; 0 for the same.
    features: Hidden units.

  Parameters: `hidden` with bias, `out` without.
  """

  num_heads: int
  window: int
  pretrained: int = 0
  features: int = 512

  @nn.compact
  def __call__(self) -> Array:
    """Returns the table [(2 * window - 1)^2, num_heads]."""
    reach = max((self.pretrained or self.window) - 1, 1)
    steps = 8 * np.arange(1 - self.window, self.window, dtype=np.float32) / reach
    steps = np.sign(steps) * np.log2(np.abs(steps) + 1) / 3
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    x = nn.relu(nn.Dense(self.features, name="hidden")(jnp.asarray(offsets)))
    return 16 * nn.sigmoid(nn.Dense(self.num_heads, use_bias=False, name="out")(x))


class WindowAttention(nn.Module):
  """Multi-head self-attention within the windows of a feature map.

  Queries, keys and values are plain linear maps in every family, the output projection is a
  `dense` map of the family. The map is padded with zeros at its end to whole windows; padded
  places take part, as in the published networks.

  Attributes:
    ops: The layer family.
    num_heads: Number of heads; must divide the width.
    window: Side of a window.
    shift: Rows and columns by which the map moves, cyclically, before it is cut.
    cosine: Compares queries and keys by their cosine, times a learned scale, and makes the
      relative positions by a small network (Swin V2); keys then have no bias.
    use_bias: Whether queries, keys and values have biases, where the family keeps them.
    pretrained_window: See `PositionBiasMLP`.
    mask_value: Added to the logits of pairs that the shift brought together.

  Parameters: `qkv` (queries, keys, values; each head-major), `out`, and `relative_position_bias`
  [(2 * window - 1)^2, heads], or `position_bias`, `logit_scale` [heads] and `bias` [2 * width] (of
  queries and values) if `cosine`.
  """

  ops: Ops
  num_heads: int
  window: int
  shift: tuple[int, int] = (0, 0)
  cosine: bool = False
  use_bias: bool = True
  pretrained_window: int = 0
  mask_value: float = -100.0

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to [N, H, W, C]."""
    _, h, w, width = x.shape
    check_heads(width, self.num_heads)
    x = jnp.pad(x, ((0, 0), (0, -h % self.window), (0, -w % self.window), (0, 0)))
    height, length = x.shape[1:3]
    x = jnp.roll(x, [-s for s in self.shift], axis=(1, 2))
    q, k, v = self._project(partition(x, self.window))
    bias = self._position_bias()
    if any(self.shift):
      seen = shift_mask(height, length, self.window, self.shift)[:, None]
      bias = bias + np.where(seen, 0.0, self.mask_value).astype(np.float32)
    scale = 1.0 if self.cosine else None
    y = self.ops.attend(q, k, v, bias=bias, scale=scale)
    y = merge(y.reshape(*y.shape[:3], width), self.window, height, length)
    y = jnp.roll(y, self.shift, axis=(1, 2))[:, :h, :w]
    return self.ops.dense(width, name="out")(y)

  def _project(self, x: Array) -> tuple[Array, Array, Array]:
    """Returns queries, keys and values, each [N, windows, T, heads, head_dim]."""
    width = x.shape[-1]
    y = self.ops.linear(3 * width, use_bias=self.use_bias and not self.cosine, name="qkv")(x)
    if self.cosine and self.use_bias and self.ops.has_biases:
      bias = self.param("bias", nn.initializers.zeros, (2 * width,), self.ops.param_dtype)
      none = jnp.zeros_like(bias[:width])
      bias = jnp.concatenate([bias[:width], none, bias[width:]]).astype(y.dtype)
      y = add_constant(self, y, bias, "bias")
    q, k, v = fused_heads(y, self.num_heads)
    if not self.cosine:
      return q, k, v
    start = nn.initializers.constant(math.log(10))
    scale = self.param("logit_scale", start, (self.num_heads,), self.ops.param_dtype)
    scale = jnp.exp(jnp.minimum(scale, math.log(MAX_LOGIT_SCALE)))[:, None].astype(q.dtype)
    return F.unit_length(q) * scale, F.unit_length(k), v

  def _position_bias(self) -> Array:
    """Returns what relative positions add to the logits, float32 [heads, T, T]."""
    if self.cosine:
      table = PositionBiasMLP(
        self.num_heads, self.window, self.pretrained_window, name="position_bias"
      )()
    else:
      shape = ((2 * self.window - 1) ** 2, self.num_heads)
      init = nn.initializers.truncated_normal(0.02)
      table = self.param("relative_position_bias", init, shape, self.ops.param_dtype)
    return jnp.moveaxis(table[relative_index(self.window)], -1, 0).astype(jnp.float32)

"""Parts of plain vision transformers: embeddings, blocks, pooling by a learned probe."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..layers import add_constant
from ..ops import Ops
from .base import image_sides
from .blocks.attention import Attention
from .blocks.mlp import Mlp
from .blocks.positions import Grid, Rotary, relative_rows, resize_table
from .simple_vit import patchify, stem_stages, token_grid

Array = jax.Array

_token_init = nn.initializers.normal(0.02)


class Embeddings(nn.Module):
  """Patches become tokens; class and register tokens join them; learned positions are added.

  Fields as in `VisionTransformer`. Result: [N, class tokens + registers + patches, width], in
  this order.
  """

  ops: Ops
  width: int
  patch_size: int
  image_size: int | tuple[int, int]
  conv_stem: tuple[int, ...]
  patch_bias: bool
  class_token: bool
  distillation_token: bool
  registers: int
  learned: bool
  prefix_positions: bool
  register_positions: bool
  position_resize: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps encoded images [N, H, W, channels] to tokens."""
    ops = self.ops
    stages = stem_stages(self.conv_stem, x.shape[-1])
    table_grid = token_grid(image_sides(self.image_size), stages, self.patch_size)
    for i, (features, strides) in enumerate(stages):
      x = ops.conv(features, 3, strides, use_bias=True, name=f"stem{i}_conv")(x)
      x = ops.act(ops.group_norm(1, name=f"stem{i}_norm")(x), "relu")
    # Pixels that fill no patch are dropped, as the published convolutions do.
    h, w = (side - side % self.patch_size for side in x.shape[1:3])
    x = patchify(x[:, :h, :w], self.patch_size)
    x = ops.dense(self.width, use_bias=self.patch_bias, name="patch_embedding")(x)
    grid = (x.shape[1], x.shape[2])
    x = x.reshape(x.shape[0], -1, self.width)
    names = ["cls_token"] * self.class_token + ["distillation_token"] * self.distillation_token
    rows = self._positions(len(names), table_grid, grid) if self.learned else None
    parts = [self._token(x, name, 1) for name in names]
    if self.registers:
      parts.append(self._token(x, "register_tokens", self.registers))
    x = jnp.concatenate([*parts, x], axis=1)
    return x if rows is None else add_constant(self, x, rows.astype(x.dtype), "position")

  def _token(self, x: Array, name: str, count: int) -> Array:
    token = self.param(name, _token_init, (count, self.width), self.ops.param_dtype)
    empty = jnp.zeros((x.shape[0], count, self.width), x.dtype)
    return add_constant(self, empty, token.astype(x.dtype), name)

  def _positions(self, prefix: int, old: Grid, grid: Grid) -> Array:
    """Returns what to add to each token: a row of the table, or nothing."""
    counts = (prefix * self.prefix_positions, self.registers * self.register_positions)
    own = sum(counts)
    shape = (own + old[0] * old[1], self.width)
    table = self.param("position", _token_init, shape, self.ops.param_dtype)
    rows, none = table[:own], jnp.zeros((prefix + self.registers, self.width), table.dtype)
    places = resize_table(table[own:], old, grid, self.position_resize)
    first = rows if self.prefix_positions else none[:prefix]
    return jnp.concatenate(
      [first[:prefix], rows[counts[0] :] if counts[1] else none[prefix:], places]
    )


class ViTBlock(nn.Module):
  """Attention and feed-forward branches, each normalised at its start.

  Fields as in `VisionTransformer`; `relative`: the grid that a table of relative positions is for,
  and how it follows another one.
  """

  ops: Ops
  num_heads: int
  mlp_dim: int
  activation: str
  gated_mlp: bool
  qkv_bias: bool
  key_bias: bool
  layer_scale: float | None
  norm_eps: float
  relative: tuple[Grid, str] | None = None

  @nn.compact
  def __call__(self, x: Array, rotary: Rotary | None = None, grid: Grid | None = None) -> Array:
    ops = self.ops
    y = ops.layer_norm(eps=self.norm_eps, name="norm1")(x)
    y = Attention(ops, self.num_heads, use_bias=self.qkv_bias, key_bias=self.key_bias, name="attn")(
      y, rotary=rotary, bias=self._relative_bias(grid)
    )
    x = x + self._scaled(y, "layer_scale1")
    y = ops.layer_norm(eps=self.norm_eps, name="norm2")(x)
    y = Mlp(ops, self.mlp_dim, self.activation, self.gated_mlp, name="mlp")(y)
    return x + self._scaled(y, "layer_scale2")

  def _relative_bias(self, grid: Grid | None) -> Array | None:
    """Returns what relative positions add to the attention logits, [heads, T, T].

    It is part of the attention weights, hence of a dynamic weight: no residual of explanations.
    """
    if self.relative is None or grid is None:
      return None
    (height, width), kind = self.relative
    old = (2 * height - 1, 2 * width - 1)
    count = old[0] * old[1]
    shape = (count + 3, self.num_heads)
    table = self.param("relative_position", _token_init, shape, self.ops.param_dtype)
    new = (2 * grid[0] - 1, 2 * grid[1] - 1)
    table = jnp.concatenate([resize_table(table[:count], old, new, kind), table[count:]])
    return jnp.moveaxis(table[relative_rows(grid)], -1, 0)

  def _scaled(self, y: Array, name: str) -> Array:
    return y if self.layer_scale is None else self.ops.layer_scale(self.layer_scale, name=name)(y)


class ProbePool(nn.Module):
  """A learned probe looks at all patches (MAP: arXiv 2106.04560, appendix D), then an MLP follows.

  The probe decides where to look, a dynamic weight; nothing of it is added to the result.

  Parameters: `probe` [1, width], `attn`, `norm`, `mlp`.
  """

  ops: Ops
  num_heads: int
  mlp_dim: int
  activation: str
  norm_eps: float

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, T, width] to [N, width]."""
    ops, width = self.ops, x.shape[-1]
    probe = self.param("probe", _token_init, (1, width), ops.param_dtype)
    probe = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, width))
    y = Attention(ops, self.num_heads, name="attn")(x, asking=probe)
    branch = ops.layer_norm(eps=self.norm_eps, name="norm")(y)
    y = y + Mlp(ops, self.mlp_dim, self.activation, name="mlp")(branch)
    return y[:, 0]

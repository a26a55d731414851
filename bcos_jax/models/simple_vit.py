"""SimpleViT (arXiv 2205.01580) and ViTc, its variant with a conv stem (arXiv 2106.14881).

As in B-cos v2: no class token, sine-cosine positions that are added but not learned, the mean
over tokens instead of pooling by attention. The "L" of this family is 14 (13) blocks deep.
"""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..errors import InputError
from ..layers import add_constant
from ..ops import Ops
from .base import ImageModel, TokenLayout
from .blocks.attention import Attention
from .blocks.mlp import feed_forward
from .blocks.positions import Grid
from .registry import register

Array = jax.Array


def sincos_positions(height: int, width: int, features: int, temperature: float = 1e4) -> Array:
  """Returns the fixed position table [height * width, features], row-major.

  Each quarter of the features holds sin x, cos x, sin y, cos y at falling frequencies.
  """
  if features % 4 or features < 8:
    raise InputError(
      f"Width {features} cannot hold sine-cosine positions.",
      "Choose a multiple of 4 of at least 8.",
    )
  omega = temperature ** -(jnp.arange(features // 4) / (features // 4 - 1))
  y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
  y, x = y.reshape(-1, 1) * omega, x.reshape(-1, 1) * omega
  return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=1)


def patchify(x: Array, size: int) -> Array:
  """Cuts [N, H, W, C] into patches [N, H/size, W/size, size * size * C], channels fastest."""
  n, h, w, c = x.shape
  if h % size or w % size:
    raise InputError(
      f"An image of {h}x{w} pixels does not divide into patches of {size}x{size}.",
      f"Resize it to multiples of {size}.",
    )
  x = x.reshape(n, h // size, size, w // size, size, c).swapaxes(2, 3)
  return x.reshape(n, h // size, w // size, -1)


def stem_stages(conv_stem: tuple[int, ...], channels: int) -> list[tuple[int, int]]:
  """Returns features and stride of each convolution of a stem; one that widens has stride 2."""
  before = (channels, *conv_stem)
  return [
    (features, 2 if features > previous else 1)
    for features, previous in zip(conv_stem, before[:-1], strict=True)
  ]


def token_grid(size: Grid, stages: list[tuple[int, int]], patch_size: int) -> Grid:
  """Returns the rows and columns of patches of an image of `size` pixels."""
  for _, strides in stages:
    size = (-(-size[0] // strides), -(-size[1] // strides))
  return (size[0] // patch_size, size[1] // patch_size)


def patch_layout(
  side: tuple[int, int], conv_stem: tuple[int, ...], channels: int, patch_size: int
) -> TokenLayout:
  """Returns where the patches of images of `side` pixels are, if there are no other tokens."""
  stages = stem_stages(conv_stem, channels)
  stride = patch_size * math.prod(strides for _, strides in stages)
  return TokenLayout(token_grid(side, stages, patch_size), stride)


class SimpleViTBlock(nn.Module):
  """Attention and feed-forward branches, each normalised at its start."""

  ops: Ops
  num_heads: int
  mlp_dim: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    ops = self.ops
    attention = Attention(
      ops, self.num_heads, fused=True, use_bias=False, out_bias=False, name="attn"
    )
    y = ops.layer_norm(name="attn_norm")(x)
    x = x + attention(y)
    y = ops.layer_norm(name="ff_norm")(x)
    return x + feed_forward(ops, y, self.mlp_dim, "gelu", prefix="ff_")


class SimpleViT(ImageModel):
  """A vision transformer with mean pooling.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled features instead.
    patch_size: Side of a patch, in pixels of the image or of the stem's result.
    width: Channels of a token; a multiple of 4 and of `num_heads`.
    depth: Number of blocks.
    num_heads: Attention heads.
    mlp_dim: Hidden channels of the feed-forward branch.
    conv_stem: Channels of each 3x3 convolution before the patches; a convolution that widens has
      stride 2.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  patch_size: int = 16
  width: int = 192
  depth: int = 12
  num_heads: int = 3
  mlp_dim: int = 768
  conv_stem: tuple[int, ...] = ()
  image_size: int | tuple[int, int] = 224

  head = "head"
  norm_eps = 1e-5

  @property
  def input_map(self) -> str:
    """The map that reads the encoded image."""
    return "stem0_conv" if self.conv_stem else "patch_embedding"

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The encoder's blocks."""
    return tuple(f"encoder_{i}" for i in range(self.depth))

  @property
  def grad_cam_layer(self) -> str:
    """The norm before the last attention."""
    return f"encoder_{self.depth - 1}/attn_norm"

  def token_layout(self, side: tuple[int, int]) -> TokenLayout:
    """See `BaseNetwork`."""
    return patch_layout(side, self.conv_stem, self.ops.encoding.channels, self.patch_size)

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes]."""
    ops = self.ops
    ops.check_encoded(x)
    for i, features in enumerate(self.conv_stem):
      strides = 2 if features > x.shape[-1] else 1
      x = ops.conv(features, 3, strides, use_bias=True, name=f"stem{i}_conv")(x)
      x = ops.act(ops.group_norm(1, name=f"stem{i}_norm")(x), "gelu")
    x = ops.dense(self.width, name="patch_embedding")(patchify(x, self.patch_size))
    n, h, w, d = x.shape
    x = add_constant(
      self, x.reshape(n, h * w, d), sincos_positions(h, w, d).astype(x.dtype), "position"
    )
    for i in range(self.depth):
      x = ops.block(SimpleViTBlock)(ops, self.num_heads, self.mlp_dim, name=f"encoder_{i}")(x)
    norm = ops.layer_norm(name="head_norm")
    if not self.num_classes:
      return ops.average(norm, x, tokens=True)
    head = ops.dense(self.num_classes, name="head")
    return ops.readout(lambda tokens: head(norm(tokens)), x, tokens=True)


_SIZES = {
  "ti": {"width": 192, "num_heads": 3, "mlp_dim": 768},
  "s": {"width": 384, "num_heads": 6, "mlp_dim": 1536},
  "b": {"width": 768, "num_heads": 12, "mlp_dim": 3072},
  "l": {"width": 1024, "num_heads": 16, "mlp_dim": 4096, "depth": 14},
}
_WIDE_STEM = (64, 128, 128, 256, 256, 512)
_STEMS = {"ti": (24, 48, 96, 192), "s": (48, 96, 192, 384), "b": _WIDE_STEM, "l": _WIDE_STEM}
# A stem stands in for one block.
_VITC = {
  size: {**row, "patch_size": 1, "depth": row.get("depth", 12) - 1, "conv_stem": _STEMS[size]}
  for size, row in _SIZES.items()
}
_TINY = {
  "width": 32,
  "num_heads": 2,
  "mlp_dim": 64,
  "depth": 2,
  "image_size": 32,
  "num_classes": 10,
}

# B-cos v2 publishes the conventional networks that it compares with as `standard_...`.
VARIANTS = {
  f"{family}{name}": row
  for family in ("", "standard_")
  for name, row in (
    *((f"simple_vit_{size}_patch16_224", row) for size, row in _SIZES.items()),
    *((f"vitc_{size}_patch1_14", row) for size, row in _VITC.items()),
  )
}

TEST_VARIANTS = {
  "simple_vit_tiny": {**_TINY, "patch_size": 8},
  "vitc_tiny": {**_TINY, "patch_size": 1, "conv_stem": (8, 16, 16, 32)},
}

register(
  SimpleViT,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.simple_vit:KEYS",
)

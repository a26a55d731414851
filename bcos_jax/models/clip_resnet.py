"""CLIP's ResNets (arXiv 2103.00020, section 2.4): image towers that end in attention pooling.

Compared with other ResNets, the stem has three convolutions, every stride is an average pooling,
and the pooling is one query, from the mean of all positions, that attends to all of them.
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from .. import functional as F
from ..errors import InputError, unknown_name
from ..layers import add_constant, avg_pool
from ..ops import Ops
from .base import ImageModel
from .blocks.attention import Attention
from .blocks.positions import resize_table
from .registry import register

Array = jax.Array

POOLINGS = ("attention", "none")


class ClipBottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions and a shortcut; a stride pools behind the 3x3 convolution."""

  ops: Ops
  features: int
  strides: int = 1

  expansion = 4

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops, wide = self.ops, self.features * self.expansion
    y = ops.conv(self.features, 1, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(self.features, 3, name="conv2")(y)
    y = ops.act(ops.batch_norm(name="bn2")(y, train), "relu")
    y = ops.conv(wide, 1, name="conv3")(_pooled(y, self.strides))
    y = ops.batch_norm(name="bn3")(y, train)
    if self.strides > 1 or x.shape[-1] != wide:
      x = ops.conv(wide, 1, name="downsample_conv")(_pooled(x, self.strides))
      x = ops.batch_norm(name="downsample_bn")(x, train)
    return ops.act(y + x, "relu")


def _pooled(x: Array, strides: int) -> Array:
  return avg_pool(x, strides, strides, 0) if strides > 1 else x


class AttentionPool(Attention):
  """One query, from the mean position, that attends to the mean and to every position.

  Positions are learned constants that count as biases: B-cosified towers have none.

  Attributes, beside those of `Attention`:
    grid: Rows and columns that the table of positions was learned for.

  Parameters: those of `Attention`, and `position` [1 + rows * columns, width].
  """

  grid: tuple[int, int] = (7, 7)

  # Never called as an `Attention`: it looks at a map, not at tokens.
  @nn.compact
  def __call__(self, x: Array) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
    """Maps [N, H, W, width] to [N, features]."""
    n, h, w, width = x.shape
    x = x.reshape(n, h * w, width)
    x = jnp.concatenate([jnp.mean(x, axis=1, keepdims=True), x], axis=1)
    if self.ops.has_biases:
      x = add_constant(self, x, self._positions((h, w), width).astype(x.dtype), "position")
    return self.looked(x, asking=x[:, :1])[:, 0]

  def _positions(self, grid: tuple[int, int], width: int) -> Array:
    init = nn.initializers.normal(width**-0.5)
    shape = (1 + self.grid[0] * self.grid[1], width)
    table = self.param("position", init, shape, self.ops.param_dtype)
    # The mean has no place: only the others' rows are resized.
    return jnp.concatenate([table[:1], resize_table(table[1:], self.grid, grid, "bicubic")])


class UnpooledHead(nn.Module):
  """The values of an attention pooling at each position, for localisation.

  The value map, then the output map, a B-cos transform in B-cos families, then unit length, whose
  divisor is a dynamic weight (B-cosification, `attn_unpool`).

  Parameters: `value`, `out`, as those of `AttentionPool`.
  """

  ops: Ops
  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, width] to unit vectors [N, H, W, features]."""
    x = self.ops.linear(x.shape[-1], name="value")(x)
    x = self.ops.dense(self.features, name="out")(x)
    return F.unit_length(x, detach=self.ops.detach)


class ClipResNet(ImageModel):
  """The image tower of a CLIP ResNet; its outputs are features, to be compared with text.

  Attributes:
    ops: The layer family.
    num_classes: 0: there are no classes.
    features: Channels of the features.
    stages: Blocks of each stage; each stage after the first halves the resolution.
    width: Channels of the stem and of the first stage.
    pooling: 'attention', or 'none' for unit-length features at every position (MaskCLIP's way,
      arXiv 2112.01071). A network pooled by attention can be applied without pooling with its
      own variables: the query and key maps are then not used.
    image_size: Side of the images of the published evaluation, in pixels; for others, positions
      are resized.
  """

  ops: Ops
  num_classes: int = 0
  features: int = 1024
  stages: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  pooling: str = "attention"
  image_size: int | tuple[int, int] = 224

  input_map = "conv1"
  head = None
  norm_eps = 1e-5
  localises_text = True

  def unpooled(self) -> ClipResNet:
    """See `BaseNetwork`."""
    return self.clone(pooling="none")

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The residual blocks."""
    return tuple(f"layer{i + 1}_{j}" for i, n in enumerate(self.stages) for j in range(n))

  @property
  def grad_cam_layer(self) -> str:
    """The last block."""
    return self.block_paths[-1]

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 [N, features], or [N, h, w, features]."""
    ops = self.ops
    ops.check_encoded(x)
    self._check(x)
    for i, (features, strides) in enumerate(((self.width // 2, 2), (self.width // 2, 1), (0, 1))):
      x = ops.conv(features or self.width, 3, strides, name=f"conv{i + 1}")(x)
      x = ops.act(ops.batch_norm(name=f"bn{i + 1}")(x, train), "relu")
    x = _pooled(x, 2)
    for i, depth in enumerate(self.stages):
      for j in range(depth):
        strides = 2 if i > 0 and j == 0 else 1
        block = ops.block(ClipBottleneck)
        x = block(ops, self.width * 2**i, strides, name=f"layer{i + 1}_{j}")(x, train)
    return self._pool(x).astype("float32")

  def _pool(self, x: Array) -> Array:
    if self.pooling == "none":
      return UnpooledHead(self.ops, self.features, name="attnpool")(x)
    heads = x.shape[-1] // 64
    height, width = (side // self.reduction for side in self.image_sides)
    pool = AttentionPool(
      self.ops,
      heads,
      features=self.features,
      linear_out=True,
      grid=(height, width),
      name="attnpool",
    )
    return pool(x)

  @property
  def reduction(self) -> int:
    """Pixels of the image along each side of a position of the last map."""
    return 2 ** (1 + len(self.stages))

  def _check(self, x: Array):
    if self.pooling not in POOLINGS:
      raise unknown_name("pooling", self.pooling, POOLINGS)
    if self.num_classes:
      raise InputError(
        f"num_classes is {self.num_classes}, but CLIP's image towers return features only.",
        "Leave it at 0, and compare the features with those of texts, or train a probe on them.",
      )
    sides = (*x.shape[1:3], *self.image_sides)
    if any(side < self.reduction for side in sides):
      raise InputError(
        f"Images of {sides[0]}x{sides[1]} pixels (image_size {self.image_size}) leave no position.",
        f"Give at least {self.reduction} pixels.",
      )


VARIANTS = {
  "clip_resnet50": {},
  "clip_resnet101": {"stages": (3, 4, 23, 3), "features": 512},
  "clip_resnet50x4": {"stages": (4, 6, 10, 6), "width": 80, "features": 640, "image_size": 288},
  "clip_resnet50x16": {"stages": (6, 8, 18, 8), "width": 96, "features": 768, "image_size": 384},
  "clip_resnet50x64": {
    "stages": (3, 15, 36, 10),
    "width": 128,
    "features": 1024,
    "image_size": 448,
  },
}

TEST_VARIANTS = {
  "clip_resnet_test": {"stages": (1, 1), "width": 16, "features": 10, "image_size": 32},
}

register(
  ClipResNet,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.clip_resnet:KEYS",
)

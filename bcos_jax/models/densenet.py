"""DenseNets (arXiv 1608.06993), as in torchvision and B-cos v2."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..ops import Ops
from .base import ImageModel
from .registry import register

Array = jax.Array


class DenseLayer(nn.Module):
  """Norm and 1x1 convolution, norm and 3x3 convolution: the channels that a layer adds."""

  ops: Ops
  growth: int
  bottleneck: int

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps [N, H, W, C] to [N, H, W, growth]."""
    ops = self.ops
    y = ops.act(ops.batch_norm(name="norm1")(x, train), "relu")
    y = ops.conv(self.bottleneck * self.growth, 1, name="conv1")(y)
    y = ops.act(ops.batch_norm(name="norm2")(y, train), "relu")
    return ops.conv(self.growth, 3, name="conv2")(y)


class Transition(nn.Module):
  """Halves channels and resolution; the mean of 2x2 positions in every family."""

  ops: Ops

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps [N, H, W, C] to [N, H/2, W/2, C/2]."""
    y = self.ops.act(self.ops.batch_norm(name="norm")(x, train), "relu")
    y = self.ops.conv(x.shape[-1] // 2, 1, name="conv")(y)
    return nn.avg_pool(y, (2, 2), (2, 2))


class DenseNet(ImageModel):
  """A network in which each layer of a block reads all layers before it.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled features instead.
    blocks: Layers of each block.
    growth: Channels that each layer adds.
    width: Channels of the stem.
    bottleneck: Channels of the 1x1 convolutions, in multiples of `growth`.
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  blocks: tuple[int, ...] = (6, 12, 24, 16)
  growth: int = 32
  width: int = 64
  bottleneck: int = 4
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  input_map = "conv0"
  head = "head"
  norm_eps = 1e-5
  grad_cam_layer = "norm5"

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, D].
    """
    ops = self.ops
    ops.check_encoded(x)
    x = ops.conv(self.width, 7, 2, name="conv0")(x)
    x = ops.spatial_pool(ops.act(ops.batch_norm(name="norm0")(x, train), "relu"))
    for i, depth in enumerate(self.blocks, 1):
      if i > 1:
        x = Transition(ops, name=f"transition{i - 1}")(x, train)
      for j in range(1, depth + 1):
        layer = ops.block(DenseLayer)(ops, self.growth, self.bottleneck, name=f"block{i}_layer{j}")
        x = jnp.concatenate([x, layer(x, train)], axis=-1)
    x = ops.act(ops.batch_norm(name="norm5")(x, train), "relu", last=True)
    return self.classified(x)


VARIANTS = {
  "densenet121": {},
  "densenet161": {"growth": 48, "width": 96, "blocks": (6, 12, 36, 24)},
  "densenet169": {"blocks": (6, 12, 32, 32)},
  "densenet201": {"blocks": (6, 12, 48, 32)},
  # As densenet121, and trained by B-cos v2's recipe of 600 epochs.
  "densenet121_long": {},
}

TEST_VARIANTS = {
  "densenet_tiny": {
    "blocks": (2, 1),
    "growth": 4,
    "width": 8,
    "image_size": 32,
    "num_classes": 10,
  },
}

register(
  DenseNet,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.densenet:KEYS",
  readers="bcos_jax.convert.architectures.densenet:READERS",
)

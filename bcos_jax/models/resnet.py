"""ResNets (arXiv 1512.03385), for ImageNet as in torchvision and for CIFAR.

B-cos v2 and B-cosification differ from torchvision's networks only in what their ops choose:
six input channels, average pooling, no ReLU (v2), and a head that comes before the pooling.
"""

from __future__ import annotations

from flax import linen as nn
import jax

from ..errors import unknown_name
from ..ops import Ops
from .image_model import ImageModel

Array = jax.Array


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  ops: Ops
  features: int
  strides: int = 1

  expansion = 1

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops = self.ops
    y = ops.conv(self.features, 3, self.strides, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(self.features, 3, name="conv2")(y)
    y = ops.batch_norm(name="bn2")(y, train)
    return ops.act(y + _shortcut(ops, x, y.shape[-1], self.strides, train), "relu")


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

  ops: Ops
  features: int
  strides: int = 1

  expansion = 4

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops = self.ops
    y = ops.conv(self.features, 1, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(self.features, 3, self.strides, name="conv2")(y)
    y = ops.act(ops.batch_norm(name="bn2")(y, train), "relu")
    y = ops.conv(self.features * self.expansion, 1, name="conv3")(y)
    y = ops.batch_norm(name="bn3")(y, train)
    return ops.act(y + _shortcut(ops, x, y.shape[-1], self.strides, train), "relu")


def _shortcut(ops: Ops, x: Array, features: int, strides: int, train: bool) -> Array:
  if strides == 1 and x.shape[-1] == features:
    return x
  x = ops.conv(features, 1, strides, name="downsample_conv")(x)
  return ops.batch_norm(name="downsample_bn")(x, train)


_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(ImageModel):
  """A residual network.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits.
    block: 'basic' or 'bottleneck'.
    stages: Blocks of each stage; each stage after the first halves the resolution.
    width: Channels of the first stage.
    small_inputs: A 3x3 stem without stride or pooling (CIFAR).
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  block: str = "basic"
  stages: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  small_inputs: bool = False
  image_size: int = 224

  input_map = "conv1"
  head = "head"
  norm_eps = 1e-5

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes]."""
    ops = self.ops
    ops.check_encoded(x)
    if self.block not in _BLOCKS:
      raise unknown_name("block", self.block, _BLOCKS)
    x = ops.conv(self.width, *((3, 1) if self.small_inputs else (7, 2)), name="conv1")(x)
    x = ops.act(ops.batch_norm(name="bn1")(x, train), "relu")
    if not self.small_inputs:
      x = ops.stem_pool(x)
    for i, depth in enumerate(self.stages):
      for j in range(depth):
        strides = 2 if i > 0 and j == 0 else 1
        block = _BLOCKS[self.block]
        x = block(ops, self.width * 2**i, strides, name=f"layer{i + 1}_{j}")(x, train)
    return ops.readout(ops.classifier(self.num_classes, name="head"), x)


def _cifar(blocks: int) -> dict:
  return {
    "stages": (blocks,) * 3,
    "width": 16,
    "small_inputs": True,
    "image_size": 32,
    "num_classes": 10,
  }


VARIANTS = {
  "resnet18": {},
  "resnet34": {"stages": (3, 4, 6, 3)},
  "resnet50": {"block": "bottleneck", "stages": (3, 4, 6, 3)},
  "resnet101": {"block": "bottleneck", "stages": (3, 4, 23, 3)},
  "resnet152": {"block": "bottleneck", "stages": (3, 8, 36, 3)},
  "resnet20": _cifar(3),
  "resnet32": _cifar(5),
  "resnet44": _cifar(7),
  "resnet56": _cifar(9),
  # For tests and the quickstart.
  "resnet8": _cifar(1),
  "resnet_tiny": {"stages": (1, 1), "width": 8, "image_size": 32, "num_classes": 10},
  "resnet_tiny_bottleneck": {
    "block": "bottleneck",
    "stages": (1, 1),
    "width": 8,
    "image_size": 32,
    "num_classes": 10,
  },
}

"""ResNets (arXiv 1512.03385), ResNeXts (1611.05431) and wide ResNets (1605.07146).

For ImageNet as in torchvision, and for CIFAR.

B-cos v2 and B-cosification differ from torchvision's networks only in what their ops choose:
six input channels, average pooling, no ReLU (v2), and a head that comes before the pooling.
"""

from __future__ import annotations

from flax import linen as nn
import jax

from ..errors import InputError, unknown_name
from ..layers import drop_path, drop_rates
from ..ops import Ops
from .base import ImageModel
from .registry import register

Array = jax.Array


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  ops: Ops
  features: int
  strides: int = 1
  groups: int = 1
  width_per_group: int = 64
  drop_path: float = 0.0

  expansion = 1

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops = self.ops
    if (self.groups, self.width_per_group) != (1, 64):
      raise InputError(
        f"A basic block got groups={self.groups} and width_per_group={self.width_per_group}, "
        "expected 1 and 64.",
        "Use block='bottleneck'.",
      )
    y = ops.conv(self.features, 3, self.strides, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(self.features, 3, name="conv2")(y)
    y = drop_path(self, ops.batch_norm(name="bn2")(y, train), self.drop_path, train)
    return ops.act(y + _shortcut(ops, x, y.shape[-1], self.strides, train), "relu")


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

  ops: Ops
  features: int
  strides: int = 1
  groups: int = 1
  width_per_group: int = 64
  drop_path: float = 0.0

  expansion = 4

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops = self.ops
    width = self.features * self.width_per_group // 64 * self.groups
    y = ops.conv(width, 1, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(width, 3, self.strides, groups=self.groups, name="conv2")(y)
    y = ops.act(ops.batch_norm(name="bn2")(y, train), "relu")
    y = ops.conv(self.features * self.expansion, 1, name="conv3")(y)
    y = drop_path(self, ops.batch_norm(name="bn3")(y, train), self.drop_path, train)
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
    num_classes: Number of logits; 0 for pooled features instead.
    block: 'basic' or 'bottleneck'.
    stages: Blocks of each stage; each stage after the first halves the resolution.
    width: Channels of the stem, and of the first stage's 3x3 convolutions if not of `widths`.
    widths: Channels of each stage's 3x3 convolutions; none given, they double at each stage.
    groups: Groups of the 3x3 convolutions of bottlenecks (ResNeXt).
    width_per_group: Channels of each group in a stage that would have 64 channels without groups.
    drop_path: Stochastic depth while training: the rate of the last block, rising from 0.
    small_inputs: A 3x3 stem without stride or pooling (CIFAR).
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  block: str = "basic"
  stages: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  widths: tuple[int, ...] = ()
  groups: int = 1
  width_per_group: int = 64
  drop_path: float = 0.0
  small_inputs: bool = False
  image_size: int = 224

  input_map = "conv1"
  head = "head"
  norm_eps = 1e-5

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
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, D]. With `train` and a `drop_path`, `dropout` is drawn from.
    """
    ops = self.ops
    ops.check_encoded(x)
    if self.block not in _BLOCKS:
      raise unknown_name("block", self.block, _BLOCKS)
    x = ops.conv(self.width, *((3, 1) if self.small_inputs else (7, 2)), name="conv1")(x)
    x = ops.act(ops.batch_norm(name="bn1")(x, train), "relu")
    if not self.small_inputs:
      x = ops.spatial_pool(x)
    x = self._stages(x, train)
    if not self.num_classes:
      return ops.average(lambda features: features, x)
    return ops.readout(ops.classifier(self.num_classes, name="head"), x)

  def _stages(self, x: Array, train: bool) -> Array:
    widths = self.widths or [self.width * 2**i for i in range(len(self.stages))]
    if len(widths) != len(self.stages):
      raise InputError(
        f"widths has {len(widths)} entries for {len(self.stages)} stages.", "Give one per stage."
      )
    rates = iter(drop_rates(self.drop_path, sum(self.stages)))
    for i, depth in enumerate(self.stages):
      for j in range(depth):
        x = self.ops.block(_BLOCKS[self.block])(
          self.ops,
          widths[i],
          2 if i > 0 and j == 0 else 1,
          self.groups,
          self.width_per_group,
          next(rates),
          name=f"layer{i + 1}_{j}",
        )(x, train)
    return x


def _cifar(blocks: int) -> dict:
  return {
    "stages": (blocks,) * 3,
    "width": 16,
    "small_inputs": True,
    "image_size": 32,
    "num_classes": 10,
  }


_50 = {"block": "bottleneck", "stages": (3, 4, 6, 3)}
_101 = {"block": "bottleneck", "stages": (3, 4, 23, 3)}
_152 = {"block": "bottleneck", "stages": (3, 8, 36, 3)}

VARIANTS = {
  "resnet18": {},
  "resnet34": {"stages": (3, 4, 6, 3)},
  "resnet50": _50,
  "resnet101": _101,
  "resnet152": _152,
  "resnext50_32x4d": {**_50, "groups": 32, "width_per_group": 4},
  "resnext101_32x8d": {**_101, "groups": 32, "width_per_group": 8},
  "resnext101_64x4d": {**_101, "groups": 64, "width_per_group": 4},
  "wide_resnet50_2": {**_50, "width_per_group": 128},
  "wide_resnet101_2": {**_101, "width_per_group": 128},
  # As above, and trained by B-cos v2's recipe of 600 epochs, which drops blocks.
  "resnet50_long": {**_50, "drop_path": 0.1},
  "resnet152_long": {**_152, "drop_path": 0.1},
  "resnet20": _cifar(3),
  "resnet32": _cifar(5),
  "resnet44": _cifar(7),
  "resnet56": _cifar(9),
  # For the quickstart.
  "resnet8": _cifar(1),
}

TEST_VARIANTS = {
  "resnet_tiny": {"stages": (1, 1), "width": 8, "image_size": 32, "num_classes": 10},
  "resnet_tiny_bottleneck": {
    "block": "bottleneck",
    "stages": (1, 1),
    "width": 8,
    "image_size": 32,
    "num_classes": 10,
  },
  "resnext_tiny": {
    "block": "bottleneck",
    "stages": (1, 1),
    "width": 16,
    "groups": 4,
    "width_per_group": 16,
    "drop_path": 0.1,
    "image_size": 32,
    "num_classes": 10,
  },
}

register(
  ResNet,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.resnet:KEYS",
  readers="bcos_jax.convert.architectures.resnet:READERS",
)

"""ResNets (arXiv 1512.03385), ResNeXts (1611.05431) and wide ResNets (1605.07146).

For ImageNet as in torchvision, and for CIFAR. Variants of timm: ResNet-D (arXiv 1812.01187),
anti-aliased (1904.11486), with channel attention (SE, 1709.01507; ECA, 1910.03151), ResNet-RS
(2103.07579).

B-cos v2 and B-cosification differ from torchvision's networks only in what their ops choose:
six input channels, average pooling, no ReLU (v2), and a head that comes before the pooling.
"""

from __future__ import annotations

import dataclasses

from flax import linen as nn
import jax

from ..errors import InputError, unknown_name
from ..layers import avg_pool, blur_pool, covering_avg_pool, drop_path, drop_rates
from ..ops import Ops
from .base import ImageModel
from .blocks.channels import CHANNEL_ATTENTIONS, EfficientAttention, SqueezeExcite, squeezed
from .registry import register
from .resnet_variants import TEST_VARIANTS, VARIANTS

Array = jax.Array


DOWNSAMPLINGS = ("stride", "average", "blur")


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the blocks of a network have in common; fields as in `ResNet`."""

  groups: int = 1
  width_per_group: int = 64
  average_shortcut: bool = False
  downsampling: str = "stride"
  channel_attention: str = "none"
  squeeze_ratio: float = 1 / 16


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut."""

  ops: Ops
  features: int
  strides: int = 1
  kind: Kind = Kind()
  drop_path: float = 0.0

  expansion = 1

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops, kind = self.ops, self.kind
    if (kind.groups, kind.width_per_group) != (1, 64):
      raise InputError(
        f"A basic block got groups={kind.groups} and width_per_group={kind.width_per_group}, "
        "expected 1 and 64.",
        "Use block='bottleneck'.",
      )
    y = ops.conv(self.features, 3, _conv_strides(kind, self.strides), name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(self.features, 3, name="conv2")(_downsampled(kind, y, self.strides))
    y = _weighed(ops, kind, ops.batch_norm(name="bn2")(y, train))
    y = drop_path(self, y, self.drop_path, train)
    return ops.act(y + _shortcut(ops, kind, x, y.shape[-1], self.strides, train), "relu")


class Bottleneck(nn.Module):
  """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

  ops: Ops
  features: int
  strides: int = 1
  kind: Kind = Kind()
  drop_path: float = 0.0

  expansion = 4

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops, kind = self.ops, self.kind
    width = self.features * kind.width_per_group // 64 * kind.groups
    y = ops.conv(width, 1, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    strides = _conv_strides(kind, self.strides)
    y = ops.conv(width, 3, strides, groups=kind.groups, name="conv2")(y)
    y = ops.act(ops.batch_norm(name="bn2")(y, train), "relu")
    y = _downsampled(kind, y, self.strides)
    y = ops.conv(self.features * self.expansion, 1, name="conv3")(y)
    y = _weighed(ops, kind, ops.batch_norm(name="bn3")(y, train))
    y = drop_path(self, y, self.drop_path, train)
    return ops.act(y + _shortcut(ops, kind, x, y.shape[-1], self.strides, train), "relu")


def _conv_strides(kind: Kind, strides: int) -> int:
  return strides if kind.downsampling == "stride" else 1


def _downsampled(kind: Kind, x: Array, strides: int) -> Array:
  if strides == 1 or kind.downsampling == "stride":
    return x
  return blur_pool(x) if kind.downsampling == "blur" else avg_pool(x, 2, 2, 0)


def _weighed(ops: Ops, kind: Kind, x: Array) -> Array:
  if kind.channel_attention == "squeeze_excite":
    return SqueezeExcite(ops, squeezed(x.shape[-1], kind.squeeze_ratio), name="se")(x)
  return EfficientAttention(ops, name="se")(x) if kind.channel_attention == "efficient" else x


def _shortcut(ops: Ops, kind: Kind, x: Array, features: int, strides: int, train: bool) -> Array:
  if strides == 1 and x.shape[-1] == features:
    return x
  if kind.average_shortcut and strides > 1:
    x, strides = covering_avg_pool(x, strides), 1
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
    deep_stem: Channels of the 3x3 convolutions in place of the 7x7 one, of which the first has the
      stride (ResNet-C, -D, -T); () for one of `width` channels.
    stem_pool: 'max', pooling by the maximum, which B-cosification replaces, or 'conv', a
      convolution with norm and ReLU (ResNet-RS).
    average_shortcut: Whether shortcuts average before their convolution, which then has no stride
      (ResNet-D).
    downsampling: What halves the resolution within blocks, and in the stem: 'stride', or behind a
      convolution without stride 'average' of 2x2 positions or a 'blur' of 3x3 (anti-aliased).
      Both are linear and remain as they are in a B-cos network; the maximum before a blur in the
      stem is pooled like that of other stems.
    channel_attention: A gate for each channel before the shortcut, a dynamic weight: 'none',
      'squeeze_excite' or 'efficient' (ECA).
    squeeze_ratio: Share of the channels between the two maps of a `squeeze_excite`.
    small_inputs: A 3x3 stem without stride or pooling (CIFAR).
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
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
  deep_stem: tuple[int, ...] = ()
  stem_pool: str = "max"
  average_shortcut: bool = False
  downsampling: str = "stride"
  channel_attention: str = "none"
  squeeze_ratio: float = 1 / 16
  small_inputs: bool = False
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  head = "head"
  norm_eps = 1e-5

  @property
  def input_map(self) -> str:
    """The first convolution."""
    return "conv1_0" if self.deep_stem else "conv1"

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
    self._check()
    x = self._stem(x, train)
    x = self._stages(x, train)
    return self.classified(x)

  def _check(self):
    for field, known in (
      ("block", _BLOCKS),
      ("stem_pool", ("max", "conv")),
      ("downsampling", DOWNSAMPLINGS),
      ("channel_attention", CHANNEL_ATTENTIONS),
    ):
      if getattr(self, field) not in known:
        raise unknown_name(field, getattr(self, field), known)

  def _stem(self, x: Array, train: bool) -> Array:
    ops = self.ops
    for i, features in enumerate(self.deep_stem):
      x = ops.conv(features, 3, 1 if i else 2, name=f"conv1_{i}")(x)
      if i + 1 < len(self.deep_stem):
        x = ops.act(ops.batch_norm(name=f"bn1_{i}")(x, train), "relu")
    if not self.deep_stem:
      x = ops.conv(self.width, *((3, 1) if self.small_inputs else (7, 2)), name="conv1")(x)
    x = ops.act(ops.batch_norm(name="bn1")(x, train), "relu")
    if self.small_inputs:
      return x
    if self.stem_pool == "conv":
      strides = 2 if self.downsampling == "stride" else 1
      x = ops.conv(x.shape[-1], 3, strides, name="pool_conv")(x)
      x = x if strides == 2 else _downsampled(self._kind, x, 2)
      return ops.act(ops.batch_norm(name="pool_bn")(x, train), "relu")
    if self.downsampling == "blur":
      return blur_pool(ops.spatial_pool(x, 3, 1, 1))
    return avg_pool(x, 2, 2, 0) if self.downsampling == "average" else ops.spatial_pool(x)

  @property
  def _kind(self) -> Kind:
    return Kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Kind)})

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
          self._kind,
          next(rates),
          name=f"layer{i + 1}_{j}",
        )(x, train)
    return x


register(
  ResNet,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.resnet:KEYS",
  readers="bcos_jax.convert.architectures.resnet:READERS",
  assumed=("downsampling",),
)

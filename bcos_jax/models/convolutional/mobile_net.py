"""Networks of depthwise convolutions between two maps of each position.

MobileNetV2 (arXiv 1801.04381), MNASNet (1807.11626), MobileNetV3 (1905.02244), EfficientNet
(1905.11946) and EfficientNetV2 (2104.00298), as in torchvision and timm.
"""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ...errors import InputError, unknown_name
from ...layers import drop_path, drop_rates, global_pool
from ...ops import Ops
from ..base import ImageModel
from ..blocks.channels import SqueezeExcite
from ..registry import register
from .mobile_net_variants import TEST_VARIANTS, VARIANTS

Array = jax.Array
Block = tuple[str, int, int, int, int, int, str]

KINDS = ("inverted", "separable", "fused", "plain")
PADDINGS = ("symmetric", "tensorflow")


class MobileBlock(nn.Module):
  """One block of a `MobileNet`; `block` as there, other fields too."""

  ops: Ops
  block: Block
  padding: str
  squeeze_activation: str
  squeeze_gate: str
  norm_eps: float
  drop_path: float = 0.0

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps [N, H, W, C] to [N, H / strides, W / strides, features]."""
    kind, kernel, strides, hidden, features, squeeze, activation = self.block
    ops, y = self.ops, x

    def normed(y, name, activation=None):
      y = ops.batch_norm(name=f"{name}_bn", eps=self.norm_eps)(y, train)
      return y if activation is None else ops.act(y, activation)

    if kind == "inverted":
      y = normed(ops.conv(hidden, 1, name="expand")(y), "expand", activation)
    if kind in ("fused", "plain"):
      name, width = ("expand", hidden) if kind == "fused" else ("conv", features)
      y = padded_conv(ops, y, width, kernel, strides, self.padding, name=name)
      y = normed(y, name, activation)
    else:
      width = y.shape[-1]
      groups = {"groups": width, "name": "depthwise"}
      y = padded_conv(ops, y, width, kernel, strides, self.padding, **groups)
      y = normed(y, "depthwise", activation)
    if squeeze:
      fields = (self.squeeze_activation, self.squeeze_gate)
      y = SqueezeExcite(ops, squeeze, *fields, name="se")(y)
    if kind != "plain":
      y = normed(ops.conv(features, 1, name="project")(y), "project")
    if strides > 1 or x.shape[-1] != features:
      return y
    return x + drop_path(self, y, self.drop_path, train)


def padded_conv(
  ops: Ops,
  x: Array,
  features: int,
  kernel: int,
  strides: int,
  padding: str,
  *,
  groups: int = 1,
  name: str,
) -> Array:
  """A convolution that pads as PyTorch or, 'tensorflow', with the odd pixel behind."""
  if padding == "symmetric" or strides == 1:
    return ops.conv(features, kernel, strides, groups=groups, name=name)(x)
  pads = [max((-(-n // strides) - 1) * strides + kernel - n, 0) for n in x.shape[1:3]]
  x = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in pads), (0, 0)))
  return ops.conv(features, kernel, strides, padding=0, groups=groups, name=name)(x)


class MobileNet(ImageModel):
  """A network of blocks with few weights.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled features instead.
    stem: Channels of the first convolution, 3x3 with stride 2.
    stages: Blocks of each stage. A block is its kind, the side of its convolution's window, its
      stride, its hidden channels, its channels, those between the maps of its squeeze-and-excite (0
      for none), and its activation, a name of `functional.GATES`. Kinds: 'inverted', a map of each
      position that widens, a depthwise convolution and a map that narrows; 'separable', without
      the first; 'fused', a convolution and a map that narrows; 'plain', a convolution alone. A
      block that keeps its shape is added to its input.
    features: Channels of the 1x1 convolution after the blocks, with norm; 0 for none.
    hidden: Channels of a further map after the pooling (MobileNetV3); 0 for none.
    activation: Of all that is not in blocks.
    squeeze_activation: Between the maps of a squeeze-and-excite.
    squeeze_gate: Behind them: 'sigmoid' or 'hard_sigmoid'.
    padding: Where the stride is 2: 'symmetric', or 'tensorflow', whose odd pixel is behind.
    norm_eps: Epsilon of the norms.
    drop_path: Stochastic depth while training: the rate of the last block, rising from 0.
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  stem: int = 32
  stages: tuple[tuple[Block, ...], ...] = ()
  features: int = 1280
  hidden: int = 0
  activation: str = "relu"
  squeeze_activation: str = "relu"
  squeeze_gate: str = "sigmoid"
  padding: str = "symmetric"
  norm_eps: float = 1e-5
  drop_path: float = 0.0
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  input_map = "stem"
  head = "head"

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The blocks."""
    return tuple(f"stage{i}_{j}" for i, stage in enumerate(self.stages) for j in range(len(stage)))

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
    x = padded_conv(ops, x, self.stem, 3, 2, self.padding, name="stem")
    x = self._normed(x, "stem_bn", train)
    x = self._blocks(x, train)
    if self.features:
      x = self._normed(ops.conv(self.features, 1, name="conv_head")(x), "conv_head_bn", train)
    x = global_pool(x, self.global_pool)
    hidden = ops.classifier(self.hidden, name="hidden") if self.hidden else None

    def features(y):
      return y if hidden is None else ops.act(hidden(y), self.activation)

    if not self.num_classes:
      return ops.average(features, x)
    head = ops.classifier(self.num_classes, name="head")
    return ops.readout(lambda y: head(features(y)), x)

  def _normed(self, x: Array, name: str, train: bool) -> Array:
    norm = self.ops.batch_norm(name=name, eps=self.norm_eps)
    return self.ops.act(norm(x, train), self.activation)

  def _blocks(self, x: Array, train: bool) -> Array:
    blocks = [block for stage in self.stages for block in stage]
    rates = drop_rates(self.drop_path, len(blocks))
    for block, path, rate in zip(blocks, self.block_paths, rates, strict=True):
      x = self.ops.block(MobileBlock)(
        self.ops,
        block,
        self.padding,
        self.squeeze_activation,
        self.squeeze_gate,
        self.norm_eps,
        rate,
        name=path,
      )(x, train)
    return x

  def _check(self):
    if self.padding not in PADDINGS:
      raise unknown_name("padding", self.padding, PADDINGS)
    if not self.stages or not all(self.stages):
      raise InputError("A stage has no blocks.", "Give one block at least to each stage.")
    for block in (block for stage in self.stages for block in stage):
      if len(block) != 7 or block[0] not in KINDS:
        raise InputError(
          f"The block {block!r} is of no known kind.",
          f"Give kind ({', '.join(KINDS)}), window, stride, hidden channels, channels, squeezed "
          "channels and activation.",
        )


register(
  MobileNet,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.mobile_net:KEYS",
  readers="bcos_jax.convert.architectures.mobile_net:READERS",
)

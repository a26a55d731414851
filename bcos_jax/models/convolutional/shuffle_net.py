"""ShuffleNetV2 (arXiv 1807.11164), as in torchvision."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ...errors import InputError
from ...ops import Ops
from ..base import ImageModel
from ..registry import register

Array = jax.Array


class ShuffleBlock(nn.Module):
  """Half of the channels pass as they are, half a branch; then the halves take turns.

  With a stride, all channels pass both branches.
  """

  ops: Ops
  features: int
  strides: int

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps [N, H, W, C] to [N, H / strides, W / strides, features]."""
    ops, half = self.ops, self.features // 2

    def normed(y, name, activation):
      y = ops.batch_norm(name=f"{name}_bn")(y, train)
      return ops.act(y, "relu") if activation else y

    def depthwise(y, name):
      width = y.shape[-1]
      return normed(ops.conv(width, 3, self.strides, groups=width, name=name)(y), name, False)

    if self.strides > 1:
      kept, y = depthwise(x, "kept_depthwise"), x
      kept = normed(ops.conv(half, 1, name="kept_conv")(kept), "kept_conv", True)
    else:
      kept, y = jnp.split(x, 2, axis=-1)
    y = normed(ops.conv(half, 1, name="conv1")(y), "conv1", True)
    y = depthwise(y, "depthwise")
    y = normed(ops.conv(half, 1, name="conv2")(y), "conv2", True)
    return jnp.stack([kept, y], axis=-1).reshape(*y.shape[:-1], 2 * half)


class ShuffleNet(ImageModel):
  """A network of branches that exchange their channels.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled features instead.
    stem: Channels of the first convolution.
    depths: Blocks of each stage; each stage halves the resolution.
    widths: Channels of each stage, even numbers.
    features: Channels of the last convolution.
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  stem: int = 24
  depths: tuple[int, ...] = (4, 8, 4)
  widths: tuple[int, ...] = (116, 232, 464)
  features: int = 1024
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  input_map = "stem"
  head = "head"
  norm_eps = 1e-5

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The blocks; stages are counted from 2, as in the paper."""
    return tuple(f"stage{i}_{j}" for i, depth in enumerate(self.depths, 2) for j in range(depth))

  @property
  def grad_cam_layer(self) -> str:
    """The last block."""
    return self.block_paths[-1]

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, D].
    """
    ops = self.ops
    ops.check_encoded(x)
    if len(self.depths) != len(self.widths) or any(width % 2 for width in self.widths):
      raise InputError(
        f"depths is {self.depths}, widths {self.widths}.", "Give one even width per stage."
      )
    x = ops.conv(self.stem, 3, 2, name="stem")(x)
    x = ops.spatial_pool(ops.act(ops.batch_norm(name="stem_bn")(x, train), "relu"))
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 2):
      for j in range(depth):
        x = ops.block(ShuffleBlock)(ops, width, 1 if j else 2, name=f"stage{i}_{j}")(x, train)
    x = ops.conv(self.features, 1, name="last")(x)
    x = ops.act(ops.batch_norm(name="last_bn")(x, train), "relu")
    return self.classified(x)


VARIANTS = {
  "shufflenet_v2_x0_5": {"widths": (48, 96, 192)},
  "shufflenet_v2_x1_0": {},
  "shufflenet_v2_x1_5": {"widths": (176, 352, 704)},
  "shufflenet_v2_x2_0": {"widths": (244, 488, 976), "features": 2048},
}

register(
  ShuffleNet,
  VARIANTS,
  test_variants={
    "shufflenet_tiny": {
      "stem": 8,
      "depths": (1, 2),
      "widths": (12, 16),
      "features": 24,
      "image_size": 32,
      "num_classes": 10,
    }
  },
  keys="bcos_jax.convert.architectures.early:SHUFFLE_NET",
)

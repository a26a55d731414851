"""SqueezeNet (arXiv 1602.07360), as in torchvision."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ...ops import Ops
from ..base import ImageModel
from ..registry import register

Array = jax.Array
Row = tuple[int, ...]
POOL: Row = ()


class Fire(nn.Module):
  """A map to few channels, then a 1x1 and a 3x3 convolution side by side."""

  ops: Ops
  squeeze: int
  expand1: int
  expand3: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to [N, H, W, expand1 + expand3]."""
    ops = self.ops
    x = ops.act(ops.conv(self.squeeze, 1, use_bias=True, name="squeeze")(x), "relu")
    narrow = ops.act(ops.conv(self.expand1, 1, use_bias=True, name="expand1")(x), "relu")
    wide = ops.act(ops.conv(self.expand3, 3, use_bias=True, name="expand3")(x), "relu")
    return jnp.concatenate([narrow, wide], axis=-1)


class SqueezeNet(ImageModel):
  """A convolution, modules of narrow and wide maps, and a classifier at every position.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled features instead.
    stem: Channels and side of the first convolution, which has the stride 2.
    rows: Behind it: a pooling, (), or the channels of a module's squeezing map and of its 1x1 and
      3x3 convolutions.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  stem: tuple[int, int] = (64, 3)
  rows: tuple[Row, ...] = ()
  image_size: int | tuple[int, int] = 224

  input_map = "stem"
  head = "head"
  norm_eps = 1e-5

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The modules."""
    return tuple(f"fire{i}" for i, row in enumerate(self.rows) if row)

  @property
  def grad_cam_layer(self) -> str:
    """The last module."""
    return self.block_paths[-1]

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, D]. The ReLU behind the classifier keeps logits from being
    negative, as published.
    """
    ops = self.ops
    ops.check_encoded(x)
    features, size = self.stem
    x = ops.conv(features, size, 2, padding=0, use_bias=True, name="stem")(x)
    x = ops.act(x, "relu")
    for i, row in enumerate(self.rows):
      x = ops.block(Fire)(ops, *row, name=f"fire{i}")(x) if row else _pooled(ops, x)
    if not self.num_classes:
      return ops.average(lambda y: y, x)
    x = ops.act(ops.classifier(self.num_classes, name="head")(x), "relu")
    return ops.readout(lambda y: y, x)


def _pooled(ops: Ops, x: Array) -> Array:
  """Pools windows of 3x3 at stride 2, the last ones also where they reach over the border.

  What they find there is zero, which no ReLU's result is below.
  """
  over = [(-(n - 3)) % 2 for n in x.shape[1:3]]
  x = jnp.pad(x, ((0, 0), *((0, n) for n in over), (0, 0)))
  return ops.spatial_pool(x, 3, 2, 0)


_SIZES = ((16, 64, 64), (32, 128, 128), (48, 192, 192), (64, 256, 256))
_A, _B, _C, _D = _SIZES

VARIANTS = {
  "squeezenet1_0": {"stem": (96, 7), "rows": (POOL, _A, _A, _B, POOL, _B, _C, _C, _D, POOL, _D)},
  "squeezenet1_1": {"stem": (64, 3), "rows": (POOL, _A, _A, POOL, _B, _B, POOL, _C, _C, _D, _D)},
}

register(
  SqueezeNet,
  VARIANTS,
  test_variants={
    "squeezenet_tiny": {
      "stem": (8, 3),
      "rows": (POOL, (4, 8, 8), POOL, (4, 8, 12)),
      "image_size": 32,
      "num_classes": 10,
    }
  },
  keys="bcos_jax.convert.architectures.early:SQUEEZE_NET",
)

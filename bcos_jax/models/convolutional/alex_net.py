"""AlexNet in its form of one tower (arXiv 1404.5997), as in torchvision."""

from __future__ import annotations

from flax import linen as nn
import jax

from ...ops import Ops
from ..base import ImageModel
from ..registry import register

Array = jax.Array

Conv = tuple[int, int, int, int, bool]
_CONVS: tuple[Conv, ...] = (
  (64, 11, 4, 2, True),
  (192, 5, 1, 2, True),
  (384, 3, 1, 1, False),
  (256, 3, 1, 1, False),
  (256, 3, 1, 1, True),
)


class AlexNet(ImageModel):
  """Convolutions, some of them pooled, and three dense maps.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for the features after the second dense map instead.
    convs: Of each convolution the channels, the side of the window, the stride, the padding, and
      whether a pooling of 3x3 at stride 2 follows.
    hidden: Channels of the dense maps.
    window: Side of the window of positions that the first dense map reads.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  convs: tuple[Conv, ...] = _CONVS
  hidden: int = 4096
  window: int = 6
  image_size: int | tuple[int, int] = 224

  input_map = "conv1"
  head = "head"
  norm_eps = 1e-5

  @property
  def grad_cam_layer(self) -> str:
    """The last convolution."""
    return f"conv{len(self.convs)}"

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, hidden].
    """
    ops = self.ops
    ops.check_encoded(x)
    for i, (width, size, strides, padding, pooled) in enumerate(self.convs, 1):
      conv = ops.conv(width, size, strides, padding=padding, use_bias=True, name=f"conv{i}")
      x = ops.act(conv(x), "relu")
      x = ops.spatial_pool(x, 3, 2, 0) if pooled else x
    x = ops.act(ops.window_head(self.hidden, self.window, name="fc1")(x), "relu")
    x = ops.act(ops.conv(self.hidden, 1, use_bias=True, name="fc2")(x), "relu")
    if not self.num_classes:
      return ops.average(lambda features: features, x)
    return ops.readout(ops.classifier(self.num_classes, name="head"), x)


register(
  AlexNet,
  {"alexnet": {}},
  test_variants={
    "alexnet_tiny": {
      "convs": ((8, 5, 2, 2, True), (12, 3, 1, 1, False), (8, 3, 1, 1, True)),
      "hidden": 16,
      "window": 2,
      "image_size": 32,
      "num_classes": 10,
    }
  },
  keys="bcos_jax.convert.architectures.early:ALEX_NET",
)

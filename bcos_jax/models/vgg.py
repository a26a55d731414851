"""VGG networks (arXiv 1409.1556), as in torchvision and B-cos v2.

B-cos v2's classifier is torchvision's with another order: torchvision averages the features down
to 7x7 positions and maps all of them at once; B-cos v2 slides the same map over the padded
features and averages the logits of all positions.
"""

from __future__ import annotations

from flax import linen as nn
import jax

from ..ops import Ops
from .base import ImageModel
from .registry import register

Array = jax.Array


class VGG(ImageModel):
  """Stages of 3x3 convolutions, each followed by pooling, and three dense maps.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for the features after the second dense map instead.
    stages: Convolutions of each stage.
    widths: Channels of each stage.
    batch_norm: Whether a batch norm follows each convolution.
    hidden: Channels of the dense maps.
    window: Side of the window of positions that the first dense map reads.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  stages: tuple[int, ...] = (1, 1, 2, 2, 2)
  widths: tuple[int, ...] = (64, 128, 256, 512, 512)
  batch_norm: bool = False
  hidden: int = 4096
  window: int = 7
  image_size: int | tuple[int, int] = 224

  input_map = "conv1_1"
  head = "head"
  norm_eps = 1e-5

  @property
  def grad_cam_layer(self) -> str:
    """The last convolution."""
    return f"conv{len(self.stages)}_{self.stages[-1]}"

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, hidden].
    """
    ops = self.ops
    ops.check_encoded(x)
    for i, (depth, width) in enumerate(zip(self.stages, self.widths, strict=True), 1):
      for j in range(1, depth + 1):
        x = ops.conv(width, 3, use_bias=True, name=f"conv{i}_{j}")(x)
        if self.batch_norm:
          x = ops.batch_norm(name=f"norm{i}_{j}")(x, train)
        x = ops.act(x, "relu")
      x = ops.spatial_pool(x, 2, 2, 0)
    x = ops.act(ops.window_head(self.hidden, self.window, name="fc1")(x), "relu")
    x = ops.act(ops.conv(self.hidden, 1, use_bias=True, name="fc2")(x), "relu")
    if not self.num_classes:
      return ops.average(lambda features: features, x)
    return ops.readout(ops.classifier(self.num_classes, name="head"), x)


_STAGES = {
  "11": (1, 1, 2, 2, 2),
  "13": (2, 2, 2, 2, 2),
  "16": (2, 2, 3, 3, 3),
  "19": (2, 2, 4, 4, 4),
}

VARIANTS = {
  **{f"vgg{size}": {"stages": stages} for size, stages in _STAGES.items()},
  **{f"vgg{size}_bn": {"stages": stages, "batch_norm": True} for size, stages in _STAGES.items()},
  # B-cos v2's names, for its uncentred batch norm, which its ops choose.
  **{f"vgg{size}_bnu": {"stages": stages, "batch_norm": True} for size, stages in _STAGES.items()},
}

TEST_VARIANTS = {
  "vgg_tiny": {
    "stages": (1, 2),
    "widths": (8, 16),
    "hidden": 24,
    "window": 3,
    "image_size": 32,
    "num_classes": 10,
  },
  "vgg_tiny_bn": {
    "stages": (1, 2),
    "widths": (8, 16),
    "batch_norm": True,
    "hidden": 24,
    "window": 3,
    "image_size": 32,
    "num_classes": 10,
  },
}

register(
  VGG,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.vgg:KEYS",
)

"""RegNets X and Y (arXiv 2003.13678), as in torchvision, timm and Hugging Face."""

from __future__ import annotations

from flax import linen as nn
import jax

from ...errors import InputError
from ...layers import drop_path, drop_rates
from ...ops import Ops
from ..base import ImageModel
from ..blocks.channels import SqueezeExcite
from ..registry import register

Array = jax.Array


class RegNetBlock(nn.Module):
  """1x1, grouped 3x3 (with the stride) and 1x1 convolutions of one width, and a shortcut."""

  ops: Ops
  features: int
  strides: int
  group_width: int
  squeeze: int
  drop_path: float = 0.0

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps [N, H, W, C] to [N, H / strides, W / strides, features]."""
    ops, width = self.ops, self.features
    groups = max(1, width // self.group_width)
    y = ops.conv(width, 1, name="conv1")(x)
    y = ops.act(ops.batch_norm(name="bn1")(y, train), "relu")
    y = ops.conv(width, 3, self.strides, groups=groups, name="conv2")(y)
    y = ops.act(ops.batch_norm(name="bn2")(y, train), "relu")
    if self.squeeze:
      y = SqueezeExcite(ops, self.squeeze, name="se")(y)
    y = ops.batch_norm(name="bn3")(ops.conv(width, 1, name="conv3")(y), train)
    y = drop_path(self, y, self.drop_path, train)
    if self.strides > 1 or x.shape[-1] != width:
      x = ops.conv(width, 1, self.strides, name="downsample_conv")(x)
      x = ops.batch_norm(name="downsample_bn")(x, train)
    return ops.act(x + y, "relu")


class RegNet(ImageModel):
  """A residual network whose stages were found by narrowing down a space of designs.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled features instead.
    stem: Channels of the first convolution, 3x3 with stride 2.
    depths: Blocks of each stage; each stage halves the resolution.
    widths: Channels of each stage.
    group_width: Channels of each group of the 3x3 convolutions, at most those of the stage.
    squeeze_ratio: Channels between the maps of squeeze-and-excite, as a share of those that the
      block reads (Y); 0 for no squeeze-and-excite (X).
    drop_path: Stochastic depth while training: the rate of the last block, rising from 0.
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  stem: int = 32
  depths: tuple[int, ...] = (1, 2, 7, 12)
  widths: tuple[int, ...] = (32, 64, 160, 400)
  group_width: int = 16
  squeeze_ratio: float = 0.0
  drop_path: float = 0.0
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  input_map = "stem"
  head = "head"
  norm_eps = 1e-5

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The residual blocks."""
    return tuple(f"stage{i}_{j}" for i, depth in enumerate(self.depths) for j in range(depth))

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
    if len(self.depths) != len(self.widths):
      raise InputError(
        f"depths has {len(self.depths)} entries, widths {len(self.widths)}.", "Give one per stage."
      )
    x = ops.conv(self.stem, 3, 2, name="stem")(x)
    x = ops.act(ops.batch_norm(name="stem_bn")(x, train), "relu")
    rates = iter(drop_rates(self.drop_path, sum(self.depths)))
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
      group = min(self.group_width, width)
      for j in range(depth):
        squeeze = round(x.shape[-1] * self.squeeze_ratio)
        block = self.ops.block(RegNetBlock)(
          ops, width, 1 if j else 2, group, squeeze, next(rates), name=f"stage{i}_{j}"
        )
        x = block(x, train)
    return self.classified(x)


# Names in torchvision and in timm; depths, widths, channels of a group. Where timm rounds the
# widths otherwise, it has both, torchvision's with `_tv`.
_X = (
  ("", "regnetx_002", (1, 1, 4, 7), (24, 56, 152, 368), 8),
  ("", "regnetx_004", (1, 2, 7, 12), (32, 64, 160, 384), 16),
  ("regnet_x_400mf", "regnetx_004_tv", (1, 2, 7, 12), (32, 64, 160, 400), 16),
  ("", "regnetx_006", (1, 3, 5, 7), (48, 96, 240, 528), 24),
  ("regnet_x_800mf", "regnetx_008", (1, 3, 7, 5), (64, 128, 288, 672), 16),
  ("regnet_x_1_6gf", "regnetx_016", (2, 4, 10, 2), (72, 168, 408, 912), 24),
  ("regnet_x_3_2gf", "regnetx_032", (2, 6, 15, 2), (96, 192, 432, 1008), 48),
  ("", "regnetx_040", (2, 5, 14, 2), (80, 240, 560, 1360), 40),
  ("", "regnetx_064", (2, 4, 10, 1), (168, 392, 784, 1624), 56),
  ("regnet_x_8gf", "regnetx_080", (2, 5, 15, 1), (80, 240, 720, 1920), 120),
  ("", "regnetx_120", (2, 5, 11, 1), (224, 448, 896, 2240), 112),
  ("regnet_x_16gf", "regnetx_160", (2, 6, 13, 1), (256, 512, 896, 2048), 128),
  ("regnet_x_32gf", "regnetx_320", (2, 7, 13, 1), (336, 672, 1344, 2520), 168),
)
_Y = (
  ("", "regnety_002", (1, 1, 4, 7), (24, 56, 152, 368), 8),
  ("regnet_y_400mf", "regnety_004", (1, 3, 6, 6), (48, 104, 208, 440), 8),
  ("", "regnety_006", (1, 3, 7, 4), (48, 112, 256, 608), 16),
  ("", "regnety_008", (1, 3, 8, 2), (64, 128, 320, 768), 16),
  ("regnet_y_800mf", "regnety_008_tv", (1, 3, 8, 2), (64, 144, 320, 784), 16),
  ("regnet_y_1_6gf", "regnety_016", (2, 6, 17, 2), (48, 120, 336, 888), 24),
  ("regnet_y_3_2gf", "regnety_032", (2, 5, 13, 1), (72, 216, 576, 1512), 24),
  ("", "regnety_040", (2, 6, 12, 2), (128, 192, 512, 1088), 64),
  ("", "regnety_064", (2, 7, 14, 2), (144, 288, 576, 1296), 72),
  ("", "regnety_080", (2, 4, 10, 1), (168, 448, 896, 2016), 56),
  ("regnet_y_8gf", "regnety_080_tv", (2, 4, 10, 1), (224, 448, 896, 2016), 56),
  ("", "regnety_120", (2, 5, 11, 1), (224, 448, 896, 2240), 112),
  ("regnet_y_16gf", "regnety_160", (2, 4, 11, 1), (224, 448, 1232, 3024), 112),
  ("regnet_y_32gf", "regnety_320", (2, 5, 12, 1), (232, 696, 1392, 3712), 232),
  ("", "regnety_640", (2, 5, 12, 1), (328, 984, 1968, 4920), 328),
  ("regnet_y_128gf", "regnety_1280", (2, 7, 17, 1), (528, 1056, 2904, 7392), 264),
)

VARIANTS = {
  name: {"depths": depths, "widths": widths, "group_width": group, "squeeze_ratio": ratio}
  for ratio, rows in ((0.0, _X), (0.25, _Y))
  for *names, depths, widths, group in rows
  for name in names
  if name
}

TEST_VARIANTS = {
  "regnet_x_tiny": {
    "stem": 8,
    "depths": (1, 2),
    "widths": (8, 16),
    "group_width": 8,
    "image_size": 32,
    "num_classes": 10,
  },
  "regnet_y_tiny": {
    "stem": 8,
    "depths": (1, 2),
    "widths": (8, 16),
    "group_width": 8,
    "squeeze_ratio": 0.25,
    "image_size": 32,
    "num_classes": 10,
  },
}

register(
  RegNet,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.reg_net:KEYS",
  readers="bcos_jax.convert.architectures.reg_net:READERS",
)

"""ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808).

As in torchvision, timm, Hugging Face and B-cos v2. B-cos v2 has two kinds, which differ in what
normalises: each position over its channels, or the batch (`_bnu`).
"""

from __future__ import annotations

from collections.abc import Callable

from flax import linen as nn
import jax

from ..errors import unknown_name
from ..layers import drop_path, drop_rates, global_pool
from ..ops import Ops
from .base import ImageModel
from .registry import register

Array = jax.Array


def _norm(ops: Ops, kind: str, name: str, eps: float = 1e-6) -> Callable[..., Array]:
  if kind == "position":
    return ops.layer_norm(name=name, eps=eps)
  if kind == "batch":
    return ops.batch_norm(name=name, eps=ConvNeXt.norm_eps)
  raise unknown_name("norm", kind, ("position", "batch"))


class ConvNeXtBlock(nn.Module):
  """Depthwise convolution, norm, and two maps of each position with an activation between."""

  ops: Ops
  norm: str
  activation: str
  layer_scale: bool
  response_norm: bool
  drop_path: float

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    ops, width = self.ops, x.shape[-1]
    y = ops.conv(width, 7, groups=width, use_bias=True, name="dwconv")(x)
    y = _norm(ops, self.norm, "norm")(y, train)
    y = ops.act(ops.conv(4 * width, 1, use_bias=True, name="pwconv1")(y), self.activation)
    if self.response_norm:
      y = ops.response_norm(name="grn")(y)
    y = ops.conv(width, 1, use_bias=True, name="pwconv2")(y)
    if self.layer_scale:
      y = ops.layer_scale(1e-6, name="layer_scale")(y)
    return x + drop_path(self, y, self.drop_path, train)


class ConvNeXt(ImageModel):
  """A convolutional network in the manner of transformers.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for pooled, normalised features instead.
    stages: Blocks of each stage; each stage after the first halves the resolution.
    widths: Channels of each stage.
    patch_size: Side and stride of the stem's convolution.
    norm: 'position' (layer norm over channels) or 'batch'.
    activation: One of `functional.GATES`.
    layer_scale: Whether blocks end with a learned multiplier for each channel (V1).
    response_norm: Whether blocks have global response normalisation (V2).
    head_norm_eps: Epsilon of the norm before the head, if it is a position norm.
    drop_path: Stochastic depth while training: the rate of the last block, rising from 0.
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
    image_size: Side of the images of the published evaluation, in pixels; others work as well.
  """

  ops: Ops
  num_classes: int = 1000
  stages: tuple[int, ...] = (3, 3, 9, 3)
  widths: tuple[int, ...] = (96, 192, 384, 768)
  patch_size: int = 4
  norm: str = "position"
  activation: str = "gelu"
  layer_scale: bool = True
  response_norm: bool = False
  head_norm_eps: float = 1e-6
  drop_path: float = 0.0
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  input_map = "stem_conv"
  head = "head"
  norm_eps = 1e-5

  @property
  def grad_cam_layer(self) -> str:
    """The last block."""
    return f"stage{len(self.stages) - 1}_block{self.stages[-1] - 1}"

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits [N, num_classes].

    Without classes, to features [N, D]. With `train` and a `drop_path`, `dropout` is drawn from.
    """
    ops, size = self.ops, self.patch_size
    ops.check_encoded(x)
    x = ops.conv(self.widths[0], size, size, padding=0, use_bias=True, name="stem_conv")(x)
    x = _norm(ops, self.norm, "stem_norm")(x, train)
    rates = iter(drop_rates(self.drop_path, sum(self.stages)))
    kind = (self.norm, self.activation, self.layer_scale, self.response_norm)
    for i, (depth, width) in enumerate(zip(self.stages, self.widths, strict=True)):
      if i > 0:
        x = _norm(ops, self.norm, f"downsample{i}_norm")(x, train)
        x = ops.conv(width, 2, 2, padding=0, use_bias=True, name=f"downsample{i}_conv")(x)
      for j in range(depth):
        x = ops.block(ConvNeXtBlock)(ops, *kind, next(rates), name=f"stage{i}_block{j}")(x, train)
    x = global_pool(x, self.global_pool)
    norm = _norm(ops, self.norm, "head_norm", self.head_norm_eps)
    if not self.num_classes:
      return ops.average(lambda y: norm(y, train), x)
    head = ops.classifier(self.num_classes, name="head")
    return ops.readout(lambda y: head(norm(y, train)), x)


def _widths(first: int) -> tuple[int, ...]:
  return tuple(first * 2**i for i in range(4))


_DEEP = (3, 3, 27, 3)
# Stochastic depth as torchvision and B-cos v2 train each size.
_V1 = {
  "tiny": {"drop_path": 0.1},
  "small": {"stages": _DEEP, "drop_path": 0.4},
  "base": {"stages": _DEEP, "widths": _widths(128), "drop_path": 0.5},
  "large": {"stages": _DEEP, "widths": _widths(192), "drop_path": 0.5},
}
_V2 = {
  "atto": {"stages": (2, 2, 6, 2), "widths": _widths(40)},
  "femto": {"stages": (2, 2, 6, 2), "widths": _widths(48)},
  "pico": {"stages": (2, 2, 6, 2), "widths": _widths(64)},
  "nano": {"stages": (2, 2, 8, 2), "widths": _widths(80)},
  "tiny": {},
  "base": {"stages": _DEEP, "widths": _widths(128)},
  "large": {"stages": _DEEP, "widths": _widths(192)},
  "huge": {"stages": _DEEP, "widths": _widths(352)},
}
_RESPONSE = {"layer_scale": False, "response_norm": True}
_TINY = {"stages": (1, 2), "widths": (8, 16), "image_size": 32, "num_classes": 10}

VARIANTS = {
  **{f"convnext_{size}": row for size, row in _V1.items()},
  **{f"convnext_{size}_bnu": {**row, "norm": "batch"} for size, row in _V1.items()},
  **{f"convnextv2_{size}": {**row, **_RESPONSE} for size, row in _V2.items()},
}

TEST_VARIANTS = {
  "convnext_test": _TINY,
  "convnext_test_bnu": {**_TINY, "norm": "batch"},
  "convnextv2_test": {**_TINY, **_RESPONSE},
}

register(
  ConvNeXt,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.convnext:KEYS",
  readers="bcos_jax.convert.architectures.convnext:READERS",
)

"""Swin Transformers V1 and V2 (arXiv 2103.14030, 2111.09883).

Attention sees windows of the map, which move by half a window in every other block; between
stages, neighbouring patches merge four by four.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from .. import functional as F
from ..errors import InputError, unknown_name
from ..layers import global_avg_pool, global_pool
from ..ops import Ops
from .base import ImageModel
from .blocks.mlp import feed_forward
from .blocks.windows import WindowAttention
from .registry import register
from .simple_vit import patchify

Array = jax.Array
Size = tuple[int, int]

WINDOW_RULES = ("per_axis", "joint", "fixed")


def window_and_shift(window: int, size: Size, planned: Size, rule: str) -> tuple[int, Size]:
  """Returns the windows of a map, and the shift of every other block.

  Published implementations agree wherever the map holds several windows along both axes. They
  differ where it does not:

    per_axis  An axis with a single window is not shifted (torchvision).
    joint     If either axis has a single window, neither is shifted (Hugging Face, Swin).
    fixed     Windows shrink to the map, and shifts are decided, for the map of images of
              `image_size`, whatever the image (Hugging Face, Swin V2; timm).

  Args:
    window: Side of a window.
    size: Height and width of the map.
    planned: The same for an image of the network's `image_size`.
    rule: One of the above.
  """
  shift = window // 2
  if rule == "fixed":
    window = min(window, *planned)
    return window, (shift if planned[0] > window else 0, shift if planned[1] > window else 0)
  if rule == "joint" and min(size) <= window:
    return window, (0, 0)
  return window, (shift if size[0] > window else 0, shift if size[1] > window else 0)


def merge_patches(x: Array) -> Array:
  """Stacks every 2x2 patches, [N, H, W, C] -> [N, ceil(H/2), ceil(W/2), 4C].

  The patches of a square come column by column; zeros fill up odd sides.
  """
  x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
  parts = [lax.slice(x, (0, i, j, 0), x.shape, (1, 2, 2, 1)) for j in range(2) for i in range(2)]
  return jnp.concatenate(parts, axis=-1)


class PatchMerging(nn.Module):
  """Halves the resolution and doubles the channels, with the norm before (V1) or behind (V2)."""

  ops: Ops
  version: int = 1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    norm = self.ops.layer_norm(name="norm")
    reduction = self.ops.dense(2 * x.shape[-1], use_bias=False, name="reduction")
    x = merge_patches(x)
    return reduction(norm(x)) if self.version == 1 else norm(reduction(x))


class SwinBlock(nn.Module):
  """Window attention and feed-forward branches, normalised at their start (V1) or end (V2)."""

  ops: Ops
  num_heads: int
  window: int
  shift: Size
  mlp_dim: int
  version: int = 1
  activation: str = "gelu"
  qkv_bias: bool = True
  pretrained_window: int = 0
  mask_value: float = -100.0
  norm_eps: float = 1e-5

  @nn.compact
  def __call__(self, x: Array) -> Array:
    ops = self.ops
    attention = WindowAttention(
      ops,
      self.num_heads,
      self.window,
      self.shift,
      cosine=self.version == 2,
      use_bias=self.qkv_bias,
      pretrained_window=self.pretrained_window,
      mask_value=self.mask_value,
      name="attn",
    )

    def mlp(x):
      return feed_forward(ops, x, self.mlp_dim, self.activation, prefix="mlp_")

    for name, branch in (("norm1", attention), ("norm2", mlp)):
      norm = ops.layer_norm(eps=self.norm_eps, name=name)
      x = x + (branch(norm(x)) if self.version == 1 else norm(branch(x)))
    return x


class Swin(ImageModel):
  """A Swin Transformer.

  Attributes:
    ops: The layer family.
    num_classes: Number of logits; 0 for the pooled features.
    version: 1 or 2. V2 compares queries and keys by their cosine, makes relative positions by a
      small network, and normalises branches at their end.
    patch_size: Side of a patch, in pixels.
    width: Channels of the first stage; each further stage doubles them.
    depths: Blocks of each stage.
    num_heads: Attention heads of each stage.
    window: Side of a window, in patches.
    window_rule: What happens on maps that are hardly larger than a window, see
      `window_and_shift`.
    pretrained_windows: Sides of the windows, by stage, that the positions of V2 were trained
      with; () or 0 for the same.
    mask_value: Added to the attention logits of patches that the shift brought together.
    mlp_ratio: Hidden channels of the feed-forward branch, per channel.
    activation: A name of `functional.GATES`.
    qkv_bias: Whether queries, keys (in V1) and values have biases.
    norm_eps: Epsilon of the norms of the blocks and of the last one.
    global_pool: How the features are pooled over space, one of `layers.GLOBAL_POOLS`.
    image_size: Side of the images of the published evaluation, in pixels; other multiples of the
      patch size work as well.
  """

  ops: Ops
  num_classes: int = 1000
  version: int = 1
  patch_size: int = 4
  width: int = 96
  depths: tuple[int, ...] = (2, 2, 6, 2)
  num_heads: tuple[int, ...] = (3, 6, 12, 24)
  window: int = 7
  window_rule: str = "per_axis"
  pretrained_windows: tuple[int, ...] = ()
  mask_value: float = -100.0
  mlp_ratio: float = 4.0
  activation: str = "gelu"
  qkv_bias: bool = True
  norm_eps: float = 1e-5
  global_pool: str = "mean"
  image_size: int | tuple[int, int] = 224

  input_map = "patch_embedding"
  head = "head"
  grad_cam_layer = "norm"

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Maps encoded images [N, H, W, channels] to float32 logits, or features, [N, D]."""
    ops = self.ops
    ops.check_encoded(x)
    self._check()
    x = ops.dense(self.width, name="patch_embedding")(patchify(x, self.patch_size))
    x = ops.layer_norm(name="patch_norm")(x)
    for i, depth in enumerate(self.depths):
      for j in range(depth):
        x = self._block(i, j, (x.shape[1], x.shape[2]))(x)
      if i + 1 < len(self.depths):
        x = PatchMerging(ops, self.version, name=f"merge{i}")(x)
    x = ops.layer_norm(eps=self.norm_eps, name="norm")(x)
    x = global_pool(x, self.global_pool)
    if not self.num_classes:
      return global_avg_pool(x).astype("float32")
    return ops.readout(ops.dense(self.num_classes, name="head"), x, tokens=True)

  def _block(self, i: int, j: int, size: Size) -> nn.Module:
    height, width = (side // self.patch_size // 2**i for side in self.image_sides)
    planned = (height, width)
    window, shift = window_and_shift(self.window, size, planned, self.window_rule)
    return self.ops.block(SwinBlock)(
      self.ops,
      num_heads=self.num_heads[i],
      window=window,
      shift=shift if j % 2 else (0, 0),
      mlp_dim=int(self.mlp_ratio * self.width * 2**i),
      version=self.version,
      activation=self.activation,
      qkv_bias=self.qkv_bias,
      pretrained_window=self.pretrained_windows[i] if self.pretrained_windows else 0,
      mask_value=self.mask_value,
      norm_eps=self.norm_eps,
      name=f"stage{i}_{j}",
    )

  def _check(self):
    for kind, value, known in (
      ("window_rule", self.window_rule, WINDOW_RULES),
      ("activation", self.activation, F.GATES),
    ):
      if value not in known:
        raise unknown_name(kind, value, known)
    if self.version not in (1, 2):
      raise InputError(f"version is {self.version!r}.", "Choose Swin 1 or 2.")
    lengths = {len(self.depths), len(self.num_heads), len(self.pretrained_windows or self.depths)}
    if len(lengths) > 1:
      raise InputError(
        f"depths are {self.depths}, num_heads {self.num_heads} and pretrained_windows "
        f"{self.pretrained_windows}.",
        "Give one number per stage in each.",
      )


_SIZES: dict[str, dict[str, Any]] = {
  "tiny": {},
  "small": {"depths": (2, 2, 18, 2)},
  "base": {"depths": (2, 2, 18, 2), "width": 128, "num_heads": (4, 8, 16, 32)},
  "large": {"depths": (2, 2, 18, 2), "width": 192, "num_heads": (6, 12, 24, 48)},
}
_V2 = {"version": 2, "window": 8, "image_size": 256}


def _torchvision() -> dict[str, dict[str, Any]]:
  rows = {f"swin_{size[0]}": _SIZES[size] for size in ("tiny", "small", "base")}
  return rows | {f"swin_v2_{name[-1]}": {**row, **_V2} for name, row in rows.items()}


def _timm() -> dict[str, dict[str, Any]]:
  """Names of timm and, with dashes, of Hugging Face."""
  rows = {}
  for size, window, side in (
    *((size, 7, 224) for size in _SIZES),
    ("base", 12, 384),
    ("large", 12, 384),
  ):
    rows[f"swin_{size}_patch4_window{window}_{side}"] = {
      **_SIZES[size],
      "window": window,
      "image_size": side,
      "window_rule": "fixed",
    }
  published = (
    *((size, window, 256) for size in ("tiny", "small", "base") for window in (8, 16)),
    ("base", 12, 192),
    ("large", 12, 192),
  )
  for size, window, side in published:
    rows[f"swinv2_{size}_window{window}_{side}"] = {
      **_SIZES[size],
      **_V2,
      "window": window,
      "image_size": side,
      "window_rule": "fixed",
    }
  for size in ("base", "large"):
    for window, side in ((16, 256), (24, 384)):
      rows[f"swinv2_{size}_window12to{window}_192to{side}"] = {
        **rows[f"swinv2_{size}_window12_192"],
        "window": window,
        "image_size": side,
        "pretrained_windows": (12, 12, 12, 6),
      }
  return rows


_TEST = {
  "width": 16,
  "depths": (2, 1),
  "num_heads": (2, 4),
  "window": 3,
  "patch_size": 4,
  "image_size": 32,
  "num_classes": 10,
}

VARIANTS: dict[str, dict[str, Any]] = {**_torchvision(), **_timm()}

TEST_VARIANTS: dict[str, dict[str, Any]] = {
  "swin_test": _TEST,
  "swin_v2_test": {**_TEST, "version": 2},
}

register(
  Swin,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.swin:KEYS",
  readers="bcos_jax.convert.architectures.swin:READERS",
)

"""Token layouts of vision transformers: patch tokens, their positions, tokens read out."""

from __future__ import annotations

import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..models import SimpleViT, VisionTransformer
from ..models.vision_transformer import stem_stages, token_grid
from .images import resized

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TokenLayout:
  """The tokens of a vision transformer.

  Attributes:
    prefix: Tokens before those of patches (class, distillation, registers).
    grid: Rows and columns of patches, row-major after the prefix.
    stride: Pixels of the image from one patch to the next.
    side: Height and width of the image.
  """

  prefix: int
  grid: tuple[int, int]
  stride: int
  side: tuple[int, int]

  @property
  def count(self) -> int:
    return self.prefix + self.grid[0] * self.grid[1]

  def patches(self, tokens: Array) -> Array:
    """Returns what belongs to patches, [..., tokens] -> [..., rows, columns]."""
    return tokens[..., self.prefix :].reshape(*tokens.shape[:-1], *self.grid)

  def upsampled(self, maps: Array, kind: str) -> Array:
    """Resizes maps [..., rows, columns] to pixels; those that fill no patch get 0."""
    covered = tuple(
      min(n * self.stride, side) for n, side in zip(self.grid, self.side, strict=True)
    )
    maps = resized(maps, covered, kind)
    rest = [(0, side - c) for c, side in zip(covered, self.side, strict=True)]
    return jnp.pad(maps, [(0, 0)] * (maps.ndim - 2) + rest)


def token_layout(model: nn.Module, side: tuple[int, int], method: str) -> TokenLayout:
  """Returns the tokens of a network for images of `side` pixels.

  Raises:
    InputError: The network is not a transformer with one sequence of tokens.
  """
  if not isinstance(model, SimpleViT | VisionTransformer):
    raise InputError(
      f"{method} needs a vision transformer whose tokens all see each other (SimpleViT, "
      f"VisionTransformer), got {type(model).__name__}.",
      "Use grad_cam, or a method that any network supports.",
    )
  stages = stem_stages(model.conv_stem, model.ops.encoding.channels)
  prefix = 0
  if isinstance(model, VisionTransformer):
    prefix = model.class_token + model.distillation_token + model.registers
  stride = model.patch_size * math.prod(strides for _, strides in stages)
  return TokenLayout(prefix, token_grid(side, stages, model.patch_size), stride, side)


def pools_by_attention(model: nn.Module) -> bool:
  """Whether a learned probe reads the tokens out, by an attention of its own."""
  return isinstance(model, VisionTransformer) and model.pool == "map"


def read_out(model: nn.Module, layout: TokenLayout) -> np.ndarray:
  """Returns the share of each token in what the head sees, float32 [tokens] with sum 1."""
  first, mean = np.zeros((2, layout.count), np.float32)
  mean[layout.prefix :] = 1 / (layout.count - layout.prefix)
  if isinstance(model, SimpleViT) or model.pool == "mean":
    return mean
  heads = 1 + bool(model.distillation_head and model.num_classes)
  first[:heads] = 1 / heads
  return (first + mean) / 2 if model.pool == "cls_mean" else first

"""Token layouts of vision transformers: patch tokens, their positions, tokens read out."""

from __future__ import annotations

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..models import BaseNetwork, TokenLayout
from .images import resized

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PixelTokens:
  """The tokens of a vision transformer, and the pixels of its images.

  Attributes:
    layout: Where the tokens are.
    side: Height and width of the image.
  """

  layout: TokenLayout
  side: tuple[int, int]

  @property
  def prefix(self) -> int:
    """Number of tokens before those of patches."""
    return self.layout.prefix

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of patches."""
    return self.layout.grid

  @property
  def count(self) -> int:
    """Number of all tokens."""
    return self.layout.count

  def patches(self, tokens: Array) -> Array:
    """Returns what belongs to patches, [..., tokens] -> [..., rows, columns]."""
    return tokens[..., self.prefix :].reshape(*tokens.shape[:-1], *self.grid)

  def upsampled(self, maps: Array, kind: str) -> Array:
    """Resizes maps [..., rows, columns] to pixels; those that fill no patch get 0."""
    stride = self.layout.stride
    (rows, columns), (height, width) = self.grid, self.side
    covered = (min(rows * stride, height), min(columns * stride, width))
    rest = [(0, height - covered[0]), (0, width - covered[1])]
    return jnp.pad(resized(maps, covered, kind), [(0, 0)] * (maps.ndim - 2) + rest)

  def read_out(self) -> np.ndarray:
    """Returns the share of each token in what the head sees, float32 [tokens] with sum 1."""
    layout = self.layout
    shares = np.zeros(self.count, np.float32)
    shares[: layout.heads] = (1 - layout.mean) / layout.heads
    shares[self.prefix :] += layout.mean / (self.count - self.prefix)
    return shares


def pixel_tokens(model: nn.Module, side: tuple[int, int], method: str) -> PixelTokens:
  """Returns the tokens of a network for images of `side` pixels.

  Raises:
    InputError: The network is not a transformer with one sequence of tokens.
  """
  layout = model.token_layout(side) if isinstance(model, BaseNetwork) else None
  if layout is None:
    raise InputError(
      f"{method} needs a vision transformer whose tokens all see each other (SimpleViT, "
      f"VisionTransformer), got {type(model).__name__}.",
      "Use grad_cam, or a method that any network supports.",
    )
  return PixelTokens(layout, side)

"""Base of the architectures: the traits that explanations, conversion and training use.

Code outside this folder does not depend on the class of a network. What it needs to know of one is
a property of the network; the defaults below are those of a network that has no such thing.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..layers import global_pool

if TYPE_CHECKING:
  from ..ops import Ops
  from .text.language_model import LanguageModel

READS = ("images", "text")


@dataclasses.dataclass(frozen=True)
class TokenLayout:
  """The tokens of a vision transformer: class tokens, then registers, then patches by rows.

  Attributes:
    grid: Rows and columns of patches.
    stride: Pixels of the image from one patch to the next.
    class_tokens: Number of class and distillation tokens.
    registers: Number of registers.
    heads: Number of class tokens that the head reads, in equal shares.
    mean: Share of the mean of all patches in what the head reads; the class tokens have the rest.
    probe: Whether a learned probe reads the tokens out instead, by an attention of its own.
  """

  grid: tuple[int, int]
  stride: int
  class_tokens: int = 0
  registers: int = 0
  heads: int = 1
  mean: float = 1.0
  probe: bool = False

  @property
  def prefix(self) -> int:
    """Number of tokens before those of patches."""
    return self.class_tokens + self.registers

  @property
  def count(self) -> int:
    """Number of all tokens."""
    return self.prefix + self.grid[0] * self.grid[1]


class BaseNetwork(nn.Module):
  """Base of every architecture; each has a field `ops` besides its own.

  Attributes:
    variant: The name that was passed to `create`. Networks that differ in it only are equal.
  """

  if TYPE_CHECKING:
    variant: ClassVar[str]  # Type checkers do not know that Flax moves the field behind others.
  else:
    variant: str = dataclasses.field(default="", kw_only=True, compare=False, repr=False)

  reads = "images"
  """What the input is: encoded 'images' [N, H, W, C], or 'text', token ids [N, L]."""
  takes_embeddings = False
  """Whether the network takes `embeddings` and `mask`, and explains tokens; see `LanguageModel`."""
  localises_text = False
  """Whether features without pooling are comparable with those of texts, place by place."""
  input_map = None
  """Path of the map that reads the input."""
  grad_cam_layer = None
  """Path of the module whose result Grad-CAM weighs; None where it has to be named."""
  block_paths = ()
  """Paths of the blocks, from the input on: what an alignment compares."""

  @property
  def predicts(self) -> str:
    """What the outputs are: 'classes', 'features', 'masked_tokens' or 'next_tokens'."""
    return "classes" if self.num_classes else "features"

  @property
  def predicts_tokens(self) -> bool:
    """Whether the outputs are logits of a vocabulary."""
    return self.predicts in ("masked_tokens", "next_tokens")

  @property
  def is_text_tower(self) -> bool:
    """Whether the network maps texts to features that are compared with those of images."""
    return self.reads == "text" and not self.takes_embeddings

  @property
  def imported_from(self) -> str:
    """The module that has to be imported before a bundle of the network is read."""
    return type(self).__module__

  def with_classes(self, count: int) -> BaseNetwork:
    """Returns the network for so many classes, or of features if 0."""
    return self.clone(num_classes=count)

  def bcosified(self, variables: Any, ops: Ops) -> tuple[BaseNetwork, Any] | None:
    """Returns what B-cosification makes of the network, where that is more than edits of leaves.

    `bcosify` asks for it first; None leaves it to the edits, for networks that are declared once
    for all families.
    """
    del variables, ops
    return None

  def calibrated(
    self, variables: Any, teacher: tuple[Any, Any], inputs: Any, settings: Any, progress: Any
  ) -> tuple[Any, Any] | None:
    """Returns a B-cos network's variables in closed form, and the report, likewise.

    `calibration.calibrate` asks for it first; arguments and results as there, the teacher with its
    variables. None leaves it to the maps that the network declares.
    """
    del variables, teacher, inputs, settings, progress
    return None

  def unpooled(self) -> BaseNetwork | None:
    """Returns the network whose outputs are the features of places, [N, h, w, D].

    It takes the variables of this one, some of which are left over. None where features have no
    places of their own.
    """
    return None

  def token_layout(self, side: tuple[int, int]) -> TokenLayout | None:
    """Returns where the tokens of images of `side` pixels are, [N, tokens, D] behind each block.

    None for networks without one sequence of tokens that all see each other.
    """
    del side
    return None


def image_sides(image_size: int | tuple[int, int]) -> tuple[int, int]:
  """Returns height and width, which are equal where one number is given."""
  return (image_size, image_size) if isinstance(image_size, int) else image_size


class ImageModel(BaseNetwork):
  """Base of architectures that read images, with the fields `ops` and `image_size`.

  `image_size` is the side of a square, or height and width.
  """

  @property
  def image_sides(self) -> tuple[int, int]:
    """Height and width of the images of the published evaluation, in pixels."""
    return image_sides(self.image_size)

  def classified(self, x: jax.Array) -> jax.Array:
    """Returns logits of features [N, H, W, D], pooled by `global_pool`; without classes the mean.

    For the end of a network's own `__call__`; the head is the module `head`.
    """
    x = global_pool(x, self.global_pool)
    if not self.num_classes:
      return self.ops.average(lambda features: features, x)
    return self.ops.readout(self.ops.classifier(self.num_classes, name="head"), x)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of one: an encoded image, float32 [1, H, W, channels]."""
    sides = self.image_sides
    return jax.ShapeDtypeStruct((1, *sides, self.ops.encoding.channels), jnp.float32)


def is_language_model(model: nn.Module) -> TypeGuard[LanguageModel]:
  """Whether any Flax module explains tokens; see `BaseNetwork.takes_embeddings`."""
  return bool(getattr(model, "takes_embeddings", False))

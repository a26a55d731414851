"""Frozen teacher networks, and the features of theirs that students learn."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bcos_jax.errors import InputError
from bcos_jax.inputs import side_of
from bcos_jax.models import TokenLayout

PyTree = Any

_TINY = 1e-8  # Of a norm, as PyTorch's cosine similarity has it.


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
  """A network that is applied and never trained. It encodes pictures itself, from the same crop.

  Attributes:
    model: Of any family. It returns features [N, D], or logits [N, C] if it has classes.
    size: Side of its pictures, to which those of the batch are resized (bilinear, anti-aliased);
      0 for the size that they have.
  """

  model: nn.Module
  size: int = 0

  def outputs(self, variables: PyTree, images: jax.Array) -> jax.Array:
    """Returns features [N, D] or logits [N, C] of images [N, H, W, C] in [0, 1]."""
    result: Any = self.model.apply(variables, self._encoded(images), train=False)
    return result

  def states(
    self, variables: PyTree, images: jax.Array, depths: Sequence[int]
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns features [N, D], and the tokens [N, T, W] behind each of some blocks."""
    features, state = self.model.apply(
      variables,
      self._encoded(images),
      train=False,
      mutable=["intermediates"],
      capture_intermediates=capture(self.model, depths),
    )
    return features, tokens_of(self.model, state, depths)

  def _encoded(self, images: jax.Array) -> jax.Array:
    if self.size and self.size != images.shape[1]:
      shape = (len(images), self.size, self.size, images.shape[-1])
      images = jax.image.resize(images, shape, "linear", antialias=True)
    return self.model.ops.encoding(images)


def blocks_of(model: nn.Module) -> tuple[str, ...]:
  """Returns the names of a network's blocks from the input on; () for other architectures."""
  return tuple(model.block_paths)


def capture(model: nn.Module, depths: Sequence[int]):
  """Returns the filter for `capture_intermediates` that keeps what some blocks return.

  Args:
    model: The network.
    depths: Numbers of blocks, the first is 1.
  """
  blocks = blocks_of(model)
  kept = {(blocks[depth - 1],) for depth in depths}
  return lambda module, method: method == "__call__" and module.path in kept


def tokens_of(model: nn.Module, state: PyTree, depths: Sequence[int]) -> list[jax.Array]:
  """Returns what was captured as tokens [N, T, W]: without registers, or the positions of maps."""
  layout = model.token_layout(side_of(model.input_spec)) or TokenLayout((0, 0), 1)
  first, registers = layout.class_tokens, layout.registers
  found, blocks = [], blocks_of(model)
  for depth in depths:
    tokens = state["intermediates"][blocks[depth - 1]]["__call__"][0]
    tokens = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    if registers:
      tokens = jnp.concatenate([tokens[:, :first], tokens[:, first + registers :]], axis=1)
    found.append(tokens)
  return found


def cosine(first: jax.Array, second: jax.Array) -> jax.Array:
  """Returns the cosine of the angle between vectors [..., D], float32 [...]; 0 for zero vectors."""
  first, second = unit(first), unit(second)
  return jnp.sum(first * second, axis=-1)


def unit(x: jax.Array) -> jax.Array:
  """Returns vectors [..., D] at length 1, float32; zero vectors stay, with finite gradients."""
  x = x.astype(jnp.float32)
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  return x / jnp.sqrt(jnp.maximum(square, _TINY**2))


def check_features(model: nn.Module, role: str) -> None:
  """Raises InputError unless a network returns features."""
  if model.num_classes:
    raise InputError(
      f"The {role} has {model.num_classes} classes, expected features.",
      "Set --config.model.num_classes=0.",
    )


def check_width(student: jax.ShapeDtypeStruct, teacher: jax.ShapeDtypeStruct, what: str) -> None:
  """Raises InputError unless both have the same shape."""
  if student.shape[1:] != teacher.shape[1:]:
    raise InputError(
      f"The {what} of the student have shape {student.shape[1:]} for each picture, those of the "
      f"teacher {teacher.shape[1:]}.",
      "Take a student of the teacher's architecture, or pictures whose sizes give equal numbers of "
      "tokens (--config.data.image_size, --config.objective.teacher_size).",
    )

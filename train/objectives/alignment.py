"""Label-free alignment with a teacher: cosines of tokens at several depths, and pooled.

Blocks are those of transformers and of ResNets, where the positions of a map are its tokens.

The objective of ALOE: the sum over depths of the mean over tokens of 1 - cosine, and 1 - cosine of
the pooled features. Its published code has no weights other than 1.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from bcos_jax.errors import InputError, unknown_name

from .objective import Objective
from .teacher import Teacher, blocks_of, capture, check_features, check_width, cosine, tokens_of

PyTree = Any
PICKERS = ("published", "corrected")


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment(Objective):
  """A student takes over what a teacher sees.

  Attributes:
    teacher: The frozen network.
    depths: Blocks whose tokens are compared, from 1 on; () compares pooled features only.
    token_weight: Of the tokens' part of the loss.
    pooled_weight: Of the pooled features' part.
    norm_weight: Of the sum over maps of the squared difference of Frobenius norms between teacher
      and student; 0 leaves it out, as the published code does.
  """

  teacher: Teacher
  depths: tuple[int, ...] = ()
  token_weight: float = 1.0
  pooled_weight: float = 1.0
  norm_weight: float = 0.0

  @property
  def measure(self):
    return "similarity"

  def train(self, params, stats, batch, frozen, rng):
    (features, state) = self.apply_training(
      params, stats, batch, rng, capture_intermediates=capture(self.model, self.depths)
    )
    tokens = tokens_of(self.model, state, self.depths)
    measures = self._compared(features, tokens, batch, frozen)
    metrics = {name: jnp.mean(values) for name, values in measures.items()}
    if self.norm_weight:
      metrics["norm_distance"] = norm_distance(params, frozen["params"])
      metrics["loss"] += self.norm_weight * metrics["norm_distance"]
    return metrics["loss"], (state.get("batch_stats", {}), metrics)

  def evaluate(self, variables, batch, frozen):
    student = Teacher(self.model)
    return self._compared(*student.states(variables, batch["image"], self.depths), batch, frozen)

  def _compared(
    self, features: jax.Array, tokens: list[jax.Array], batch: PyTree, frozen: PyTree
  ) -> dict[str, jax.Array]:
    """Returns loss and cosines of each example, [N] each."""
    wanted, wanted_tokens = self.teacher.states(frozen, batch["image"], self.depths)
    similarity = cosine(features, wanted)
    measures = {"similarity": similarity}
    loss = self.pooled_weight * (1 - similarity)
    pairs = zip(self.depths, tokens, wanted_tokens, strict=True)
    for depth, own, other in pairs:
      near = jnp.mean(cosine(own, other), axis=-1)
      measures[f"similarity_{depth}"] = near
      loss += self.token_weight * (1 - near)
    return {"loss": loss, **measures}

  def check(self, side: int) -> None:
    """Raises InputError unless student and teacher can be compared on pictures of `side` pixels."""
    for model, role in ((self.model, "student"), (self.teacher.model, "teacher")):
      check_features(model, role)
      _check_depths(model, self.depths, role)
    images = jax.ShapeDtypeStruct((1, side, side, self.model.ops.encoding.colors), jnp.float32)

    def states(teacher: Teacher):
      def run(images):
        blank = jax.random.key(0)
        variables = teacher.model.init(blank, teacher.model.ops.encoding(images))
        return teacher.states(variables, images, self.depths)

      return jax.eval_shape(run, images)

    (own, own_tokens), (other, other_tokens) = states(Teacher(self.model)), states(self.teacher)
    check_width(own, other, "features")
    for depth, mine, theirs in zip(self.depths, own_tokens, other_tokens, strict=True):
      check_width(mine, theirs, f"tokens behind block {depth}")


def pick_depths(picker: str, depth: int) -> tuple[int, ...]:
  """Returns the blocks to compare in a network of so many.

  Args:
    picker: "published": ALOE's code, int(L/3) - 1, int(2L/3) - 1 and L - 1, one block early, so
      that the last one is never supervised; "corrected": L // 3, 2L // 3 and L; or the numbers of
      blocks, such as "4,8,12"; "" for none.
    depth: Number of blocks L.

  Raises:
    InputError: Neither a known name nor numbers.
  """
  if picker == "published":
    picked = (int(depth / 3) - 1, int(2 * depth / 3) - 1, depth - 1)
  elif picker == "corrected":
    picked = (depth // 3, 2 * depth // 3, depth)
  elif re.fullmatch(r"[\d, ]*", picker):
    return tuple(map(int, re.findall(r"\d+", picker)))
  else:
    raise unknown_name("objective.depths", picker, PICKERS)
  # Of a network of few blocks some fall together, or before the first.
  return tuple(sorted({block for block in picked if block >= 1}))


def _check_depths(model, depths: tuple[int, ...], role: str) -> None:
  blocks = len(blocks_of(model))
  wrong = [depth for depth in depths if not 1 <= depth <= blocks]
  if wrong:
    raise InputError(
      f"objective.depths names the blocks {wrong}, the {role} {type(model).__name__} has {blocks}.",
      "Number blocks from 1, or set --config.objective.depths= to compare pooled features only.",
    )


def norm_distance(params: PyTree, teacher: PyTree) -> jax.Array:
  """Returns the sum over maps of both networks of (|W_T| - |W_S|)^2, Frobenius norms, float32 [].

  Maps that only one of them has, or has in another shape (the first one), are left out.
  """
  own: dict[Any, Any] = traverse_util.flatten_dict(params, sep="/")
  other: dict[Any, Any] = traverse_util.flatten_dict(teacher, sep="/")
  shared = [
    path
    for path in own
    if path.endswith("kernel") and path in other and own[path].shape == other[path].shape
  ]

  def norm(kernel: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(kernel.astype(jnp.float32))), 1e-30))

  return sum(
    (jnp.square(norm(other[path]) - norm(own[path])) for path in shared), jnp.zeros((), jnp.float32)
  )

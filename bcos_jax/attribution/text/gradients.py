"""Attributions of texts by gradients at the embeddings.

The arithmetic is that of `attribution.gradients`, which has the methods that images share.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from ..gradients import input_times_gradient, integrated, integration_rule, with_numbers
from ..running import summed
from ..settings import Method
from ..task import Array, Batch, Task, check_choice, check_count
from ..task import gradients as gradients_of
from .checked_inputs import special_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSaliency(Method):
  """The size of the gradient at each token's embedding (arXiv 1312.6034), never negative.

  Args:
    size: 'mean' of the absolute values over dimensions, as compared with in B-cos LM; or 'l2',
      the length of the gradient.
  """

  name: ClassVar[str] = "saliency"
  kinds: ClassVar[tuple[str, ...]] = ("texts",)
  needs: ClassVar[tuple[str, ...]] = ("embed", "forward")
  size: str = "mean"

  def __post_init__(self):
    check_choice("size", self.size, _SIZES)

  def run(self, task: Task) -> np.ndarray:
    return summed(task, _saliency, size=self.size)


_SIZES = {
  "mean": lambda found: jnp.mean(jnp.abs(found), -1),
  "l2": lambda found: jnp.linalg.norm(found, axis=-1),
}


def _saliency(batch: Batch, _: Array, *, size: str) -> Array:
  return _SIZES[size](gradients_of(batch.score, batch.inputs))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenAttnLrp(Method):
  """AttnLRP at the embeddings, summed over dimensions (arXiv 2402.05602).

  It is input times gradient of the network with the ops of `attribution.attention.lrp_ops`,
  which the task has as `lrp`; its rule is chosen where the task is made.
  """

  name: ClassVar[str] = "attn_lrp"
  kinds: ClassVar[tuple[str, ...]] = ("texts",)
  needs: ClassVar[tuple[str, ...]] = ("embed", "lrp")

  def run(self, task: Task) -> np.ndarray:
    return summed(task.replaced(forward=task.network.lrp), input_times_gradient)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialIntegratedGradients(Method):
  """Sequential integrated gradients (Enguehard, arXiv 2305.15853, section 3).

  Each token is integrated by itself, from the mask token's embedding to its own, with the rest of
  the text as it is. Special tokens get 0.

  Args:
    steps: As for `integrated_gradients`, for every token.
  """

  name: ClassVar[str] = "sequential_integrated_gradients"
  kinds: ClassVar[tuple[str, ...]] = ("texts",)
  needs: ClassVar[tuple[str, ...]] = ("embed", "forward")
  steps: int = 50

  def __post_init__(self):
    check_count("steps", self.steps)

  def run(self, task: Task) -> np.ndarray:
    rows, tokens = np.nonzero(~special_of(task))
    if not len(rows):
      return np.zeros((len(task), task.count, *task.places))
    rows, numbers = with_numbers(rows, self.steps)
    numbers += np.repeat(tokens, self.steps) * self.steps
    rule = integration_rule(self.steps)
    return summed(task, _sequential, rule, pairs=(rows, numbers), steps=int(self.steps))


def _sequential(batch: Batch, numbers: Array, rule: tuple[Array, Array], *, steps: int) -> Array:
  token = numbers // steps
  moves = jnp.arange(batch.inputs.shape[1]) == token[:, None]
  start = jnp.where(moves[..., None], batch.baseline(), batch.inputs)
  return integrated(batch, numbers % steps, start, rule)

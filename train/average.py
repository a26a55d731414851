"""Exponential moving averages (EMA) of network weights, as in B-cos v2's long recipe."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from .config import check_values, flatten

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Average:
  """How parameters and running statistics are averaged.

  Attributes:
    rate: Share of the current values in each update.
    every: Steps between updates.
    warmup: Steps of the warm-up: an average that was updated in them is restarted at the next
      update.
  """

  rate: float
  every: int
  warmup: int

  def start(self, variables: PyTree) -> PyTree:
    """Returns the average of a network that has not been trained."""
    return jax.tree.map(jnp.copy, variables)

  def update(self, step: jax.Array, average: PyTree, variables: PyTree) -> PyTree:
    """Returns the average as it is once step number `step` (int32 []) has seen `variables`.

    Args:
      step: Number of finished steps.
      average: The average so far.
      variables: The network before this step changes it.
    """
    # As the authors' counter: it is reset in each step of the warm-up, after that step's update.
    fresh = step < self.warmup + self.every

    def renewed(average, variables):
      return jax.tree.map(
        lambda old, new: jnp.where(fresh, new, old + self.rate * (new - old).astype(old.dtype)),
        average,
        variables,
      )

    return jax.lax.cond(
      step % self.every == 0, renewed, lambda average, _: average, average, variables
    )


def from_config(
  config: ConfigDict, *, batch_size: int, epochs: float, warmup: int
) -> Average | None:
  """Returns what the section `ema` of a recipe describes; None if its decay is 0.

  The decay is stated for updates of one example in a run of one epoch, as in torchvision's
  reference training: the rate of an update is (1 - decay) * batch_size * every / epochs, at most 1.

  Args:
    config: Fields `decay` and `every`.
    batch_size: Examples of a step, of all devices together.
    epochs: Length of the run.
    warmup: Steps of warm-up.

  Raises:
    InputError: A value out of range.
  """
  check_values(flatten(config), "ema")
  if config.decay == 0:
    return None
  rate = min(1.0, (1 - config.decay) * batch_size * config.every / epochs)
  return Average(rate, config.every, warmup)

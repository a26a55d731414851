"""Dropout of channels or of attention weights during training."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..errors import InputError
from .drop_path import RNG


def dropout(module: nn.Module, x: jax.Array, rate: float, train: bool) -> jax.Array:
  """Zeroes each number of `x` with probability `rate`; the rest is divided by 1 - rate.

  Args:
    module: The module that draws; its stream of random numbers is `dropout`.
    x: Any shape.
    rate: Probability; nothing is drawn at 0.
    train: Whether anything is dropped at all.

  Raises:
    InputError: A rate that is not a probability below 1.
  """
  if not 0 <= rate < 1:
    raise InputError(
      f"The rate of dropout is {rate!r}, expected at least 0 and less than 1.",
      "Use dropout=0 to disable it.",
    )
  if not train or rate == 0:
    return x
  keep = jax.random.bernoulli(module.make_rng(RNG), 1 - rate, x.shape)
  return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))

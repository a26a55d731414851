"""Stochastic depth: random omission of residual branches during training."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..errors import InputError

RNG = "dropout"


def drop_path(module: nn.Module, y: jax.Array, rate: float, train: bool) -> jax.Array:
  """Zeroes the branch of each image with probability `rate` (arXiv 1603.09382).

  What remains is divided by 1 - rate, so that its expectation is unchanged (torchvision's
  stochastic_depth, mode "row").

  Args:
    module: The module that draws; its stream of random numbers is `dropout`.
    y: The branch, [N, ...].
    rate: Probability; nothing is drawn at 0.
    train: Whether anything is dropped at all.
  """
  if not 0 <= rate < 1:
    raise InputError(
      f"The rate of stochastic depth is {rate!r}, expected at least 0 and less than 1.",
      "Use drop_path=0 to disable it.",
    )
  if not train or rate == 0:
    return y
  shape = (y.shape[0], *(1,) * (y.ndim - 1))
  keep = jax.random.bernoulli(module.make_rng(RNG), 1 - rate, shape)
  return jnp.where(keep, y / (1 - rate), 0)


def drop_rates(rate: float, blocks: int) -> list[float]:
  """Returns the rate of each block: rising from 0 to `rate` (B-cos v2, torchvision's ConvNeXt)."""
  return [rate * i / max(blocks - 1, 1) for i in range(blocks)]

"""Logit layers of B-cos classifiers: temperature and bias."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ..functional import widened
from .sources import add_constant


class LogitLayer(nn.Module):
  """Divides logits by a temperature and adds a constant: x / T + b (B-cos v2, LogitLayer).

  Attributes:
    bias: The constant. Published classifiers take -log(classes - 1), so that an image without
      evidence gets probability 1/classes from a sigmoid.
    temperature: The divisor T.
  """

  bias: float = 0.0
  temperature: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, classes] to float32 [N, classes]."""
    x = widened(x)
    if self.temperature != 1.0:
      x = x / self.temperature
    return add_constant(self, x, jnp.asarray(self.bias, x.dtype), "logit_bias") if self.bias else x

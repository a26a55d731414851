"""Layer scale: a learned multiplier for each channel."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp


class LayerScale(nn.Module):
  """Multiplies each channel of a residual branch by a learned number (arXiv 2103.17239).

  Linear, so it is the same in every family.

  Attributes:
    initial: Initial value.
    param_dtype: Dtype of the parameter.

  Parameters: `scale` [C].
  """

  initial: float = 1.0
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., C] to the same shape and dtype."""
    initializer = nn.initializers.constant(self.initial)
    return x * self.param("scale", initializer, x.shape[-1:], self.param_dtype).astype(x.dtype)

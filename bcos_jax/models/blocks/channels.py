"""Channel attention of convolutional networks: a gate for each channel, from means over space."""

from __future__ import annotations

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from ... import functional as F
from ...errors import unknown_name
from ...ops import Ops

Array = jax.Array

SQUEEZE_GATES = {"sigmoid": jax.nn.sigmoid, "hard_sigmoid": jax.nn.hard_sigmoid}
CHANNEL_ATTENTIONS = ("none", "squeeze_excite", "efficient")


class SqueezeExcite(nn.Module):
  """Weighs channels by a gate that two linear maps make of their means (arXiv 1709.01507).

  The whole gate is a dynamic weight, like attention weights: its maps are linear in every family,
  as queries and keys are, and explanation mode holds it. B-cosification drops their biases unless
  it keeps biases.

  Attributes:
    ops: The layer family.
    hidden: Channels between the two maps.
    activation: Between them, a name of `functional.GATES`.
    gate: Behind them, a name of `SQUEEZE_GATES`.

  Parameters: `fc1` [C, hidden], `fc2` [hidden, C].
  """

  ops: Ops
  hidden: int
  activation: str = "relu"
  gate: str = "sigmoid"

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to the same shape."""
    channels = x.shape[-1]
    means = jnp.mean(x, axis=(1, 2), keepdims=True)
    if self.gate not in SQUEEZE_GATES:
      raise unknown_name("gate", self.gate, SQUEEZE_GATES)
    y = F.gated(self.ops.linear(self.hidden, name="fc1")(means), self.activation)
    return self.ops.weigh(x, SQUEEZE_GATES[self.gate](self.ops.linear(channels, name="fc2")(y)))


class EfficientAttention(nn.Module):
  """Weighs channels by a gate that a filter along the channels makes of their means.

  ECA-Net (arXiv 1910.03151). The gate is a dynamic weight; the filter stays linear.

  Parameters: `kernel` [taps]; the more channels, the more taps, an odd number.
  """

  ops: Ops

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, H, W, C] to the same shape."""
    channels = x.shape[-1]
    taps = int(abs(math.log2(channels) + 1) / 2)
    taps = max(taps + 1 - taps % 2, 3)
    init = nn.initializers.normal(taps**-0.5)
    kernel = self.param("kernel", init, (taps,), self.ops.param_dtype)
    means = jnp.pad(jnp.mean(x, axis=(1, 2)), ((0, 0), (taps // 2,) * 2))
    shifted = [jax.lax.slice_in_dim(means, i, i + channels, axis=1) for i in range(taps)]
    gate = jax.nn.sigmoid(sum(kernel[i] * part for i, part in enumerate(shifted)))
    return self.ops.weigh(x, gate[:, None, None].astype(x.dtype))


def squeezed(channels: int, ratio: float) -> int:
  """Returns a share of the channels, at least 8 and a multiple of 8, for a `SqueezeExcite`."""
  return max(8, int(channels * ratio + 4) // 8 * 8)

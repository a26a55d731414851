"""Self-attention whose maps the layer family chooses."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax

from .. import functional as F
from ..errors import InputError


class SelfAttention(nn.Module):
  """Multi-head self-attention without biases, as in SimpleViT (arXiv 2205.01580).

  Queries, keys and values are plain linear maps in every family; the output projection is a
  `dense` map of the family (B-cos v2, section 4; B-cosification, section 3).

  Attributes:
    ops: The layer family.
    num_heads: Number of heads; must divide the width.
    detach: Explanation mode: the attention weights are constants.

  Parameters: `qkv/kernel` [width, 3 * width] (queries, keys, values; each head-major), `out`.
  """

  ops: Any
  num_heads: int
  detach: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, T, width] to [N, T, width]."""
    width = x.shape[-1]
    if width % self.num_heads:
      raise InputError(
        f"Width {width} is not divisible by {self.num_heads} heads.",
        "Choose a number of heads that divides the width.",
      )
    qkv = self.ops.linear(3 * width, use_bias=False, name="qkv")(x)
    q, k, v = (
      part.reshape(*x.shape[:-1], self.num_heads, -1) for part in jax.numpy.split(qkv, 3, axis=-1)
    )
    y = F.attend(q, k, v, detach=self.detach).reshape(x.shape)
    return self.ops.dense(width, use_bias=False, name="out")(y)

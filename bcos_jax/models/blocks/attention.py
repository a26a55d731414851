"""Multi-head attention whose linear maps the layer family chooses."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ... import functional as F
from ...errors import InputError
from ...layers.dropout import dropout
from ...ops import Ops


class SelfAttention(nn.Module):
  """Multi-head self-attention without biases, as in SimpleViT (arXiv 2205.01580).

  Queries, keys and values are plain linear maps in every family; the output projection is a
  `dense` map of the family (B-cos v2, section 4; B-cosification, section 3).

  Attributes:
    ops: The layer family.
    num_heads: Number of heads; must divide the width.

  Parameters: `qkv/kernel` [width, 3 * width] (queries, keys, values; each head-major), `out`.
  """

  ops: Ops
  num_heads: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N, T, width] to [N, T, width]."""
    width = x.shape[-1]
    check_heads(width, self.num_heads)
    qkv = self.ops.linear(3 * width, use_bias=False, name="qkv")(x)
    q, k, v = (
      part.reshape(*x.shape[:-1], self.num_heads, -1) for part in jax.numpy.split(qkv, 3, axis=-1)
    )
    y = self.ops.attend(q, k, v).reshape(x.shape)
    return self.ops.dense(width, use_bias=False, name="out")(y)


class Attention(nn.Module):
  """Multi-head attention with a map of its own for queries, keys and values.

  Queries, keys and values are plain linear maps in every family, the output projection is a
  `dense` map of the family, as in `SelfAttention`.

  Attributes:
    ops: The layer family.
    num_heads: Number of heads; must divide the width.
    use_bias: Whether queries and values have a bias, where the family keeps biases.
    key_bias: Whether keys have one as well. Attention cannot see it, unless keys are rotated.

  Parameters: `query`, `key`, `value`, `out`, each a map [width, width].
  """

  ops: Ops
  num_heads: int
  use_bias: bool = True
  key_bias: bool = True

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    asking: jax.Array | None = None,
    rotary: tuple[jax.Array, jax.Array] | None = None,
  ) -> jax.Array:
    """Lets each token look at all tokens.

    Args:
      x: The tokens that are looked at, [N, T, width].
      asking: The tokens that look, [N, Q, width]; None for `x` itself.
      rotary: Cosines and sines by which queries and keys are turned, see `functional.rotate`.

    Returns:
      [N, Q, width].
    """
    width = x.shape[-1]
    check_heads(width, self.num_heads)
    asking = x if asking is None else asking

    def project(tokens, name, use_bias):
      y = self.ops.linear(width, use_bias=use_bias, name=name)(tokens)
      return y.reshape(*tokens.shape[:-1], self.num_heads, -1)

    q = project(asking, "query", self.use_bias)
    k = project(x, "key", self.use_bias and self.key_bias)
    v = project(x, "value", self.use_bias)
    if rotary is not None:
      q, k = F.rotate(q, *rotary), F.rotate(k, *rotary)
    y = self.ops.attend(q, k, v).reshape(asking.shape)
    return self.ops.dense(width, name="out")(y)


class MaskedAttention(nn.Module):
  """Multi-head self-attention of language models, in which tokens may be hidden from each other.

  Queries, keys and values are plain linear maps in every family, the output projection is a
  `dense` map of the family, as in `SelfAttention` (B-cos LM, arXiv 2502.12992).

  Attributes:
    ops: The layer family.
    num_heads: Number of heads of queries.
    kv_heads: Number of heads of keys and values, each of which several heads of queries share
      (grouped queries, arXiv 2305.13245); 0 for one each.
    head_dim: Channels of a head; 0 shares the width among the heads.
    use_bias: Whether queries, keys and values have biases, where the family keeps biases.
    out_bias: Whether the output projection has one.
    dropout: Rate at which attention weights are dropped while training.

  Parameters: `query` [width, num_heads * head_dim], `key`, `value` [width, kv_heads * head_dim],
  `out`.
  """

  ops: Ops
  num_heads: int
  kv_heads: int = 0
  head_dim: int = 0
  use_bias: bool = True
  out_bias: bool = True
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    train: bool = False,
    bias: jax.Array | None = None,
    rotary: tuple[jax.Array, jax.Array] | None = None,
  ) -> jax.Array:
    """Lets tokens look at each other.

    Args:
      x: [N, T, width].
      train: Whether attention weights are dropped.
      bias: Large negative numbers where a token must not look, broadcastable to [N, heads, T, T].
      rotary: Cosines and sines by which queries and keys are turned, see `functional.rotate`.

    Returns:
      [N, T, width].
    """
    width, heads = x.shape[-1], self.num_heads
    kv_heads = self.kv_heads or heads
    head_dim = self.head_dim or width // heads
    if not self.head_dim:
      check_heads(width, heads)
    check_groups(heads, kv_heads)

    def project(count, name):
      y = self.ops.linear(count * head_dim, use_bias=self.use_bias, name=name)(x)
      return y.reshape(*x.shape[:-1], count, head_dim)

    q, k, v = project(heads, "query"), project(kv_heads, "key"), project(kv_heads, "value")
    if rotary is not None:
      q, k = F.rotate(q, *rotary), F.rotate(k, *rotary)
    k, v = (jnp.repeat(part, heads // kv_heads, axis=-2) for part in (k, v))
    fields = {"bias": bias}
    if train and self.dropout:
      ones = jnp.ones((len(x), heads, x.shape[1], x.shape[1]))
      fields["keep"] = dropout(self, ones, self.dropout, train)
    y = self.ops.attend(q, k, v, **fields).reshape(*x.shape[:-1], -1)
    return self.ops.dense(width, use_bias=self.out_bias, name="out")(y)


def check_groups(heads: int, kv_heads: int):
  """Raises InputError unless heads of queries share those of keys and values evenly."""
  if kv_heads < 1 or heads % kv_heads:
    raise InputError(
      f"{heads} heads of queries cannot share {kv_heads} heads of keys and values.",
      "Choose kv_heads that divide num_heads.",
    )


def check_heads(width: int, num_heads: int):
  """Raises InputError unless `width` channels split among `num_heads` heads."""
  if num_heads < 1:
    raise InputError(f"num_heads is {num_heads!r}, expected at least 1.", "Use 1 for one head.")
  if width % num_heads:
    raise InputError(
      f"Width {width} is not divisible by {num_heads} heads.",
      "Choose a number of heads that divides the width.",
    )

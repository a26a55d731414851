"""Multi-head attention whose linear maps the layer family chooses."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from ... import functional as F
from ...errors import InputError
from ...layers.dropout import dropout
from ...ops import Ops
from .positions import Rotary

Array = jax.Array


class Attention(nn.Module):
  """Multi-head softmax attention of any network: images, texts, poolings.

  Queries, keys and values are plain linear maps in every family; the output projection is a
  `dense` map of the family (B-cos v2, section 4; B-cosification, section 3; B-cos LM,
  arXiv 2502.12992).

  Attributes:
    ops: The layer family.
    num_heads: Number of heads of queries.
    kv_heads: Number of heads of keys and values, each of which several heads of queries share
      (grouped queries, arXiv 2305.13245); 0 for one each.
    head_dim: Channels of a head; 0 shares the width among the heads.
    features: Channels of the result; 0 for those of the tokens.
    fused: One map `qkv` in place of `query`, `key` and `value`, for heads that are not shared.
    use_bias: Whether queries, keys and values have biases, where the family keeps biases.
    key_bias: Whether keys have one if queries and values do. Attention cannot see it, unless keys
      are rotated.
    out_bias: Whether the output projection has one.
    linear_out: Whether the output projection is linear in every family (attention pooling of CLIP:
      B-cosification, BcosAttentionPool2d).
    dropout: Rate at which attention weights are dropped while training.

  Parameters: `query` [width, num_heads * head_dim], `key`, `value` [width, kv_heads * head_dim],
  or `qkv` [width, 3 * width] (queries, keys, values; each head-major); `out`.
  """

  ops: Ops
  num_heads: int
  kv_heads: int = 0
  head_dim: int = 0
  features: int = 0
  fused: bool = False
  use_bias: bool = True
  key_bias: bool = True
  out_bias: bool = True
  linear_out: bool = False
  dropout: float = 0.0

  @nn.compact
  def __call__(
    self,
    x: Array,
    train: bool = False,
    *,
    asking: Array | None = None,
    bias: Array | None = None,
    rotary: Rotary | None = None,
  ) -> Array:
    """Lets tokens look at tokens.

    Args:
      x: The tokens that are looked at, [N, T, width].
      train: Whether attention weights are dropped; the stream of random numbers is `dropout`.
      asking: The tokens that look, [N, Q, width]; None for `x` itself.
      bias: Added to the attention logits, broadcastable to [N, heads, Q, T], see `mask_bias`.
      rotary: Cosines and sines by which queries and keys are turned, see `functional.rotate`.

    Returns:
      [N, Q, features].

    Raises:
      InputError: Heads that do not share the width, or keys and values, evenly.
    """
    return self.looked(x, x if asking is None else asking, train, bias, rotary)

  def looked(
    self,
    x: Array,
    asking: Array,
    train: bool = False,
    bias: Array | None = None,
    rotary: Rotary | None = None,
  ) -> Array:
    """Returns what `__call__` does, for a `__call__` of a subclass that prepares the tokens."""
    q, k, v = self._projected(x, asking)
    if rotary is not None:
      q, k = F.rotate(q, *rotary), F.rotate(k, *rotary)
    shared = self.num_heads // k.shape[-2]
    if shared > 1:
      k, v = (jnp.repeat(part, shared, axis=-2) for part in (k, v))
    fields = {"bias": bias}
    if train and self.dropout:
      ones = jnp.ones((len(x), self.num_heads, asking.shape[1], x.shape[1]))
      fields["keep"] = dropout(self, ones, self.dropout, train)
    y = self.ops.attend(q, k, v, **fields).reshape(*asking.shape[:-1], -1)
    features = self.features or asking.shape[-1]
    kind = self.ops.linear if self.linear_out else self.ops.dense
    return kind(features, use_bias=self.out_bias, name="out")(y)

  def _projected(self, x: Array, asking: Array) -> tuple[Array, Array, Array]:
    """Returns queries [N, Q, heads, head_dim], and keys and values [N, T, kv_heads, head_dim]."""
    width, heads = x.shape[-1], self.num_heads
    kv_heads = self.kv_heads or heads
    if not self.head_dim:
      check_heads(width, heads)
    check_groups(heads, kv_heads)
    if self.fused:
      self._check_fused(x, asking)
      return fused_heads(self.ops.linear(3 * width, use_bias=self.use_bias, name="qkv")(x), heads)
    head_dim = self.head_dim or width // heads

    def project(tokens, count, name, use_bias):
      y = self.ops.linear(count * head_dim, use_bias=use_bias, name=name)(tokens)
      return y.reshape(*tokens.shape[:-1], count, head_dim)

    return (
      project(asking, heads, "query", self.use_bias),
      project(x, kv_heads, "key", self.use_bias and self.key_bias),
      project(x, kv_heads, "value", self.use_bias),
    )

  def _check_fused(self, x: Array, asking: Array):
    if self.kv_heads or self.head_dim or not self.key_bias or asking is not x:
      raise InputError(
        "One fused map makes queries, keys and values of the same tokens, heads and biases.",
        "Use fused=False with kv_heads, head_dim, key_bias=False or other tokens asking.",
      )


def fused_heads(qkv: Array, num_heads: int) -> tuple[Array, Array, Array]:
  """Splits [..., 3 * width] into queries, keys and values, [..., num_heads, head_dim] each."""
  q, k, v = (part.reshape(*part.shape[:-1], num_heads, -1) for part in jnp.split(qkv, 3, axis=-1))
  return q, k, v


def mask_bias(allowed: Array | None) -> Array | None:
  """Returns what is added to attention logits: the most negative number where not `allowed`.

  Finite, so that a token that may look at nothing, such as padding on the left, gets the mean of
  all rather than NaN; nothing is read off it. Weights elsewhere are zero exactly.
  """
  return None if allowed is None else jnp.where(allowed, 0.0, jnp.finfo(jnp.float32).min)


def causal(length: int) -> Array:
  """Returns whether each token may look at each: itself and those before it; bool [T, T]."""
  order = jnp.arange(length)
  return order[:, None] >= order


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

"""GPT-2 and Llama-like decoders (arXiv 2302.13971), which predict the next token.

One definition: they differ in norms, positions, feed-forward branches, biases and in how many
heads share keys and values; each difference is a field.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ... import functional as F
from ...errors import InputError
from ...layers import dropout
from ...ops import Ops
from ..blocks.attention import Attention, causal, mask_bias
from ..blocks.mlp import Mlp
from ..blocks.positions import Rotary, rotary_angles
from ..registry import register
from .language_model import (
  LanguageModel,
  TokenEmbeddings,
  at_places,
  counted,
  logits_of_vocabulary,
)

Array = jax.Array

NORMS = ("layer", "rms")
POSITIONS = ("learned", "rotary")


class DecoderLayer(nn.Module):
  """Attention and feed-forward branches, each normalised at its start.

  Fields as in `TextDecoder`.
  """

  ops: Ops
  num_heads: int
  kv_heads: int
  head_dim: int
  mlp_dim: int
  activation: str
  gated_mlp: bool
  attention_bias: bool
  attention_out_bias: bool
  mlp_bias: bool
  norm: str
  norm_eps: float
  dropout: float
  attention_dropout: float

  @nn.compact
  def __call__(
    self,
    x: Array,
    train: bool = False,
    bias: Array | None = None,
    rotary: Rotary | None = None,
  ) -> Array:
    """Maps [N, L, D] to [N, L, D]; `bias` and `rotary` as for `Attention`."""
    attention = Attention(
      self.ops,
      self.num_heads,
      kv_heads=self.kv_heads,
      head_dim=self.head_dim,
      use_bias=self.attention_bias,
      out_bias=self.attention_out_bias,
      dropout=self.attention_dropout,
      name="attn",
    )
    y = attention(norm_of(self, "norm1")(x), train, bias=bias, rotary=rotary)
    x = x + dropout(self, y, self.dropout, train)
    mlp = Mlp(self.ops, self.mlp_dim, self.activation, self.gated_mlp, self.mlp_bias, name="mlp")
    return x + dropout(self, mlp(norm_of(self, "norm2")(x)), self.dropout, train)


def last_places(tokens: Array, mask: Array | None) -> Array:
  """Returns the place of the last token of each text that is no padding, [N]."""
  places = jnp.arange(tokens.shape[1])[None]
  return jnp.max(places if mask is None else places * (mask != 0), axis=1) + jnp.zeros(
    len(tokens), places.dtype
  )


def norm_of(module: Any, name: str) -> nn.Module:
  """Returns a norm of the kind that a decoder, or one of its blocks, has."""
  kind = module.ops.rms_norm if module.norm == "rms" else module.ops.layer_norm
  return kind(eps=module.norm_eps, name=name)


class TextDecoder(LanguageModel):
  """A causal language model, or a classifier that reads the last token of a text.

  Attributes:
    ops: The layer family.
    num_classes: Number of classes; 0 for logits of the next tokens.
    vocab_size: Number of different tokens.
    context_length: Largest number of tokens of a text.
    width: Channels of a token.
    depth: Number of blocks.
    num_heads: Attention heads.
    kv_heads: Heads of keys and values, which heads of queries share; 0 for one each.
    head_dim: Channels of a head; 0 shares the width among the heads.
    mlp_dim: Hidden channels of the feed-forward branch.
    activation: A name of `functional.GATES`.
    gated_mlp: Gated linear units in it (SwiGLU, with activation 'silu').
    attention_bias: Whether queries, keys and values have biases.
    attention_out_bias: Whether the projection behind them has one.
    mlp_bias: Whether the maps of the feed-forward branch have.
    norm: 'layer' or 'rms'.
    norm_eps: Epsilon of the norms.
    positions: 'learned', a table that is added; or 'rotary', turned queries and keys.
    rope_theta: Base of the rotary frequencies.
    rope_scaling: Llama 3's stretching of slow frequencies: factor, low and high frequency factor,
      and the context length before it; () for none.
    tied: Whether the map to the vocabulary is the table of tokens.
    pad_token: Id that fills short texts; -1 for none.
    dropout: Rate of embeddings and branches.
    attention_dropout: Rate of attention weights.
  """

  ops: Ops
  num_classes: int = 0
  vocab_size: int = 50257
  context_length: int = 1024
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  kv_heads: int = 0
  head_dim: int = 0
  mlp_dim: int = 3072
  activation: str = "gelu_tanh"
  gated_mlp: bool = False
  attention_bias: bool = True
  attention_out_bias: bool = True
  mlp_bias: bool = True
  norm: str = "layer"
  norm_eps: float = 1e-5
  positions: str = "learned"
  rope_theta: float = 10000.0
  rope_scaling: tuple[float, ...] = ()
  tied: bool = True
  pad_token: int = -1
  dropout: float = 0.1
  attention_dropout: float = 0.1

  @property
  def head(self) -> str | None:
    """The map to classes; none for a language model."""
    return "score" if self.num_classes else None

  @property
  def predicts(self) -> str:
    """Classes, or the next tokens."""
    return "classes" if self.num_classes else "next_tokens"

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The decoder's blocks."""
    return tuple(f"decoder_{i}" for i in range(self.depth))

  def setup(self):
    self.embeddings = TokenEmbeddings(
      self.ops,
      vocab_size=self.vocab_size,
      width=self.width,
      positions=self.context_length if self.positions == "learned" else 0,
      token_types=0,
      norm_eps=None,
      name="embeddings",
    )

  def places(self, tokens: Array, mask: Array | None) -> Array:
    if mask is None:
      return counted(tokens.shape[1])
    return jnp.maximum(jnp.cumsum(mask != 0, axis=1) - 1, 0)

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    train: bool = False,
    *,
    mask: Array | None = None,
    types: None = None,
    embeddings: Array | None = None,
    at: Array | None = None,
  ) -> Array:
    """Reads texts.

    Args:
      tokens: Ids, integers [N, L].
      train: Whether channels are dropped; the stream of random numbers is `dropout`.
      mask: [N, L], zero where there is padding, at either end; None for no padding.
      types: None: decoders know no types of tokens.
      embeddings: Takes the place of the embedding module's output, [N, L, D].
      at: Positions [N] whose next token is predicted; None for all.

    Returns:
      Logits of the next token, float32 at least: [N, L, vocab_size], or [N, vocab_size] at places.
      With classes, their logits [N, num_classes].
    """
    self._check(
      tokens,
      mask,
      {
        "norm": (self.norm, NORMS),
        "positions": (self.positions, POSITIONS),
        "activation": (self.activation, F.GATES),
      },
    )
    if types is not None:
      raise InputError("A decoder has no token types.", "Omit types.")
    allowed = causal(tokens.shape[1])
    if mask is not None:
      allowed = allowed & (mask != 0)[:, None, None, :]
    bias, rotary = mask_bias(allowed), self._rotary(self.places(tokens, mask))
    x = self._embedded(tokens, mask, None, embeddings, train)
    for i in range(self.depth):
      x = self._layer(i)(x, train, bias, rotary)
    if self.num_classes:
      score = self.ops.dense(self.num_classes, use_bias=False, name="score")
      x = at_places(norm_of(self, "norm")(x), last_places(tokens, mask))
      return self.ops.readout(score, x, tokens=True)
    x = norm_of(self, "norm")(at_places(x, at))
    return logits_of_vocabulary(self, x, tied=self.tied, use_bias=False)

  def _rotary(self, places: Array) -> Rotary | None:
    if self.positions != "rotary":
      return None
    head_dim = self.head_dim or self.width // self.num_heads
    return rotary_angles(places[..., None], head_dim, self.rope_theta, self.rope_scaling)

  def _layer(self, index: int) -> nn.Module:
    return self.ops.block(DecoderLayer)(
      self.ops.at_layer(index, self.depth),
      num_heads=self.num_heads,
      kv_heads=self.kv_heads,
      head_dim=self.head_dim,
      mlp_dim=self.mlp_dim,
      activation=self.activation,
      gated_mlp=self.gated_mlp,
      attention_bias=self.attention_bias,
      attention_out_bias=self.attention_out_bias,
      mlp_bias=self.mlp_bias,
      norm=self.norm,
      norm_eps=self.norm_eps,
      dropout=self.dropout,
      attention_dropout=self.attention_dropout,
      name=f"decoder_{index}",
    )


_LLAMA = {
  "vocab_size": 128256,
  "context_length": 131072,
  "gated_mlp": True,
  "activation": "silu",
  "attention_bias": False,
  "attention_out_bias": False,
  "mlp_bias": False,
  "norm": "rms",
  "positions": "rotary",
  "rope_theta": 500000.0,
  "rope_scaling": (32.0, 1.0, 4.0, 8192.0),
  "dropout": 0.0,
  "attention_dropout": 0.0,
}
_TINY = {
  "vocab_size": 60,
  "context_length": 38,
  "width": 32,
  "depth": 2,
  "num_heads": 4,
  "mlp_dim": 64,
}

VARIANTS: dict[str, dict[str, Any]] = {
  "gpt2": {},
  "gpt2_medium": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
  "gpt2_large": {"width": 1280, "depth": 36, "num_heads": 20, "mlp_dim": 5120},
  "gpt2_xl": {"width": 1600, "depth": 48, "num_heads": 25, "mlp_dim": 6400},
  "llama_3_2_1b": {
    **_LLAMA,
    "width": 2048,
    "depth": 16,
    "num_heads": 32,
    "kv_heads": 8,
    "mlp_dim": 8192,
  },
  "llama_3_2_3b": {
    **_LLAMA,
    "width": 3072,
    "depth": 28,
    "num_heads": 24,
    "kv_heads": 8,
    "mlp_dim": 8192,
  },
}

TEST_VARIANTS: dict[str, dict[str, Any]] = {
  "gpt2_tiny": _TINY,
  "gpt2_tiny_classifier": {**_TINY, "num_classes": 3},
  "llama_tiny": {**_LLAMA, **_TINY, "kv_heads": 2, "tied": False, "rope_scaling": ()},
}

register(
  TextDecoder,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.text_decoder:KEYS",
  readers="bcos_jax.convert.architectures.text_decoder:READERS",
)

"""BERT (arXiv 1810.04805), DistilBERT (arXiv 1910.01108) and RoBERTa (arXiv 1907.11692).

One definition: they differ in types and counting of tokens, in the head's activation and in where
dropout stands; each difference is a field. Placements and epsilons are those of transformers.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from ... import functional as F
from ...layers import dropout
from ...ops import Ops
from ..blocks.attention import Attention, mask_bias
from ..blocks.mlp import Mlp
from ..registry import register
from .language_model import (
  LanguageModel,
  TokenEmbeddings,
  at_places,
  counted,
  logits_of_vocabulary,
)

Array = jax.Array

TASKS = ("classify", "masked_lm")
POSITIONS = ("counted", "after_padding")


class EncoderLayer(nn.Module):
  """Attention and feed-forward branches, each followed by a norm of the sum.

  Fields as in `TextEncoder`.
  """

  ops: Ops
  num_heads: int
  mlp_dim: int
  activation: str
  norm_eps: float
  dropout: float
  attention_dropout: float
  attention_branch_dropout: bool

  @nn.compact
  def __call__(self, x: Array, train: bool = False, bias: Array | None = None) -> Array:
    """Maps [N, L, D] to [N, L, D]; `bias` as for `Attention`."""
    ops = self.ops
    y = Attention(ops, self.num_heads, dropout=self.attention_dropout, name="attn")(
      x, train, bias=bias
    )
    y = dropout(self, y, self.dropout * self.attention_branch_dropout, train)
    x = ops.layer_norm(eps=self.norm_eps, name="norm1")(x + y)
    y = Mlp(ops, self.mlp_dim, self.activation, name="mlp")(x)
    y = dropout(self, y, self.dropout, train)
    return ops.layer_norm(eps=self.norm_eps, name="norm2")(x + y)


class TextEncoder(LanguageModel):
  """An encoder of texts that classifies them, or fills in masked tokens.

  Attributes:
    ops: The layer family.
    task: 'classify': the first token stands for the text; or 'masked_lm'.
    num_classes: Number of logits of a classifier; 0 for none: the network then returns the last
      hidden states [N, L, D]. Masked language models always have `vocab_size` logits.
    vocab_size: Number of different tokens.
    context_length: Largest number of tokens of a text.
    width: Channels of a token.
    depth: Number of blocks.
    num_heads: Attention heads.
    mlp_dim: Hidden channels of the feed-forward branch.
    activation: A name of `functional.GATES`.
    token_types: Number of types of tokens, such as first and second text; 0 for none.
    positions: 'counted' from the start; or 'after_padding', counted among tokens that are not
      padding, from `pad_token` + 1, padding having position `pad_token` (RoBERTa).
    pad_token: Id that fills short texts.
    head_activation: Activation between the two maps of a classifier.
    head_entry_dropout: Whether training drops channels also before the first of them (RoBERTa).
    transform_activation: Activation of the head of masked language models; '' for `activation`.
    tied: Whether the map to the vocabulary is the table of tokens.
    norm_eps: Epsilon of the norms.
    dropout: Rate of embeddings and branches.
    attention_dropout: Rate of attention weights.
    attention_branch_dropout: Whether attention branches are dropped as well (not in DistilBERT).
    head_dropout: Rate in front of the classifier.
  """

  ops: Ops
  task: str = "classify"
  num_classes: int = 2
  vocab_size: int = 30522
  context_length: int = 512
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  activation: str = "gelu"
  token_types: int = 2
  positions: str = "counted"
  pad_token: int = 0
  head_activation: str = "tanh"
  head_entry_dropout: bool = False
  transform_activation: str = ""
  tied: bool = True
  norm_eps: float = 1e-12
  dropout: float = 0.1
  attention_dropout: float = 0.1
  attention_branch_dropout: bool = True
  head_dropout: float = 0.1

  head = "classifier"

  @property
  def predicts(self) -> str:
    """See `BaseNetwork`; 'features' are hidden states."""
    if self.task == "masked_lm":
      return "masked_tokens"
    return "classes" if self.num_classes else "features"

  @property
  def reads_first(self) -> bool:
    """See `LanguageModel`; classifiers do."""
    return not self.predicts_tokens

  @property
  def block_paths(self) -> tuple[str, ...]:
    """The encoder's blocks."""
    return tuple(f"encoder_{i}" for i in range(self.depth))

  def setup(self):
    extra = self.pad_token + 1 if self.positions == "after_padding" else 0
    self.embeddings = TokenEmbeddings(
      self.ops,
      vocab_size=self.vocab_size,
      width=self.width,
      positions=self.context_length + extra,
      token_types=self.token_types,
      norm_eps=self.norm_eps,
      name="embeddings",
    )

  def places(self, tokens: Array, mask: Array | None) -> Array:
    if self.positions == "counted":
      return counted(tokens.shape[1])
    text = (tokens != self.pad_token).astype(jnp.int32)
    return jnp.cumsum(text, axis=1) * text + self.pad_token

  @nn.compact
  def __call__(
    self,
    tokens: Array,
    train: bool = False,
    *,
    mask: Array | None = None,
    types: Array | None = None,
    embeddings: Array | None = None,
    at: Array | None = None,
  ) -> Array:
    """Reads texts.

    Args:
      tokens: Ids, integers [N, L].
      train: Whether channels are dropped; the stream of random numbers is `dropout`.
      mask: [N, L], zero where there is padding; None for no padding.
      types: Types of the tokens, integers [N, L]; None for zeros.
      embeddings: Takes the place of the embedding module's output, [N, L, D].
      at: Masked language models: places [N] to fill in; None for all.

    Returns:
      Logits, float32 at least: [N, classes]; of a masked language model [N, L, vocab_size], or
      [N, vocab_size] at places. Without classes hidden states [N, L, D].
    """
    self._check(
      tokens,
      mask,
      {
        "task": (self.task, TASKS),
        "positions": (self.positions, POSITIONS),
        "activation": (self.activation, F.GATES),
        "head_activation": (self.head_activation, F.GATES),
      },
    )
    bias = mask_bias(None if mask is None else (mask != 0)[:, None, None, :])
    x = self._embedded(tokens, mask, types, embeddings, train)
    for i in range(self.depth):
      x = self._layer(i)(x, train, bias)
    if self.task == "masked_lm":
      return self._vocabulary(at_places(x, at))
    if not self.num_classes:
      return F.widened(x)
    return self._classes(x[:, 0], train)

  def _classes(self, x: Array, train: bool) -> Array:
    ops = self.ops
    x = dropout(self, x, self.head_dropout * self.head_entry_dropout, train)
    x = ops.head_act(ops.dense(self.width, name="pooler")(x), self.head_activation)
    x = dropout(self, x, self.head_dropout, train)
    return ops.readout(ops.dense(self.num_classes, name="classifier"), x, tokens=True)

  def _vocabulary(self, x: Array) -> Array:
    ops = self.ops
    x = ops.dense(self.width, name="transform")(x)
    x = ops.act(x, self.transform_activation or self.activation)
    x = ops.layer_norm(eps=self.norm_eps, name="transform_norm")(x)
    return logits_of_vocabulary(self, x, tied=self.tied, use_bias=True)

  def _layer(self, index: int) -> nn.Module:
    return self.ops.block(EncoderLayer)(
      self.ops.at_layer(index, self.depth),
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      activation=self.activation,
      norm_eps=self.norm_eps,
      dropout=self.dropout,
      attention_dropout=self.attention_dropout,
      attention_branch_dropout=self.attention_branch_dropout,
      name=f"encoder_{index}",
    )


_LARGE = {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096}
_DISTILBERT = {
  "depth": 6,
  "token_types": 0,
  "head_activation": "relu",
  "head_dropout": 0.2,
  "attention_branch_dropout": False,
}
_ROBERTA = {
  "vocab_size": 50265,
  "token_types": 1,
  "positions": "after_padding",
  "pad_token": 1,
  "head_entry_dropout": True,
  "transform_activation": "gelu",
  "norm_eps": 1e-5,
}
_TINY = {
  "vocab_size": 60,
  "context_length": 38,
  "width": 32,
  "depth": 2,
  "num_heads": 4,
  "mlp_dim": 64,
  "num_classes": 3,
}

VARIANTS: dict[str, dict[str, Any]] = {
  "bert_base": {},
  "bert_large": _LARGE,
  "distilbert_base": _DISTILBERT,
  "roberta_base": _ROBERTA,
  "roberta_large": {**_LARGE, **_ROBERTA},
}

TEST_VARIANTS: dict[str, dict[str, Any]] = {
  "bert_tiny": _TINY,
  "distilbert_tiny": {**_DISTILBERT, **_TINY},
  "roberta_tiny": {**_ROBERTA, **_TINY},
}

register(
  TextEncoder,
  VARIANTS,
  test_variants=TEST_VARIANTS,
  keys="bcos_jax.convert.architectures.text_encoder:KEYS",
  readers="bcos_jax.convert.architectures.text_encoder:READERS",
)

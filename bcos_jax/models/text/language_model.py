"""Shared parts of language models: embeddings, checks of token ids, vocabularies.

A language model reads token ids [N, L]. What it computes behind its embedding module is a function
of the embeddings [N, L, D] alone, and every one of them takes these in place of ids: explanations
and attributions are measured there, and the embedding module shows which parts it added.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import operator
from typing import Any

from flax import linen as nn
import jax
from jax import core
import jax.numpy as jnp
import numpy as np

from ... import functional as F
from ...errors import InputError, unknown_name
from ...layers import dropout
from ...ops import Ops
from ..base import BaseNetwork

Array = jax.Array

table_init = nn.initializers.normal(0.02)


class TokenEmbeddings(nn.Module):
  """Tokens, their positions and their types become vectors, are added and, mostly, normalised.

  Attributes:
    ops: The layer family.
    vocab_size: Number of different tokens.
    width: Channels of a token.
    positions: Rows of the table of positions; 0 for none.
    token_types: Rows of the table of types; 0 for none.
    norm_eps: Epsilon of the layer norm; None for no norm.

  Parameters: `word` [vocab_size, D], `position` [positions, D], `token_type` [token_types, D],
  `norm`.
  """

  ops: Ops
  vocab_size: int
  width: int
  positions: int
  token_types: int
  norm_eps: float | None

  def setup(self):
    sizes = {"word": self.vocab_size, "position": self.positions, "token_type": self.token_types}
    self.tables = {
      name: self.param(name, table_init, (rows, self.width), self.ops.param_dtype)
      for name, rows in sizes.items()
      if rows
    }
    if self.norm_eps is not None:
      self.norm = self.ops.layer_norm(eps=self.norm_eps, name="norm")

  def parts(self, tokens: Array, places: Array, types: Array | None) -> dict[str, Array]:
    """Returns what is added for each token, each [N, L, D], by the name of its table."""
    index = {"word": tokens, "position": places}
    index["token_type"] = jnp.zeros_like(tokens) if types is None else types
    # An id beyond a table would silently read another row: NaN instead.
    outside = {"mode": "fill", "fill_value": jnp.nan, "wrap_negative_indices": False}
    return {
      name: jnp.asarray(table).at[index[name]].get(**outside) for name, table in self.tables.items()
    }

  def combine(self, total: Array) -> Array:
    """Returns embeddings [N, L, D] for the sum of the parts."""
    total = total.astype(self.ops.dtype or total.dtype)
    return total if self.norm_eps is None else self.norm(total)

  def __call__(self, tokens: Array, places: Array, types: Array | None = None) -> Array:
    """Maps ids [N, L], their rows of positions and their types to embeddings [N, L, D]."""
    return self.combine(functools.reduce(operator.add, self.parts(tokens, places, types).values()))

  @property
  def word(self) -> Array:
    """The table of tokens, [vocab_size, D]."""
    return self.tables["word"]


class LanguageModel(BaseNetwork):
  """Base of language models; they have the fields `ops`, `vocab_size` and `context_length`.

  All are called as `model.apply(variables, ids, mask=mask)`; see `__call__` of each.
  """

  reads = "text"
  takes_embeddings = True
  input_map = "embeddings"
  reads_first = False
  """Whether its head reads the first token, which then cannot be padding."""

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of one: token ids, int32 [1, T]."""
    return jax.ShapeDtypeStruct((1, self.context_length), jnp.int32)

  def parts(
    self, tokens: Array, *, mask: Array | None = None, types: Array | None = None
  ) -> dict[str, Array]:
    """Returns what the embedding module adds for each token: `word`, `position`, `token_type`."""
    return self.embeddings.parts(tokens, self.places(tokens, mask), types)

  def combine(self, total: Array) -> Array:
    """Returns the embedding module's output for the sum of its parts, [N, L, D]."""
    return self.embeddings.combine(total)

  def embed(self, tokens: Array, *, mask: Array | None = None, types: Array | None = None) -> Array:
    """Returns the embedding module's output, [N, L, D]: what `__call__` takes as `embeddings`."""
    return self.embeddings(tokens, self.places(tokens, mask), types)

  def places(self, tokens: Array, mask: Array | None) -> Array:
    """Returns the row of each token in the table of positions, [N, L] or [1, L]."""
    raise NotImplementedError

  def _embedded(self, tokens, mask, types, embeddings, train: bool) -> Array:
    """Returns the embeddings, given ones or those of the tokens, as training drops them."""
    if embeddings is None:
      embeddings = self.embed(tokens, mask=mask, types=types)
    return dropout(self, embeddings, self.dropout, train)

  def _check(self, tokens: Array, mask: Array | None, kinds: Mapping[str, tuple[Any, Any]]):
    for kind, (value, known) in kinds.items():
      if value not in known:
        raise unknown_name(kind, value, known)
    check_tokens(tokens, self.context_length)
    if mask is not None and mask.shape != tokens.shape:
      raise InputError(
        f"The mask has shape {mask.shape} for ids of shape {tokens.shape}.",
        "Give one number per token: 1 for text, 0 for padding.",
      )
    if not isinstance(tokens, core.Tracer):
      check_ids(tokens, self.vocab_size)


def check_tokens(tokens: Array, context_length: int) -> None:
  """Raises InputError unless tokens are integers [N, L] with L up to the context."""
  fits = tokens.ndim == 2 and 0 < tokens.shape[1] <= context_length
  if not fits or not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise InputError(
      f"The network got {tokens.dtype} of shape {tokens.shape}, expected token ids, integers "
      f"[N, L] with L up to {context_length}.",
      "Pass the output of the checkpoint's tokenizer, truncated where texts are longer.",
    )


def check_ids(tokens: Any, vocab_size: int) -> None:
  """Raises InputError unless every id is in the vocabulary; ids as concrete values."""
  ids = np.asarray(tokens)
  low, high = int(ids.min()), int(ids.max())
  if low < 0 or high >= vocab_size:
    raise InputError(
      f"The token ids span {low} to {high}, expected 0 to {vocab_size - 1}.",
      "Use the tokenizer of the network's checkpoint.",
    )


def counted(length: int) -> Array:
  """Returns the places of tokens that are counted from the start, [1, L]."""
  return jnp.arange(length)[None]


def at_places(x: Array, at: Array | None) -> Array:
  """Returns the tokens at places [N], as [N, D]; all of [N, L, D] if there are none."""
  if at is None:
    return x
  return jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]


def logits_of_vocabulary(model: LanguageModel, x: Array, *, tied: bool, use_bias: bool) -> Array:
  """Returns logits of each token of the vocabulary, [..., vocab_size], float32 at least."""
  head = model.ops.vocabulary(model.vocab_size, use_bias=use_bias, name="vocabulary")
  table = model.embeddings.word.T.astype(x.dtype) if tied else None
  return F.widened(head(x, table))

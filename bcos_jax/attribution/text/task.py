"""The interface of a network on texts: functions of arrays, independent of the framework.

Token ids and the mask of real tokens go in. Padding, what the mask leaves out, is at the end.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import unknown_name
from ..task import Array

READS = ("first", "last", "mean")
_FUNCTIONS = ("predict", "embed", "forward", "attentions", "lrp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTask:
  """A network on texts: functions of arrays that JAX can trace, and its special tokens.

  Give `jax.tree_util.Partial(function, variables)` where weights are large: what a plain function
  closes over is compiled into the program.

  Attributes:
    predict: (ids int32 [N, L], mask bool [N, L]) -> logits [N, C]; of a decoder, those of the
      next token after each text.
    embed: (ids, mask) -> [N, L, D], what gradients are taken at; for gradient methods.
    forward: (embeddings [N, L, D], mask) -> logits, with `forward(embed(ids, mask), mask)` equal
      to `predict(ids, mask)`; for gradient methods.
    attentions: (ids, mask) -> [N, layers, heads, L, L], the weights of each layer, the first one
      first; rows (queries) sum to 1. For methods that look at attention.
    lrp: As `forward`, with the backward rules of `attribution.attention.lrp_ops`; for AttnLRP.
    mask_id: Replacement of an absent token: the id of [MASK]. Decoders without one take that of
      their end of text.
    special_ids: Ids that are never replaced and never counted, such as [CLS], [SEP] and [PAD].
    pad_id: Fills texts up where tokens are deleted.
    vocabulary: Number of ids, for the check that all are known; None for no check.
    reads: Where the head reads the last layer: 'first' token, 'last' real token, or their 'mean'.
  """

  predict: Callable[[Array, Array], Array]
  embed: Any = None  # a Callable[[Array, Array], Array], for methods that need it
  forward: Callable[[Array, Array], Array] | None = None
  attentions: Any = None  # likewise
  lrp: Callable[[Array, Array], Array] | None = None
  mask_id: int
  special_ids: tuple[int, ...] = ()
  pad_id: int = 0
  vocabulary: int | None = None
  reads: str = "first"

  def __post_init__(self):
    # As trees, so that the task itself is an argument of compiled functions.
    for name in _FUNCTIONS:
      function = getattr(self, name)
      if callable(function) and not isinstance(function, jax.tree_util.Partial):
        object.__setattr__(self, name, jax.tree_util.Partial(function))
    object.__setattr__(self, "special_ids", tuple(self.special_ids))
    if self.reads not in READS:
      raise unknown_name("reading", self.reads, READS)

  def special(self, ids: Array | np.ndarray, mask: Array | np.ndarray) -> Array | np.ndarray:
    """Returns where a token is special or padding, bool [N, L]; of NumPy arrays as NumPy's."""
    which = np if isinstance(ids, np.ndarray) else jnp
    return which.isin(ids, which.asarray(self.special_ids, ids.dtype)) | ~mask

  def read_out(self, mask: Array) -> Array:
    """Returns the share of each token in what the head sees, float32 [N, L] with sum 1."""
    if self.reads == "mean":
      return mask / jnp.sum(mask, axis=1, keepdims=True)
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    place = jnp.argmax(mask, axis=1) if self.reads == "first" else last
    return jax.nn.one_hot(place, mask.shape[1])


jax.tree_util.register_dataclass(
  TextTask, _FUNCTIONS, ["mask_id", "special_ids", "pad_id", "vocabulary", "reads"]
)

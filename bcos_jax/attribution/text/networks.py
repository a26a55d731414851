"""Adapters of this package's language models to `TextTask`, and their own explanations."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import tree_util
import jax.numpy as jnp
import numpy as np

from ...errors import InputError
from ...explain.targets import Variables
from ...explain.text_reader import BUCKETS, TextReader, pad_id
from ...explain.tokens import explain_tokens
from ...models import LanguageModel
from ...text.tokens import special_ids
from ..attention import in_order, lrp_ops
from ..families import SEEN, SeenAttention, replaced
from ..task import Array
from .task import TextTask


def reader_task(reader: TextReader, *, rule: str = "attn_lrp") -> TextTask:
  """Returns the task of a network with the tokenizer that it reads with.

  Special tokens are those that begin, end and fill texts. Absent tokens become the mask token or,
  where the tokenizer has none, its unknown or end token.

  Raises:
    InputError: As `language_task`.
  """
  source = reader.tokenizer
  stand_ins = (source.mask_token_id, source.unk_token_id, source.eos_token_id, 0)
  return language_task(
    reader.model,
    reader.variables,
    mask_id=next(number for number in stand_ins if number is not None),
    special_ids=tuple(special_ids(source)),
    pad_id=pad_id(reader.model, source),
    rule=rule,
  )


def language_task(
  model: LanguageModel,
  variables: Variables,
  *,
  mask_id: int,
  special_ids: tuple[int, ...] = (),
  pad_id: int = 0,
  rule: str = "attn_lrp",
) -> TextTask:
  """Returns the task of a classifier, or of a decoder that predicts the next token.

  It computes in float32. Tasks of equal models share what is compiled.

  Args:
    model: Made by `create` or `bcosify`.
    variables: Its variables.
    mask_id, special_ids, pad_id: Of `TextTask`.
    rule: For AttnLRP, see `attribution.attn_lrp`.

  Raises:
    InputError: A network that fills in masked tokens, or has no logits.
  """
  decoder = model.predicts == "next_tokens"
  if not decoder and model.predicts != "classes":
    raise InputError(
      f"This {type(model).__name__} has no logits of a whole text.",
      "Use a classifier or a decoder.",
    )
  model = model.clone(ops=dataclasses.replace(model.ops, dtype=None, recompute=False))
  # Flax makes modules hashable, which it does not declare.
  functions = _functions(model, rule)  # pyright: ignore[reportArgumentType]
  return TextTask(
    **{name: tree_util.Partial(function, variables) for name, function in functions.items()},
    mask_id=mask_id,
    special_ids=special_ids,
    pad_id=pad_id,
    vocabulary=model.vocab_size,
    reads="last" if decoder else "first",
  )


def explain_with(
  model: LanguageModel, variables: Variables, *, batch_size: int | None = 32
) -> Callable[..., np.ndarray]:
  """Returns a network's own explanations as a function (ids, mask, targets) -> contributions."""

  def explain(ids: np.ndarray, mask: np.ndarray, targets: Any = None) -> np.ndarray:
    options = {"mask": mask, "buckets": BUCKETS, "keep_weights": False}
    ex = explain_tokens(model, variables, ids, targets, batch_size, **options)
    return np.asarray(ex.contributions)

  return explain


@functools.lru_cache(maxsize=16)
def _functions(model: Any, rule: str) -> dict[str, Callable[..., Array]]:
  """Returns the functions of a task, of variables first; the same ones for equal models."""
  seeing = model.clone(ops=replaced(model.ops, SeenAttention))

  def predict(variables, ids, mask):
    return _logits(model, variables, ids, mask)

  def embed(variables, ids, mask):
    return model.apply(variables, ids, mask=mask, method="embed")

  def attentions(variables, ids, mask):
    shown = seeing.apply(variables, ids, mask=mask, mutable=[SEEN], **_at(model, mask))[1]
    return jnp.stack([leaf for _, leaf in in_order(shown[SEEN])], axis=1)

  return {
    "predict": predict,
    "embed": embed,
    "forward": _forward(model),
    "attentions": attentions,
    "lrp": _forward(model.clone(ops=lrp_ops(model.ops, rule))),
  }


def _forward(model: LanguageModel) -> Callable[..., Array]:
  def forward(variables, embeddings, mask):
    ids = jnp.zeros(mask.shape, jnp.int32)  # not looked at
    return _logits(model, variables, ids, mask, embeddings=embeddings)

  return forward


def _logits(model: LanguageModel, variables, ids: Array, mask: Array, **fields: Any) -> Array:
  logits: Any = model.apply(variables, ids, mask=mask, **_at(model, mask), **fields)
  return logits


def _at(model: LanguageModel, mask: Array) -> dict[str, jax.Array]:
  """Returns where a decoder predicts: at the last token of each text."""
  if model.predicts != "next_tokens":
    return {}
  return {"at": mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)}

"""Initial states of runs on texts: a language model and its tokenizer."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import ops
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.explain.text_reader import check_tokenizer, tokenizer_in
from bcos_jax.io import bundles
from bcos_jax.models import LanguageModel, TextDecoder
from bcos_jax.text.tokenizer import read_tokenizer
from bcos_jax.variables import abstract_variables

from .bundles import open_bundle
from .config import TEXT_OBJECTIVES
from .data.text import reviews, vocabularies

_NEW = ("pooler", "classifier", "transform", "transform_norm", "vocabulary")
"""Modules of heads: what another task may lack, and reinitialises."""


def language_network(config: ConfigDict, *, weights: bool = True) -> tuple[nn.Module, Any | None]:
  """Returns the language model to train and its variables, for `start.network`.

  The embeddings and blocks are those of `config.init`; a head for another task, or for another
  number of classes, is drawn. A conventional network is B-cosified if the recipe's ops are B-cos.

  Args:
    config: The recipe. Fields in `config.model` change those of the bundle's network, such as
      `dropout`, as long as embeddings and blocks keep their shapes.
    weights: Whether to read `init`.

  Returns:
    The module, and its variables or None if they are to be drawn at random.

  Raises:
    InputError: The network is none for the objective; config and bundle contradict each other.
  """
  family = ops.from_dict(config.ops.to_dict())
  fields = _fields(config)
  if not (weights and config.init):
    if "vocab_size" not in fields and config.data.tokenizer:
      fields["vocab_size"] = len(_given(config.data.tokenizer))
    model = bcos_jax.create(config.model.name, ops=family, **fields)
    _check_kind(config, model)
    return model, None
  bundle = open_bundle(config.init)
  _check_kind(config, bundle.model)
  _check_name(config, bundle, bcos_jax.create(config.model.name, ops=family))
  model, variables = _adapted(config, bundle, fields)
  if isinstance(model.ops, ops.StandardOps) and isinstance(family, ops.BcosOps):
    return bcos_jax.bcosify(model, variables, ops=family)
  if model.ops != family:
    raise InputError(
      f"The bundle {config.init!r} has the ops {model.ops}, the config {family}.",
      "Give the config the same ops, or start from a conventional network to B-cosify it.",
    )
  return model, variables


def tokenizer_for(config: ConfigDict, model: nn.Module) -> Any:
  """Returns the tokenizer of a recipe: of `data.tokenizer`, or else of the bundle in `init`.

  Raises:
    InputError: There is none, it cannot be read, or it has another vocabulary than the network.
  """
  if config.data.tokenizer:
    source = _given(config.data.tokenizer)
  elif config.init:
    source = tokenizer_in(_bundle_of_tokenizer(config.init))
  else:
    raise InputError(
      "The recipe names no tokenizer.",
      "Set --config.data.tokenizer to a folder with one, or --config.init to a bundle with one.",
    )
  check_tokenizer(source, model)
  needed = {"masked_lm": "mask_token", "causal_lm": "eos_token"}.get(config.objective.name)
  if needed and getattr(source, f"{needed}_id") is None:
    raise InputError(
      f"The tokenizer has no {needed.replace('_', ' ')}, which {config.objective.name} needs.",
      f"Set {needed} in its tokenizer_config.json.",
    )
  return source


def _fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields of the network that the config sets, its task among them."""
  fields = config.model.to_dict()
  del fields["name"]
  if config.objective.name == "causal_lm":  # Decoders have neither classes nor other tasks.
    del fields["num_classes"]
    return fields
  return fields | {"task": TEXT_OBJECTIVES[config.objective.name]}


def _given(name: str) -> Any:
  """Reads the tokenizer of a folder, or makes that of the reviews' words."""
  kinds = {"reviews": "encoder", "reviews/decoder": "decoder"}
  if name not in kinds or pathlib.Path(name).is_dir():
    return read_tokenizer(name)
  with tempfile.TemporaryDirectory() as folder:
    return vocabularies.save_words(folder, reviews.vocabulary(), kind=kinds[name])


def _bundle_of_tokenizer(init: str) -> bundles.Bundle:
  """Opens a bundle for its tokenizer; its weights are not read again if they need not be."""
  folder = pathlib.Path(init)
  return bundles.without_weights(folder) if bundles.is_bundle(folder) else open_bundle(init)


def _check_kind(config: ConfigDict, model: nn.Module) -> None:
  if not isinstance(model, LanguageModel):
    raise InputError(
      f"The objective {config.objective.name!r} is for language models, but the model is a "
      f"{type(model).__name__}.",
      "Set --config.model.name to one, such as bert_base.",
    )
  if isinstance(model, TextDecoder) != (config.objective.name == "causal_lm"):
    raise InputError(
      f"The objective {config.objective.name!r} does not fit a {type(model).__name__}.",
      "Decoders take causal_lm, encoders text or masked_lm.",
    )


def _check_name(config: ConfigDict, bundle: bundles.Bundle, named: nn.Module) -> None:
  """Sizes are the bundle's; what makes a BERT no RoBERTa must be as the config says."""
  for trait in ("activation", "positions", "head_activation", "norm", "gated_mlp"):
    own, asked = (getattr(model, trait, None) for model in (bundle.model, named))
    if own != config.model.get(trait, asked):
      raise InputError(
        f"The bundle {config.init!r} holds a network like {bundle.config['architecture']!r}, the "
        f"config names {config.model.name!r}: their {trait} differ, {own!r} and {asked!r}.",
        f"Set --config.model.name={bundle.config['architecture']}.",
      )


def _adapted(
  config: ConfigDict, bundle: bundles.Bundle, fields: dict[str, Any]
) -> tuple[nn.Module, Any]:
  """Returns a bundle's network with the config's fields, its head reinitialised if it differs."""
  source = bundle.model
  known = {f.name for f in dataclasses.fields(source)} - {"ops", "parent", "name"}
  for name in fields:
    if name not in known:
      raise unknown_name(f"field of {type(source).__name__}", name, known)
  model = source.clone(**fields)
  _check_vocabulary(config, source, model)
  wanted = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  given = traverse_util.flatten_dict(bundle.variables, sep="/")
  fits = {
    path
    for path in wanted
    if path in given
    and given[path].shape == wanted[path].shape
    and not any(re.search(pattern, path) for pattern in config.redraw)
  }
  fresh = wanted.keys() - fits
  wrong = sorted(path for path in fresh if path.split("/")[1] not in _NEW)
  if wrong and not config.redraw:
    raise InputError(
      f"Only the head may change, but these do not fit the config: {wrong[:4]}.",
      "Leave out --config.model fields that change shapes, or name them in --config.redraw.",
    )
  drawn = _drawn(model, fresh, config.seed) if fresh else {}
  leaves = {path: given[path] for path in fits} | drawn
  return model, traverse_util.unflatten_dict(leaves, sep="/")


def _check_vocabulary(config: ConfigDict, source: nn.Module, model: nn.Module) -> None:
  """Raises InputError where a config asks a bundle for another vocabulary."""
  if source.vocab_size != model.vocab_size:
    raise InputError(
      f"The bundle {config.init!r} has {source.vocab_size} tokens, the config {model.vocab_size}.",
      f"Set --config.model.vocab_size={source.vocab_size}, or leave it out.",
    )


def _drawn(model: nn.Module, paths: set[str], seed: int) -> dict[str, jax.Array]:
  def draw(key: jax.Array) -> dict[str, jax.Array]:
    blank = jax.numpy.zeros(model.input_spec.shape, model.input_spec.dtype)
    leaves = traverse_util.flatten_dict(model.init(key, blank), sep="/")
    return {path: leaves[path] for path in paths}  # The compiler leaves the others out.

  return jax.jit(draw)(jax.random.key(seed, impl="rbg"))

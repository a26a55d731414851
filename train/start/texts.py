"""Language models: new ones, those that a bundle gives to a recipe, and their tokenizers."""

from __future__ import annotations

import pathlib
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
from bcos_jax.models import fields_of, is_language_model
from bcos_jax.text.tokenizer import read_tokenizer
from bcos_jax.variables import abstract_variables, exactly, graft

from ..config import TEXT_OBJECTIVES
from ..data.text import reviews, vocabularies
from .bundles import Network, check_redraw, open_bundle

_HEADS = ("pooler", "classifier", "transform", "transform_norm", "vocabulary")
"""Modules of heads: what another task may lack, or have in another shape."""


def new(config: ConfigDict, family: ops.Ops) -> nn.Module:
  """Returns the language model that a recipe names, of a layer family.

  Raises:
    InputError: It is none for the objective.
  """
  fields = _fields(config)
  if "vocab_size" not in fields and config.data.tokenizer:
    fields["vocab_size"] = len(_given(config.data.tokenizer))
  model = bcos_jax.create(config.model.name, ops=family, **fields)
  _check_kind(config, model)
  return model


def adapted(config: ConfigDict, source: str, bundle: bundles.Bundle) -> Network:
  """Returns a bundle's network with the recipe's fields.

  The embeddings and blocks are those of the bundle; a head for another task, or for another number
  of classes, is reinitialised. Fields in `config.model` change those of the bundle's network, such
  as `dropout`, as long as embeddings and blocks keep their shapes.

  Args:
    config: The recipe.
    source: Where the bundle is from, for messages.
    bundle: What the network starts from.

  Raises:
    InputError: The network is none for the objective; config and bundle contradict each other.
  """
  _check_kind(config, bundle.model)
  family = ops.from_dict(config.ops.to_dict())
  _check_name(config, source, bundle, bcos_jax.create(config.model.name, ops=family))
  fields = _fields(config)
  known = fields_of(type(bundle.model))
  for name in fields:
    if name not in known:
      raise unknown_name(f"field of {type(bundle.model).__name__}", name, known)
  model = bundle.model.clone(**fields)
  _check_vocabulary(source, bundle.model, model)
  check_redraw(config.redraw, model, bundle.variables)
  return model, graft(
    model,
    bundle.variables,
    (*config.redraw, *_unlike_heads(model, bundle.variables)),
    key=jax.random.key(config.seed, impl="rbg"),
    whose=f"The variables of the bundle {source!r}, but for the head,",
    fix="Leave out --config.model fields that change shapes, or name them in --config.redraw.",
  )


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
  return bundles.without_weights(folder) if bundles.has_bundle_config(folder) else open_bundle(init)


def _check_kind(config: ConfigDict, model: nn.Module) -> None:
  if not is_language_model(model):
    raise InputError(
      f"The objective {config.objective.name!r} is for language models, but the model is a "
      f"{type(model).__name__}.",
      "Set --config.model.name to one, such as bert_base.",
    )
  if (model.predicts == "next_tokens") != (config.objective.name == "causal_lm"):
    raise InputError(
      f"The objective {config.objective.name!r} does not fit a {type(model).__name__}.",
      "Decoders take causal_lm, encoders text or masked_lm.",
    )


def _check_name(config: ConfigDict, source: str, bundle: bundles.Bundle, named: nn.Module) -> None:
  """Sizes are the bundle's; what makes a BERT no RoBERTa must be as the config says."""
  for trait in ("activation", "positions", "head_activation", "norm", "gated_mlp"):
    own, asked = (getattr(model, trait, None) for model in (bundle.model, named))
    if own != config.model.get(trait, asked):
      raise InputError(
        f"The bundle {source!r} holds a network like {bundle.config['architecture']!r}, the "
        f"config names {config.model.name!r}: their {trait} differ, {own!r} and {asked!r}.",
        f"Set --config.model.name={bundle.config['architecture']}.",
      )


def _check_vocabulary(source: str, own: nn.Module, asked: nn.Module) -> None:
  """Raises InputError where a config asks a bundle for another vocabulary."""
  if own.vocab_size != asked.vocab_size:
    raise InputError(
      f"The bundle {source!r} has {own.vocab_size} tokens, the config {asked.vocab_size}.",
      f"Set --config.model.vocab_size={own.vocab_size}, or omit it.",
    )


def _unlike_heads(model: nn.Module, variables: Any) -> tuple[str, ...]:
  """Returns the leaves of heads that another network lacks, has too many, or in another shape."""
  wanted: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  given: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  shapes = [{path: leaf.shape for path, leaf in leaves.items()} for leaves in (wanted, given)]
  differing = {path for path, _ in shapes[0].items() ^ shapes[1].items()}
  return exactly(path for path in differing if path.split("/")[1] in _HEADS)

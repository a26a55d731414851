"""Heads of converted networks: the source's own, or new ones for other classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from bcos_jax import models
from bcos_jax.errors import InputError

from .readers import Described
from .sources import Tensors
from .state_dict import num_classes
from .tables.keys import Keys
from .tables.rules import Rule
from .tables.templates import parse

_TEXT_PARTS = ("params/pooler/", "params/classifier/")


def check_classes(classes: int | None) -> None:
  """Raises InputError for a number of classes that no head has."""
  if classes is not None and classes < 1:
    raise InputError(
      f"num_classes is {classes}, expected at least 1.", "Pass the number of your classes."
    )


def fields_for_classes(
  cls: type[models.BaseNetwork], fields: Mapping[str, Any], classes: int | None
) -> dict[str, Any]:
  """Returns the fields of a network; one with classes classifies, whatever its file was for."""
  if classes is None or not cls.takes_embeddings or "task" not in models.fields_of(cls):
    return dict(fields)
  return {**fields, "task": "classify", "num_classes": classes}


def headed(
  state: Tensors, keys: Keys, model: nn.Module, described: Described, classes: int | None
) -> tuple[nn.Module, Tensors, dict[str, str], tuple[str, ...]]:
  """Settles the number of classes: the source's own, or a new head where one is requested.

  Returns:
    The network, the keys that it uses, those that a new head replaces and why, and the beginnings
    of the paths that are reinitialised.
  """
  if model.head is None:
    if classes is not None:
      raise InputError(
        f"A {type(model).__name__} has no classes: num_classes={classes} would change nothing.",
        "Omit --num_classes.",
      )
    return model, state, {}, ()
  head = f"params/{model.head}/"
  rules = [r for r in keys.table if isinstance(r, Rule) and r.targets[0].startswith(head)]
  templates = [template for rule in rules for template in rule.sources if template is not None]
  held = [key for key in state if any(parse(t, key) is not None for t in templates)]
  if classes is None and not held and (not rules or _is_headless(described)):
    return model.clone(num_classes=0), state, {}, ()
  rows = num_classes(state, keys.table, model.head).get("num_classes")
  if classes is None:
    if None not in (rows, described.num_labels) and rows != described.num_labels:
      raise InputError(
        f"The head has {rows} classes, the configuration names {described.num_labels}.",
        f"Give --num_classes {described.num_labels} for a new head, or correct config.json.",
      )
    return model, state, {}, ()
  if classes == rows:
    return model, state, {}, ()
  reason = f"the head is reinitialised with {classes} classes"
  kept = {key: tensor for key, tensor in state.items() if key not in held}
  reinitialised = _reinitialised(model, kept, keys) or ((head,) if held else ())
  return model.clone(num_classes=classes), kept, dict.fromkeys(held, reason), reinitialised


def _is_headless(described: Described) -> bool:
  """Whether a repository of features, without a classifier, was meant to be one."""
  return described.layout == "huggingface" or described.num_labels == 0


def _reinitialised(model: nn.Module, state: Mapping[str, Any], keys: Keys) -> tuple[str, ...]:
  """Returns the parts of a text classifier that no key fills; () for other networks."""
  if not models.is_language_model(model) or model.predicts_tokens:
    return ()

  def filled(part: str) -> bool:
    rules = [e for e in keys.table if isinstance(e, Rule) and e.targets[0].startswith(part)]
    templates = [template for rule in rules for template in rule.sources if template is not None]
    return any(parse(template, key) is not None for template in templates for key in state)

  return tuple(part for part in _TEXT_PARTS if not filled(part))

"""New classification heads for pretrained language models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from bcos_jax import models

from .keys import Keys
from .rules import Rule, parse

_PARTS = ("params/pooler/", "params/classifier/")


def asked_for(
  cls: type[nn.Module], fields: Mapping[str, Any], classes: int | None
) -> dict[str, Any]:
  """Returns the fields of a network; one with classes classifies, whatever its file was for."""
  if classes is None or not cls.takes_embeddings or "task" not in models.fields_of(cls):
    return dict(fields)
  return {**fields, "task": "classify", "num_classes": classes}


def anew(model: nn.Module, state: Mapping[str, Any], keys: Keys) -> tuple[str, ...]:
  """Returns the parts of a text classifier that no key fills; () for other networks."""
  if not models.is_language_model(model) or model.predicts_tokens:
    return ()

  def filled(part: str) -> bool:
    rules = [e for e in keys.table if isinstance(e, Rule) and e.targets[0].startswith(part)]
    templates = [template for rule in rules for template in rule.sources if template is not None]
    return any(parse(template, key) is not None for template in templates for key in state)

  return tuple(part for part in _PARTS if not filled(part))

"""The network that a recipe trains, and the variables that it starts from."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from bcos_jax import ops
from bcos_jax.errors import InputError
from bcos_jax.models import fields_of

from ..config import TAUGHT, TEXT_OBJECTIVES
from . import pictures, texts
from .bundles import (
  Network,
  bcosified,
  check_calibrating,
  check_folding,
  new_head,
  open_bundle,
)


def network(
  config: ConfigDict, init: Network | None = None, *, weights: bool = True
) -> tuple[nn.Module, Any | None]:
  """Returns the module to train and its variables.

  A conventional network is B-cosified if the recipe's ops are B-cos.

  Args:
    config: The recipe; its `model`, `ops` and `init` count.
    init: (model, variables) in memory, taken as they are in place of all three.
    weights: Whether to read `init` or the teacher, which the network starts from.

  Returns:
    The module, and its variables or None if they are to be drawn at random.

  Raises:
    InputError: if config and bundle contradict each other, or a name is unknown.
  """
  if init is not None:
    if config.calibrate and not config.finetune:
      raise InputError(
        f"calibrate={config.calibrate} does nothing: the network is given in memory.",
        "Calibrate it with bcosify(..., calibrate=...).",
      )
    return init
  family = ops.from_dict(config.ops.to_dict())
  reading = _reading(config)
  source = _source(config) if weights else ""
  if not source:
    return reading.new(config, family), None
  model, variables = reading.adapted(config, source, open_bundle(source))
  if model.ops.conventional and not family.conventional:
    if reading is pictures:
      pictures.check_encoding(config, source, model, family)
    return bcosified(model, variables, family, config.fold_mean)
  check_folding(model, variables, config.fold_mean)
  check_calibrating(model, config.calibrate)
  if model.ops != family:
    raise InputError(
      f"The bundle {source!r} has the ops {model.ops}, the config {family}.",
      "Give the config the same ops, or start from a conventional network to B-cosify it.",
    )
  return model, variables


def teacher(config: ConfigDict, key: jax.Array) -> Network:
  """Returns the conventional network that a recipe's network is the B-cos twin of, read again.

  Args:
    config: The recipe.
    key: Of the new head of a fine-tuning, as it was drawn before.
  """
  source = _source(config)
  bundle = open_bundle(source)
  if config.finetune:
    return new_head(bundle.model, bundle.variables, config.model.num_classes, key)
  return _reading(config).adapted(config, source, bundle)


def _reading(config: ConfigDict) -> Any:
  return texts if config.objective.name in TEXT_OBJECTIVES else pictures


def describe(model: nn.Module) -> dict[str, Any]:
  """Returns class, fields and ops of a network as flat values, for checkpoints."""
  fields = {name: getattr(model, name) for name in fields_of(type(model))}
  return {"class": type(model).__name__, **fields, **ops.to_dict(model.ops)}


def _source(config: ConfigDict) -> str:
  """Returns the bundle that the network starts from, "" for none: `init`, or else the teacher."""
  if config.init or config.objective.name not in TAUGHT:
    return config.init
  if not config.objective.teacher:
    raise InputError(
      f"The objective {config.objective.name!r} has no teacher.",
      "Set --config.objective.teacher to a bundle of the pretrained network.",
    )
  return config.objective.teacher

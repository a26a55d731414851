"""What a run starts from: a new network, a bundle, or a network in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import ops
from bcos_jax.errors import InputError

Network = tuple[nn.Module, Any]


def network(config: ConfigDict, init: Network | None = None) -> tuple[nn.Module, Any | None]:
  """Returns the module to train and its variables.

  Args:
    config: The recipe; its `model`, `ops` and `init` count.
    init: (model, variables) in memory, taken as they are in place of all three.

  Returns:
    The module, and its variables or None if they are to be drawn at random.

  Raises:
    InputError: if config and bundle contradict each other, or a name is unknown.
  """
  if init is not None:
    return init
  family = ops.from_dict(config.ops.to_dict())
  if config.init:
    return _from_bundle(config, family)
  fields = {"image_size": config.data.image_size, **config.model.to_dict()}
  return bcos_jax.create(fields.pop("name"), ops=family, **fields), None


def describe(model: nn.Module) -> dict[str, Any]:
  """Returns class, fields and ops of a network as flat values, for checkpoints."""
  hidden = ("ops", "parent", "name")
  fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
  fields = {name: value for name, value in fields.items() if name not in hidden}
  return {"class": type(model).__name__, **fields, **ops.to_dict(model.ops)}


def _from_bundle(config: ConfigDict, family: ops.Ops) -> Network:
  """Loads `config.init`; a conventional network becomes a B-cos one if the config's ops are."""
  bundle = bcos_jax.load(config.init)
  model, variables = bundle.model, bundle.variables
  architecture = bundle.config["architecture"]
  if architecture != config.model.name:
    raise InputError(
      f"The bundle {config.init!r} holds {architecture!r}, the config names {config.model.name!r}.",
      f"Set --config.model.name={architecture}.",
    )
  if model.num_classes != config.model.num_classes:
    raise InputError(
      f"The bundle {config.init!r} has {model.num_classes} classes, the config"
      f" {config.model.num_classes}.",
      f"Set --config.model.num_classes={model.num_classes}.",
    )
  if isinstance(model.ops, ops.StandardOps) and isinstance(family, ops.BcosOps):
    return bcos_jax.bcosify(model, variables, ops=family)
  if model.ops != family:
    raise InputError(
      f"The bundle {config.init!r} has the ops {model.ops}, the config {family}.",
      "Give the config the same ops, or start from a conventional network to B-cosify it.",
    )
  return model, variables

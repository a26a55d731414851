"""Networks of pictures: new ones, and those that a bundle gives to a recipe."""

from __future__ import annotations

import flax.linen as nn
import jax
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import ops
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.io import bundles
from bcos_jax.models import canonical, fields_of
from bcos_jax.variables import graft

from .bundles import Network, check_redraw, without_head


def new(config: ConfigDict, family: ops.Ops) -> nn.Module:
  """Returns the network that a recipe names, of a layer family."""
  fields = {"image_size": config.data.image_size, **config.model.to_dict()}
  return bcos_jax.create(fields.pop("name"), ops=family, **fields)


def adapted(config: ConfigDict, source: str, bundle: bundles.Bundle) -> Network:
  """Returns a bundle's network as a recipe needs it: without a head if it learns no labels.

  With `redraw`, it is the recipe's network with the bundle's leaves; what `redraw` matches is
  reinitialised. Students of ALOE have a convolutional stem that their teachers lack, and keep all
  the rest.

  Args:
    config: The recipe.
    source: Where the bundle is from, for messages.
    bundle: What the network starts from.

  Raises:
    InputError: Config and bundle contradict each other.
  """
  model, variables = bundle.model, bundle.variables
  if config.objective.name not in ("supervised", "match"):
    model, variables = without_head(model, variables)
  if config.redraw:
    own = new(config, model.ops)
    check_redraw(config.redraw, own, variables)
    return own, graft(
      own,
      variables,
      config.redraw,
      key=jax.random.key(config.seed),
      whose=f"The variables of the bundle {source!r}",
      fix=f"Name what may differ in --config.redraw, which is {tuple(config.redraw)}.",
    )
  architecture = bundle.config["architecture"]
  if canonical(architecture) != canonical(config.model.name):
    raise InputError(
      f"The bundle {source!r} holds {architecture!r}, the config names {config.model.name!r}.",
      f"Set --config.model.name={architecture}, or name what may differ with --config.redraw.",
    )
  check_fields(config.model, source, model)
  return model, variables


def check_fields(options: ConfigDict, source: str, model: nn.Module) -> None:
  """Raises InputError unless the section `model` of a recipe says what a bundle's network is."""
  known = fields_of(type(model))
  for name, value in options.items():
    if name == "name":
      continue
    if name not in known:
      raise unknown_name(f"field of {options.name!r}", name, known)
    own = getattr(model, name)
    if own != (tuple(value) if isinstance(value, list) else value):
      raise InputError(
        f"The bundle {source!r} has {name}={own!r}, the config {value!r}.",
        f"Set --config.model.{name}={own}.",
      )


def check_encoding(config: ConfigDict, source: str, model: nn.Module, family: ops.Ops) -> None:
  """A B-cos twin keeps the colours of its original, unless its pairing is `complement`."""
  if family.encoding.pairing == "complement":
    return
  for name in set(config.ops.get("encoding", {})) - {"pairing"}:
    own, given = getattr(model.ops.encoding, name), getattr(family.encoding, name)
    if own != given:
      raise InputError(
        f"The bundle {source!r} has the encoding {name}={own}, the config {given}.",
        f"Set --config.ops.encoding.{name}={own}, or omit it.",
      )

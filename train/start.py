"""What a run starts from: a new network, a bundle, or a network in memory."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import convert, ops, pretrained
from bcos_jax.convert import hub
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


def finetuned(
  bundle: bcos_jax.pretrained.Bundle, family: ops.Ops, num_classes: int, key: jax.Array
) -> Network:
  """Returns a bundle's network with a new head, B-cosified if it is conventional.

  Args:
    bundle: Where to start.
    family: `BcosOps` B-cosify a conventional network; a B-cos network keeps its own. `StandardOps`
      leave a conventional network as it is.
    num_classes: Of the data.
    key: Of the new head.

  Returns:
    The model and its variables.

  Raises:
    InputError: The family would make a B-cos network conventional; or see `new_head`.
  """
  model, variables = new_head(bundle.model, bundle.variables, num_classes, key)
  conventional = isinstance(model.ops, ops.StandardOps)
  if conventional and isinstance(family, ops.BcosOps):
    return bcos_jax.bcosify(model, variables, ops=family)
  if not conventional and isinstance(family, ops.StandardOps):
    raise InputError(
      "The bundle holds a B-cos network, the config has the ops 'standard'.",
      "Leave out --config.ops.family, or start from a conventional network.",
    )
  return model, variables


def new_head(model: nn.Module, variables: Any, num_classes: int, key: jax.Array) -> Network:
  """Returns a network for other classes: all as before, but every leaf of the head drawn anew.

  What belongs to the head is read off the shapes: it is what the number of classes changes.

  Args:
    model: Any architecture.
    variables: Its variables; not modified, leaves that stay are shared.
    num_classes: At least 1.
    key: Of the new leaves.

  Returns:
    The model and its variables.

  Raises:
    InputError: Another leaf does not fit.
  """
  new = model.clone(num_classes=num_classes)
  wanted, other = (
    traverse_util.flatten_dict(bcos_jax.pretrained.abstract_variables(network), sep="/")
    for network in (new, model.clone(num_classes=num_classes + 1))
  )
  given = traverse_util.flatten_dict(variables, sep="/")
  head = {path for path in wanted if wanted[path].shape != other[path].shape}
  # A network without a head has none of its leaves, whatever their shapes.
  head |= {path for path in wanted if path not in given and path.split("/")[1] == model.head}
  problems = sorted(
    path
    for path in wanted.keys() - head
    if path not in given or given[path].shape != wanted[path].shape
  )
  if problems:
    raise InputError(
      f"Only the head may change, but these do not fit {num_classes} classes: {problems}.",
      "Give the variables of this very model.",
    )

  def draw(key: jax.Array) -> dict[str, jax.Array]:
    shape = (1, model.image_size, model.image_size, model.ops.encoding.channels)
    drawn = traverse_util.flatten_dict(new.init(key, jax.numpy.zeros(shape)), sep="/")
    return {path: drawn[path] for path in head}  # The compiler leaves the others out.

  leaves = {path: given[path] for path in wanted.keys() - head} | jax.jit(draw)(key)
  return new, traverse_util.unflatten_dict(leaves, sep="/")


def open_bundle(init: str) -> pretrained.Bundle:
  """Opens what `config.init` names: a bundle, or anything that `convert.from_pretrained` reads.

  Raises:
    InputError: It cannot be read. Nothing is fetched: a hub id must be in the cache.
  """
  if pretrained.is_bundle(pathlib.Path(init)):
    return bcos_jax.load(init)
  if pathlib.Path(init).exists() or hub.is_id(init):
    return convert.from_pretrained(init)
  return bcos_jax.load(init)  # Says what is wrong with it.


def describe(model: nn.Module) -> dict[str, Any]:
  """Returns class, fields and ops of a network as flat values, for checkpoints."""
  hidden = ("ops", "parent", "name")
  fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
  fields = {name: value for name, value in fields.items() if name not in hidden}
  return {"class": type(model).__name__, **fields, **ops.to_dict(model.ops)}


def _from_bundle(config: ConfigDict, family: ops.Ops) -> Network:
  """Loads `config.init`; a conventional network becomes a B-cos one if the config's ops are."""
  bundle = open_bundle(config.init)
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

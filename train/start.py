"""Initial states of runs: a new network, a bundle, or a network in memory."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import ops
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.variables import abstract_variables

from .bundles import open_bundle as open_bundle
from .config import TEXT_OBJECTIVES
from .start_texts import language_network

Network = tuple[nn.Module, Any]

TAUGHT = ("align", "clip")
"""Objectives with a teacher, which the student starts from."""


def network(
  config: ConfigDict, init: Network | None = None, *, weights: bool = True
) -> tuple[nn.Module, Any | None]:
  """Returns the module to train and its variables.

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
    return init
  if config.objective.name in TEXT_OBJECTIVES:
    return language_network(config, weights=weights)
  family = ops.from_dict(config.ops.to_dict())
  if weights and (config.init or config.objective.name in TAUGHT):
    return _from_bundle(config, family)
  fields = {"image_size": config.data.image_size, **config.model.to_dict()}
  return bcos_jax.create(fields.pop("name"), ops=family, **fields), None


def finetuned(
  bundle: bcos_jax.io.bundles.Bundle,
  family: ops.Ops,
  num_classes: int,
  key: jax.Array,
  fold_mean: bool = True,
) -> Network:
  """Returns a bundle's network with a new head, B-cosified if it is conventional.

  Args:
    bundle: Where to start.
    family: `BcosOps` B-cosify a conventional network; a B-cos network keeps its own. `StandardOps`
      leave a conventional network as it is.
    num_classes: Of the data.
    key: Of the new head.
    fold_mean: See `bcosify`.

  Returns:
    The model and its variables.

  Raises:
    InputError: The family would make a B-cos network conventional; or see `new_head`.
  """
  model, variables = new_head(bundle.model, bundle.variables, num_classes, key)
  conventional = isinstance(model.ops, ops.StandardOps)
  if conventional and isinstance(family, ops.BcosOps):
    return bcos_jax.bcosify(model, variables, ops=family, fold_mean=fold_mean)
  if not conventional and isinstance(family, ops.StandardOps):
    raise InputError(
      "The bundle holds a B-cos network, the config has the ops 'standard'.",
      "Leave out --config.ops.family, or start from a conventional network.",
    )
  return model, variables


def new_head(model: nn.Module, variables: Any, num_classes: int, key: jax.Array) -> Network:
  """Returns a network for other classes: all as before, but every leaf of the head reinitialised.

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
    traverse_util.flatten_dict(abstract_variables(network), sep="/")
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
      "Pass the variables of this model.",
    )

  def draw(key: jax.Array) -> dict[str, jax.Array]:
    shape = (1, model.image_size, model.image_size, model.ops.encoding.channels)
    drawn = traverse_util.flatten_dict(new.init(key, jax.numpy.zeros(shape)), sep="/")
    return {path: drawn[path] for path in head}  # The compiler leaves the others out.

  leaves = {path: given[path] for path in wanted.keys() - head} | jax.jit(draw)(key)
  return new, traverse_util.unflatten_dict(leaves, sep="/")


def without_head(model: nn.Module, variables: Any) -> Network:
  """Returns a network of features: as it is, or a classifier without its head.

  Raises:
    InputError: The architecture does not return features.
  """
  if not model.num_classes:
    return model, variables
  features = model.clone(num_classes=0)
  wanted = traverse_util.flatten_dict(abstract_variables(features), sep="/")
  given = traverse_util.flatten_dict(variables, sep="/")
  missing = sorted(wanted.keys() - given.keys())
  if missing:
    raise InputError(
      f"{type(model).__name__} without classes has parameters that it lacks with them: {missing}.",
      "Give a network that was trained to return features.",
    )
  return features, traverse_util.unflatten_dict({path: given[path] for path in wanted}, sep="/")


def describe(model: nn.Module) -> dict[str, Any]:
  """Returns class, fields and ops of a network as flat values, for checkpoints."""
  hidden = ("ops", "parent", "name")
  fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
  fields = {name: value for name, value in fields.items() if name not in hidden}
  return {"class": type(model).__name__, **fields, **ops.to_dict(model.ops)}


def check_effects(config: ConfigDict, model: nn.Module, params: Any) -> None:
  """Raises InputError for an option of the recipe that changes nothing in this network.

  Args:
    config: The recipe.
    model: The network to train.
    params: Its parameters, or their shapes.
  """
  leaves = {
    getattr(path[-1], "key", None) for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }
  for key, leaf in (("bias_decay", "bias"), ("b_decay", "b")):
    if config.optimizer[key] and leaf not in leaves:
      raise InputError(
        f"optimizer.{key}={config.optimizer[key]} does nothing: no parameter is named {leaf!r}.",
        f"Set --config.ops.{_KEEPS[leaf]}=true or --config.optimizer.{key}=0.",
      )
  if config.finetune or not isinstance(model.ops, ops.BcosOps):
    return  # A fine-tuning writes the bundle's ops into the recipe: the user did not set them.
  default, asked = type(model.ops)(), None
  for name, request in _SERVES.items():
    if name in config.ops and getattr(model.ops, name) != getattr(default, name):
      asked = _requests(model) if asked is None else asked
      if request not in asked:
        raise InputError(
          f"ops.{name}={config.ops[name]!r} does nothing: the network has no"
          f" {request.replace('_', ' ')}.",
          f"Leave out --config.ops.{name}.",
        )


_KEEPS = {"bias": "use_bias", "b": "learn_b"}
# Options of BcosOps that serve one request only.
_SERVES = {"norm": "batch_norm", "norm_groups": "batch_norm", "pool": "spatial_pool"}


def _requests(model: nn.Module) -> set[str]:
  """Returns which of the requests in `_SERVES` an architecture makes of its ops."""
  asked = set()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Listening(ops.BcosOps):
    def batch_norm(self, *, name, eps=1e-5):
      asked.add("batch_norm")
      return ops.BcosOps.batch_norm(self, name=name, eps=eps)

    def spatial_pool(self, x, window=3, strides=2, padding=1):
      asked.add("spatial_pool")
      return ops.BcosOps.spatial_pool(self, x, window, strides, padding)

  fields = {f.name: getattr(model.ops, f.name) for f in dataclasses.fields(model.ops)}
  network = model.clone(ops=Listening(**fields))
  jax.eval_shape(network.init, jax.random.key(0), model.input_spec)
  return asked


def _check_fields(config: ConfigDict, model: nn.Module) -> None:
  """Compares `config.model` with the network of the bundle."""
  known = {f.name for f in dataclasses.fields(model)} - {"ops", "parent"}
  for name, value in config.model.items():
    if name == "name":
      continue
    if name not in known:
      raise unknown_name(f"field of {config.model.name!r}", name, known)
    own = getattr(model, name)
    if own != (tuple(value) if isinstance(value, list) else value):
      raise InputError(
        f"The bundle {config.init!r} has {name}={own!r}, the config {value!r}.",
        f"Set --config.model.{name}={own}.",
      )


def _check_encoding(config: ConfigDict, model: nn.Module, family: ops.Ops) -> None:
  """A B-cos twin keeps the colours of its original, unless its pairing is `complement`."""
  if family.encoding.pairing == "complement":
    return
  for name in set(config.ops.get("encoding", {})) - {"pairing"}:
    own, given = getattr(model.ops.encoding, name), getattr(family.encoding, name)
    if own != given:
      raise InputError(
        f"The bundle {config.init!r} has the encoding {name}={own}, the config {given}.",
        f"Set --config.ops.encoding.{name}={own}, or leave it out.",
      )


def _from_bundle(config: ConfigDict, family: ops.Ops) -> Network:
  """Loads `config.init`, or the teacher; becomes a B-cos network if the config's ops are."""
  source = config.init or config.objective.teacher
  if not source:
    raise InputError(
      f"The objective {config.objective.name!r} has no teacher.",
      "Set --config.objective.teacher to a bundle of the pretrained network.",
    )
  config = ConfigDict({**config.to_dict(), "init": source}, type_safe=False)
  bundle = open_bundle(source)
  model, variables = bundle.model, bundle.variables
  if config.objective.name != "supervised":
    model, variables = without_head(model, variables)
  architecture = bundle.config["architecture"]
  if config.redraw:
    model, variables = _inherited(config, model, variables)
  elif architecture != config.model.name:
    raise InputError(
      f"The bundle {source!r} holds {architecture!r}, the config names {config.model.name!r}.",
      f"Set --config.model.name={architecture}, or name what may differ with --config.redraw.",
    )
  else:
    _check_fields(config, model)
  if isinstance(model.ops, ops.StandardOps) and isinstance(family, ops.BcosOps):
    _check_encoding(config, model, family)
    return bcos_jax.bcosify(model, variables, ops=family, fold_mean=config.fold_mean)
  if model.ops != family:
    raise InputError(
      f"The bundle {source!r} has the ops {model.ops}, the config {family}.",
      "Give the config the same ops, or start from a conventional network to B-cosify it.",
    )
  return model, variables


def _inherited(config: ConfigDict, source: nn.Module, variables: Any) -> Network:
  """Returns the config's network with another's leaves; what `redraw` names is reinitialised.

  Students of ALOE have a convolutional stem that their teachers lack, and keep all the rest.

  Raises:
    InputError: A leaf that `redraw` does not name is missing, left over or of another shape.
  """
  fields = {"image_size": config.data.image_size, **config.model.to_dict()}
  model = bcos_jax.create(fields.pop("name"), ops=source.ops, **fields)
  wanted = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  given = traverse_util.flatten_dict(variables, sep="/")
  fresh = {
    path
    for path in wanted.keys() | given.keys()
    if any(re.search(pattern, path) for pattern in config.redraw)
  }
  problems = sorted(
    path
    for path in (wanted.keys() | given.keys()) - fresh
    if path not in wanted or path not in given or wanted[path].shape != given[path].shape
  )
  if problems:
    raise InputError(
      f"{config.model.name!r} and the bundle {config.init!r} differ in {', '.join(problems[:6])}"
      + (f" and {len(problems) - 6} more." if len(problems) > 6 else "."),
      f"Name them in --config.redraw, which is {tuple(config.redraw)}, to reinitialise them.",
    )
  drawn = traverse_util.flatten_dict(
    model.init(jax.random.key(config.seed), jax.numpy.zeros(model.input_spec.shape)), sep="/"
  )
  leaves = {path: drawn[path] if path in fresh else given[path] for path in wanted}
  return model, traverse_util.unflatten_dict(leaves, sep="/")

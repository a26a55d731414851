"""What a run starts from: a new network, a bundle, or a network in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax import ops
from bcos_jax.errors import InputError, unknown_name

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
  if not isinstance(model.ops, ops.BcosOps):
    return
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
_SERVES = {"norm": "batch_norm", "norm_groups": "batch_norm", "pool": "stem_pool"}


def _requests(model: nn.Module) -> set[str]:
  """Returns which of the requests in `_SERVES` an architecture makes of its ops."""
  asked = set()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Listening(ops.BcosOps):
    def batch_norm(self, *, name, eps=1e-5):
      asked.add("batch_norm")
      return ops.BcosOps.batch_norm(self, name=name, eps=eps)

    def stem_pool(self, x):
      asked.add("stem_pool")
      return ops.BcosOps.stem_pool(self, x)

  fields = {f.name: getattr(model.ops, f.name) for f in dataclasses.fields(model.ops)}
  side, channels = model.image_size, model.ops.encoding.channels
  jax.eval_shape(
    model.clone(ops=Listening(**fields)).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, side, side, channels), "float32"),
  )
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
  """Loads `config.init`; a conventional network becomes a B-cos one if the config's ops are."""
  bundle = bcos_jax.load(config.init)
  model, variables = bundle.model, bundle.variables
  architecture = bundle.config["architecture"]
  if architecture != config.model.name:
    raise InputError(
      f"The bundle {config.init!r} holds {architecture!r}, the config names {config.model.name!r}.",
      f"Set --config.model.name={architecture}.",
    )
  _check_fields(config, model)
  if isinstance(model.ops, ops.StandardOps) and isinstance(family, ops.BcosOps):
    _check_encoding(config, model, family)
    return bcos_jax.bcosify(model, variables, ops=family, fold_mean=config.fold_mean)
  if model.ops != family:
    raise InputError(
      f"The bundle {config.init!r} has the ops {model.ops}, the config {family}.",
      "Give the config the same ops, or start from a conventional network to B-cosify it.",
    )
  return model, variables

"""Checks that the options of a recipe change the network that they are for."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from bcos_jax.errors import InputError

from ..optimizer import path_name


def check_effects(config: ConfigDict, model: nn.Module, params: Any) -> None:
  """Raises InputError for an option of the recipe that changes nothing in this network.

  Args:
    config: The recipe.
    model: The network to train.
    params: Its parameters, or their shapes.
  """
  paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  leaves = {path.rpartition("/")[2] for path in paths}
  for pattern, _ in config.optimizer.decay_rules:
    if not any(re.search(pattern, path) for path in paths):
      raise InputError(
        f"optimizer.decay_rules names {pattern!r}, which no parameter matches.",
        f"Parameters are named like {paths[0]!r}.",
      )
  if config.ops.get("recompute"):
    raise InputError(
      "ops.recompute does nothing in a recipe, which says for itself whether to recompute.",
      "Set --config.recompute=true.",
    )
  for key, leaf in (("bias_decay", "bias"), ("b_decay", "b")):
    if config.optimizer[key] and leaf not in leaves:
      raise InputError(
        f"optimizer.{key}={config.optimizer[key]} does nothing: no parameter is named {leaf!r}.",
        f"Set --config.ops.{_KEEPS[leaf]}=true or --config.optimizer.{key}=0.",
      )
  if config.finetune or model.ops.conventional:
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
  asked: set[str] = set()
  family = type(model.ops)

  class Listening(family):
    def batch_norm(self, **fields):
      asked.add("batch_norm")
      return family.batch_norm(self, **fields)

    def spatial_pool(self, *args, **fields):
      asked.add("spatial_pool")
      return family.spatial_pool(self, *args, **fields)

  fields = {f.name: getattr(model.ops, f.name) for f in dataclasses.fields(model.ops)}
  network = model.clone(ops=Listening(**fields))
  jax.eval_shape(network.init, jax.random.key(0), model.input_spec)
  return asked

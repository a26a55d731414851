"""Checks that the options of a recipe change the network that they are for."""

from __future__ import annotations

import re
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from bcos_jax.errors import InputError
from bcos_jax.ops.idle import needed_by_idle

from ..optimizer import path_name


def check_effects(config: ConfigDict, model: nn.Module, variables: Any) -> None:
  """Raises InputError for an option of the recipe that changes nothing in this network.

  Args:
    config: The recipe.
    model: The network to train.
    variables: Its parameters and running statistics, or their shapes.
  """
  paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])]
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
  if config.statistics != "batch" and not variables.get("batch_stats"):
    raise InputError(
      f"statistics={config.statistics!r} does nothing: the {type(model).__name__} has no batch "
      "norm.",
      "Leave out --config.statistics.",
    )
  if config.finetune or model.ops.conventional:
    return  # A fine-tuning writes the bundle's ops into the recipe: the user did not set them.
  for name, needed in needed_by_idle(model).items():
    if name in config.ops:
      raise InputError(
        f"ops.{name}={config.ops[name]!r} does nothing: the network has no {needed}.",
        f"Leave out --config.ops.{name}.",
      )


_KEEPS = {"bias": "use_bias", "b": "learn_b"}

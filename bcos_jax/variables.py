"""Shapes and dtypes of a model's variables, found without computing them."""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax


def abstract_variables(model: nn.Module) -> Any:
  """Returns the shapes and dtypes of a model's variables, without computing anything."""
  try:
    hash(model)
  except TypeError:  # a field is a list
    return _traced(model)
  # Containers of the caller's own, leaves of the cache.
  return jax.tree.map(lambda leaf: leaf, _remembered(model))


def _traced(model: nn.Module) -> Any:
  return jax.eval_shape(model.init, jax.random.key(0), model.input_spec)


# Tracing a large network takes seconds, and whoever makes and saves one needs its shapes often.
_remembered = functools.lru_cache(maxsize=32)(_traced)


def num_parameters(model: nn.Module) -> int:
  """Returns how many numbers a model learns."""
  return sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(model)["params"]))

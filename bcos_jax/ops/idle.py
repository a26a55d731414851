"""Options of a family that change nothing in a network."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import jax

SERVES = {
  "norm": "batch_norm",
  "norm_groups": "batch_norm",
  "pool": "spatial_pool",
  "b_per_layer": "at_layer",
}
"""Options of `BcosOps` that serve one request only."""
_NEEDED = {
  "batch_norm": "batch norm",
  "spatial_pool": "spatial pool",
  "at_layer": "blocks with an exponent each, as language models have",
}


def needed_by_idle(model: nn.Module) -> dict[str, str]:
  """Returns the options that differ from their default and do nothing, with what they would need.

  Args:
    model: Of any family; nothing is computed.
  """
  ops: Any = model.ops  # of every network of this package
  default = type(ops)()
  changed = [name for name in SERVES if getattr(ops, name, None) != getattr(default, name, None)]
  if not changed:
    return {}
  asked = _requests(model)
  return {name: _NEEDED[SERVES[name]] for name in changed if SERVES[name] not in asked}


def _requests(model: nn.Module) -> set[str]:
  """Returns which of the requests in `SERVES` an architecture makes of its ops."""
  asked: set[str] = set()
  family: Any = type(model.ops)

  class Listening(family):
    def batch_norm(self, **fields):
      asked.add("batch_norm")
      return family.batch_norm(self, **fields)

    def spatial_pool(self, *args, **fields):
      asked.add("spatial_pool")
      return family.spatial_pool(self, *args, **fields)

    def at_layer(self, index, depth):
      asked.add("at_layer")
      return family.at_layer(self, index, depth)

  fields = {f.name: getattr(model.ops, f.name) for f in dataclasses.fields(model.ops)}
  network = model.clone(ops=Listening(**fields))
  jax.eval_shape(network.init, jax.random.key(0), model.input_spec)
  return asked

"""Activations as a gate times their input."""

from __future__ import annotations

import math

import jax
from jax import lax
import jax.numpy as jnp

from ..errors import unknown_name
from .held import hold

Array = jax.Array

GATES = {
  "relu": lambda x: (x > 0).astype(x.dtype),
  "relu6": lambda x: jnp.where(x > 6, 6 / jnp.maximum(x, 6), x > 0).astype(x.dtype),
  "gelu": lambda x: 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5))),
  "gelu_tanh": lambda x: 0.5 * (1.0 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
  "quick_gelu": lambda x: jax.nn.sigmoid(1.702 * x),
  "silu": jax.nn.sigmoid,
  "hard_swish": lambda x: jnp.clip(x + 3, 0, 6) / 6,
  "tanh": lambda x: jnp.where(x == 0, 1.0, jnp.tanh(x) / jnp.where(x == 0, 1.0, x)).astype(x.dtype),
  "identity": None,
}
"""Activations of the form gate(x) * x. `gelu` is exact (erf); `gelu_tanh` and `quick_gelu` (CLIP)
approximate it."""


def gated(x: Array, kind: str, *, detach: bool = False) -> Array:
  """Applies a gated activation; with `detach`, the gate becomes a constant dynamic weight.

  Raises:
    InputError: `kind` is not in `GATES`, with the nearest name.
  """
  if kind not in GATES:
    raise unknown_name("activation", kind, GATES)
  if kind == "relu" and detach:
    return _held_relu(x)
  gate = GATES[kind]
  if gate is None:
    return x
  return x * gate(hold(x) if detach else x)


@jax.custom_jvp
def _held_relu(x: Array) -> Array:
  return jnp.maximum(x, 0)


@_held_relu.defjvp
def _held_relu_jvp(primals, tangents):
  out = _held_relu(*primals)
  # The gate is read off the result, which is in memory; without the barrier the compiler computes
  # it again from all that was added up before it.
  return out, jnp.where(lax.optimization_barrier(out) > 0, tangents[0], 0)

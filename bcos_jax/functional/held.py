"""What the equations on arrays share: constants to one derivative, and wide sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def widened(x: Array) -> Array:
  """Returns `x` in float32 at least: sums of squares lose digits in anything smaller."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def hold(x: Array) -> Array:
  """Returns `x`, a constant to the derivative that is taken next.

  Unlike `lax.stop_gradient`, only to that one: a loss on an explanation still sees how the
  dynamic weights depend on inputs and parameters. Reverse mode only.
  """
  return x


hold.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.zeros_like(cotangent),))

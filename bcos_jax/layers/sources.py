"""Named additive constants, the part of an output that no input contributes.

In explanation mode a network is affine in its input: `value = sum(input * weight) + rest`, and the
rest comes from constants that layers add (biases, positions, running means). Each layer adds its
constants through `add_constant`, which lets `explain` ask for the gradient with respect to a gain
on each of them and so measure, per image and in the same backward pass, what each one contributed.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

COLLECTION = "sources"


def add_constant(module: nn.Module, y: jax.Array, constant: jax.Array, source: str) -> jax.Array:
  """Returns `y + constant`, the constant being known to explanations as `source`.

  Args:
    module: The module that adds the constant.
    y: [N, ...].
    constant: Broadcastable against one element of `y` along its first axis.
    source: What the constant is, e.g. `bias`; the key of the residual in an explanation.
  """
  explaining = module.has_variable(COLLECTION, source) or (
    module.is_mutable_collection(COLLECTION) and not module.is_initializing()
  )
  if explaining:
    gain = module.variable(COLLECTION, source, jnp.ones, y.shape[:1]).value
    constant = gain.reshape(-1, *(1,) * (y.ndim - 1)) * constant
  return y + constant

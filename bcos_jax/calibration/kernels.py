"""Kernels as fits see them: plain ones by groups, whatever the network makes of its weights.

A kernel w responds with |w|^B times what one of unit length does. So each kind of weights has a
plain kernel that responds alike, but that unit weights leave their length to a norm behind them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .traced import Map

Array = jax.Array


class Kernel:
  """The weights of a map in a network's variables.

  Attributes:
    b: The exponent.
  """

  def __init__(self, variables: dict[str, Any], path: str, module: Map):
    self._variables, self._module = variables, module
    self._leaf, self._bias = f"params/{path}/kernel", f"params/{path}/bias"
    self.b = float(variables.get(f"params/{path}/b", module.b))

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of the leaf."""
    return self._variables[self._leaf].shape

  def plain(self, gain: Array) -> Array:
    """Returns the plain kernel [G, D, O / G] that responds as the map and a multiplier behind it.

    With a bias, its row is the last.
    """
    leaf = jnp.asarray(self._variables[self._leaf], jnp.float32)
    kernel = self.grouped(leaf)
    if self._module.use_bias:
      bias = jnp.asarray(self._variables[self._bias], jnp.float32)
      kernel = jnp.concatenate([kernel, bias.reshape(len(kernel), 1, -1)], axis=1)
    length = self._length(kernel)
    power = {"plain": 0.0, "cosine": 1 / self.b - 1, "unit": -1.0}[self._module.weights]
    gain = jnp.broadcast_to(gain * self._fixed_gain, leaf.shape[-1:]).reshape(len(kernel), 1, -1)
    return kernel * length**power * jnp.sign(gain) * jnp.abs(gain) ** (1 / self.b)

  @property
  def length(self) -> float | None:
    """Norm of the plain kernels where no norm follows; None if they may have any."""
    return self._fixed_gain ** (1 / self.b) if self._module.weights == "unit" else None

  def write(self, kernel: Array) -> Array:
    """Replaces the weights by those of a plain kernel; returns what a norm has to multiply by."""
    length = self._length(kernel)
    gain = jnp.ones(self.shape[-1:])
    power = {"plain": 0.0, "cosine": self.b - 1, "unit": -1.0}[self._module.weights]
    if self._module.weights == "unit":
      gain = (length**self.b).reshape(-1)
    else:
      kernel = kernel * self._fixed_gain ** (-1 / self.b)
    kernel = kernel * length**power
    if self._module.use_bias:
      self._set(self._bias, kernel[:, -1].reshape(-1))
      kernel = kernel[:, :-1]
    self._set(self._leaf, self.ungrouped(kernel))
    return gain

  @property
  def _fixed_gain(self) -> float:
    inputs = float(np.prod(self.shape[:-1]))
    return 100 / inputs**0.5 if self._module.fan_in_gain else 1.0

  def _length(self, kernel: Array) -> Array:
    weights = kernel[:, :-1] if self._module.use_bias else kernel
    length = jnp.linalg.norm(weights, axis=1, keepdims=True)
    return jnp.where(length > 0, length, 1.0)

  def grouped(self, leaf: Array) -> Array:
    """Returns a leaf of the kernel's shape as [G, D, O / G]."""
    groups = getattr(self._module, "feature_group_count", 1)
    # Patches have the channels outermost, then the places of the window.
    leaf = jnp.moveaxis(leaf, -2, 0).reshape(-1, groups, leaf.shape[-1] // groups)
    return jnp.moveaxis(leaf, 1, 0)

  def ungrouped(self, kernel: Array) -> Array:
    """Returns [G, D, O / G] in the leaf's shape."""
    kernel = jnp.moveaxis(kernel, 0, 1).reshape(self.shape[-2], *self.shape[:-2], self.shape[-1])
    return jnp.moveaxis(kernel, 0, -2)

  def _set(self, leaf: str, value: Array) -> None:
    old = self._variables[leaf]
    self._variables[leaf] = np.asarray(value, old.dtype).reshape(old.shape)

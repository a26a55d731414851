"""Batch norms behind calibrated maps: the identity, with the statistics of the new response."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layers import BatchNorm

Array = jax.Array


def gain(variables: dict[str, Any], path: str, norm: BatchNorm) -> Array:
  """Returns what a batch norm multiplies each channel by in evaluation."""
  var = jnp.asarray(variables[f"batch_stats/{path}/var"])
  scale = variables[f"params/{path}/scale"] if norm.use_scale else 1.0
  return scale * jax.lax.rsqrt(var + norm.eps)


def set_identity(
  variables: dict[str, Any],
  path: str,
  norm: BatchNorm,
  mean: Any = 0.0,
  square: Any = 1.0,
  gain_of: Any = 1.0,
) -> None:
  """Makes a batch norm, in evaluation, a multiplication by `gain_of`; what it adds stays.

  Args:
    variables: Path -> array; changed.
    path: Path of the norm.
    norm: The norm.
    mean: Mean of what it sees, for each channel.
    square: Mean square, likewise. Both become the running statistics where the norm has scale and
      bias that make up for them.
    gain_of: Multiplier of each channel.
  """
  stats, params = f"batch_stats/{path}/", f"params/{path}/"
  if norm.joint:
    mean, square, gain_of = np.mean(mean), np.mean(square), np.mean(gain_of)
  var = np.maximum(square - np.square(mean), 0.0) if norm.use_scale else 1 / gain_of**2 - norm.eps

  def write(leaf: str, value: Any) -> None:
    old = variables[leaf]
    variables[leaf] = np.broadcast_to(np.asarray(value, old.dtype), old.shape).copy()

  if norm.centered:
    # The constant that the norm adds, -mean * gain + bias, is kept as the bias where there is one.
    old_gain = gain(variables, path, norm)
    added = -np.asarray(variables[stats + "mean"]) * np.asarray(old_gain)
    if norm.use_bias:
      added = added + np.asarray(variables[params + "bias"])
      write(params + "bias", added + mean * gain_of)
    write(stats + "mean", mean if norm.use_bias else 0.0)
  write(stats + "var", var)
  if norm.use_scale:
    write(params + "scale", gain_of * np.sqrt(var + norm.eps))

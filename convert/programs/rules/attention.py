"""Attention: softmax, scaled dot products."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from bcos_jax.errors import InputError

from ..operators import operator


@operator("aten.softmax", "aten.special_softmax")
def _softmax(x, dim, dtype=None):
  return jax.nn.softmax(x if dtype is None else x.astype(dtype), axis=dim)


@operator("aten._softmax", "aten._safe_softmax")
def _core_softmax(x, dim, half_to_float=False, dtype=None):
  return jax.nn.softmax(x.astype(jnp.float32) if half_to_float else x, axis=dim)


@operator("aten.log_softmax", "aten._log_softmax")
def _log_softmax(x, dim, dtype=None):
  return jax.nn.log_softmax(x, axis=dim)


@operator("aten.scaled_dot_product_attention")
def _scaled_dot_product_attention(
  query, key, value, mask=None, dropout=0.0, causal=False, scale=None, enable_gqa=False
):
  if dropout:
    raise InputError(
      f"Attention drops weights, p={dropout:g}.", "Export the network in evaluation mode."
    )
  if enable_gqa:
    groups = query.shape[-3] // key.shape[-3]
    key, value = (jnp.repeat(each, groups, axis=-3) for each in (key, value))
  scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
  logits = (query * scale) @ jnp.swapaxes(key, -1, -2)
  if causal:
    mask = jnp.tri(*logits.shape[-2:], dtype=bool)
  if mask is None:
    return jax.nn.softmax(logits, axis=-1) @ value
  if mask.dtype != jnp.bool_:
    return _of_rows(logits + mask) @ value
  return _of_rows(jnp.where(mask, logits, -jnp.inf)) @ value


def _of_rows(logits):
  """Returns the softmax of rows, zeros of a row that is masked all over, as PyTorch does."""
  masked = jnp.all(jnp.isneginf(logits), axis=-1, keepdims=True)
  return jnp.where(masked, 0, jax.nn.softmax(jnp.where(masked, 0, logits), axis=-1))

"""Norms: of the batch, layers, groups, and by mean squares."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ..operators import operator


def _of_channels(array, x):
  """Returns numbers per channel in a shape that goes along [N, C, ...]."""
  return array.reshape(-1, *[1] * (x.ndim - 2))


def _scaled(x, weight, bias):
  x = x if weight is None else x * weight
  return x if bias is None else x + bias


@operator("aten.batch_norm")
def _batch_norm(
  x, weight, bias, mean, variance, training=False, momentum=0.1, eps=1e-5, cudnn=False
):
  if training or mean is None:
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axes), x.var(axes)
  factor = jax.lax.rsqrt(variance + eps)
  factor = factor if weight is None else factor * weight
  y = (x - _of_channels(mean, x)) * _of_channels(factor, x)
  return y if bias is None else y + _of_channels(bias, x)


@operator("aten._native_batch_norm_legit_no_training")
def _no_training(x, weight, bias, mean, variance, momentum, eps):
  return (_batch_norm(x, weight, bias, mean, variance, eps=eps),)


@operator("aten._native_batch_norm_legit", "aten._native_batch_norm_legit_functional")
def _legit(x, weight, bias, mean, variance, training, momentum, eps):
  return (_batch_norm(x, weight, bias, mean, variance, training, eps=eps),)


@operator("aten._native_batch_norm_legit.no_stats")
def _no_stats(x, weight, bias, training, momentum, eps):
  return (_batch_norm(x, weight, bias, None, None, True, eps=eps),)


@operator("aten.native_batch_norm", "aten.cudnn_batch_norm")
def _native(x, weight, bias, mean, variance, training, momentum, eps):
  return (_batch_norm(x, weight, bias, mean, variance, training, eps=eps),)


@operator("aten.instance_norm")
def _instance_norm(
  x, weight, bias, mean, variance, use_input_stats, momentum=0.1, eps=1e-5, cudnn=False
):
  if not use_input_stats:
    return _batch_norm(x, weight, bias, mean, variance, eps=eps)
  y = _normalised(x, tuple(range(2, x.ndim)), eps)
  return _scaled(y, *(each if each is None else _of_channels(each, x) for each in (weight, bias)))


def _normalised(x, axes, eps):
  mean = x.mean(axes, keepdims=True)
  centred = x - mean
  return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + eps)


@operator("aten.layer_norm")
def _layer_norm(x, shape, weight=None, bias=None, eps=1e-5, cudnn=False):
  return _scaled(_normalised(x, tuple(range(-len(shape), 0)), eps), weight, bias)


@operator("aten.native_layer_norm")
def _native_layer_norm(x, shape, weight, bias, eps):
  return (_layer_norm(x, shape, weight, bias, eps),)


@operator("aten.group_norm")
def _group_norm(x, groups, weight=None, bias=None, eps=1e-5, cudnn=False):
  grouped = x.reshape(x.shape[0], groups, -1)
  y = _normalised(grouped, (2,), eps).reshape(x.shape)
  return _scaled(y, *(each if each is None else _of_channels(each, x) for each in (weight, bias)))


@operator("aten.native_group_norm")
def _native_group_norm(x, weight, bias, count, channels, places, groups, eps):
  return (_group_norm(x, groups, weight, bias, eps),)


@operator("aten.rms_norm")
def _rms_norm(x, shape, weight=None, eps=None):
  axes = tuple(range(-len(shape), 0))
  eps = jnp.finfo(x.dtype).eps if eps is None else eps
  y = x * jax.lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + eps)
  return y if weight is None else y * weight


@operator("aten._fused_rms_norm")
def _fused_rms_norm(x, shape, weight=None, eps=None):
  return (_rms_norm(x, shape, weight, eps),)


@operator("aten.linalg_vector_norm")
def _vector_norm(x, order=2, dim=None, keepdim=False, dtype=None):
  axes = tuple(range(x.ndim)) if dim is None else dim
  axes = (axes,) if isinstance(axes, int) else tuple(axes)
  x = x if dtype is None else x.astype(dtype)
  if order == 2:
    return jnp.sqrt(jnp.sum(jnp.square(x), axes, keepdims=keepdim))
  if math.isinf(order):
    return (jnp.max if order > 0 else jnp.min)(jnp.abs(x), axes, keepdims=keepdim)
  if order == 1:
    return jnp.sum(jnp.abs(x), axes, keepdims=keepdim)
  return jnp.sum(jnp.abs(x) ** order, axes, keepdims=keepdim) ** (1 / order)


@operator("aten.norm")
def _norm(x, order=2, dim=None, keepdim=False, dtype=None):
  return _vector_norm(x, 2 if order is None else order, dim or None, keepdim, dtype)

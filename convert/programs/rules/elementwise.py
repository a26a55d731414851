"""Operators that work on each number by itself: arithmetic, comparisons, activations."""

from __future__ import annotations

from collections.abc import Callable
import math

import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.errors import InputError

from ..operators import operator


@operator("aten.add")
def _add(x, y, alpha=1):
  if alpha != 1:
    y = y * alpha
  return x | y if x is not y and _both_bool(x, y) else x + y


@operator("aten.sub")
def _sub(x, y, alpha=1):
  return x - (y if alpha == 1 else y * alpha)


@operator("aten.rsub")
def _rsub(x, y, alpha=1):
  return y - (x if alpha == 1 else x * alpha)


@operator("aten.mul")
def _mul(x, y):
  return x & y if _both_bool(x, y) else x * y


def _both_bool(x, y) -> bool:
  return all(getattr(each, "dtype", None) == jnp.bool_ for each in (x, y))


@operator("aten.div", "aten.true_divide")
def _div(x, y, rounding_mode=None):
  if rounding_mode is None:
    return x / y
  if rounding_mode == "floor":
    return x // y
  return jnp.trunc(x / y).astype(jnp.result_type(x, y))


@operator("aten.pow")
def _pow(x, exponent):
  if not isinstance(exponent, int | float):
    return jnp.power(x, exponent)
  if exponent == 2:
    return jnp.square(x)
  if exponent == 0.5:
    return jnp.sqrt(x)
  # A whole number is the exponent of negative numbers, too.
  return jnp.power(x, int(exponent) if exponent == int(exponent) else exponent)


@operator("aten.addcmul")
def _addcmul(x, first, second, value=1):
  return x + (first * second if value == 1 else value * first * second)


@operator("aten.addcdiv")
def _addcdiv(x, first, second, value=1):
  return x + value * first / second


@operator("aten.lerp")
def _lerp(x, end, weight):
  return x + weight * (end - x)


def _named(function: Callable, *names: str) -> None:
  """Registers functions of one or two arrays that JAX and PyTorch have alike."""
  operator(*(f"aten.{name}" for name in names))(function)


for _names, _function in {
  ("abs",): jnp.abs,
  ("acos", "arccos"): jnp.arccos,
  ("asin", "arcsin"): jnp.arcsin,
  ("atan", "arctan"): jnp.arctan,
  ("atan2",): jnp.arctan2,
  ("bitwise_and", "__and__"): jnp.bitwise_and,
  ("bitwise_not",): jnp.invert,
  ("bitwise_or", "__or__"): jnp.bitwise_or,
  ("bitwise_xor", "__xor__"): jnp.bitwise_xor,
  ("ceil",): jnp.ceil,
  ("cos",): jnp.cos,
  ("cosh",): jnp.cosh,
  ("eq",): jnp.equal,
  ("erf", "special_erf"): jax.lax.erf,
  ("exp",): jnp.exp,
  ("expm1",): jnp.expm1,
  ("floor",): jnp.floor,
  ("floor_divide",): jnp.floor_divide,
  ("fmod",): jnp.fmod,
  ("ge",): jnp.greater_equal,
  ("gt",): jnp.greater,
  ("isfinite",): jnp.isfinite,
  ("isinf",): jnp.isinf,
  ("isnan",): jnp.isnan,
  ("le",): jnp.less_equal,
  ("log",): jnp.log,
  ("log1p",): jnp.log1p,
  ("log2",): jnp.log2,
  ("logical_and",): jnp.logical_and,
  ("logical_not",): jnp.logical_not,
  ("logical_or",): jnp.logical_or,
  ("logical_xor",): jnp.logical_xor,
  ("lt",): jnp.less,
  ("maximum",): jnp.maximum,
  ("minimum",): jnp.minimum,
  ("ne",): jnp.not_equal,
  ("neg",): jnp.negative,
  ("reciprocal",): jnp.reciprocal,
  ("remainder",): jnp.remainder,
  ("round",): jnp.round,
  ("rsqrt",): jax.lax.rsqrt,
  ("sign", "sgn"): jnp.sign,
  ("sin",): jnp.sin,
  ("sinh",): jnp.sinh,
  ("sqrt",): jnp.sqrt,
  ("square",): jnp.square,
  ("tan",): jnp.tan,
  ("tanh",): jnp.tanh,
  ("trunc",): jnp.trunc,
  ("relu",): jax.nn.relu,
  ("relu6",): jax.nn.relu6,
  ("sigmoid",): jax.nn.sigmoid,
  ("selu",): jax.nn.selu,
  ("silu",): jax.nn.silu,
  ("hardsigmoid",): jax.nn.hard_sigmoid,
  ("hardswish",): jax.nn.hard_swish,
  ("log_sigmoid",): jax.nn.log_sigmoid,
}.items():
  _named(_function, *_names)


@operator("aten.gelu")
def _gelu(x, approximate="none"):
  return jax.nn.gelu(x, approximate=approximate == "tanh")


@operator("aten.hardtanh")
def _hardtanh(x, low=-1, high=1):
  return jnp.clip(x, low, high)


@operator("aten.leaky_relu")
def _leaky_relu(x, slope=0.01):
  return jnp.where(x >= 0, x, slope * x)


@operator("aten.prelu", "aten._prelu_kernel")
def _prelu(x, slope):
  channels = (1, -1) + (1,) * (x.ndim - 2) if slope.ndim == 1 and x.ndim > 1 else slope.shape
  return jnp.where(x >= 0, x, slope.reshape(channels) * x)


@operator("aten.elu")
def _elu(x, alpha=1, scale=1, input_scale=1):
  negative = scale * alpha * jnp.expm1(input_scale * jnp.minimum(x, 0))
  return jnp.where(x > 0, scale * x, negative)


@operator("aten.celu")
def _celu(x, alpha=1):
  return jax.nn.celu(x, alpha)


@operator("aten.softplus")
def _softplus(x, beta=1, threshold=20):
  scaled = beta * x
  return jnp.where(scaled > threshold, x, jax.nn.softplus(scaled) / beta)


@operator("aten.mish")
def _mish(x):
  return x * jnp.tanh(jax.nn.softplus(x))


@operator("aten.threshold")
def _threshold(x, threshold, value):
  return jnp.where(x > threshold, x, jnp.asarray(value, x.dtype))


@operator("aten.glu")
def _glu(x, dim=-1):
  return jax.nn.glu(x, dim)


@operator("aten.clamp", "aten.clip")
def _clamp(x, low=None, high=None, min=None, max=None):
  low, high = low if min is None else min, high if max is None else max
  x = x if low is None else jnp.maximum(x, low)
  return x if high is None else jnp.minimum(x, high)


@operator("aten.clamp_min")
def _clamp_min(x, low):
  return jnp.maximum(x, low)


@operator("aten.clamp_max")
def _clamp_max(x, high):
  return jnp.minimum(x, high)


@operator("aten.where")
def _where(condition, *branches):
  if not branches:
    raise InputError(
      "The shape of its result depends on data.", "Use where(condition, x, y) in the network."
    )
  return jnp.where(condition, *branches)


@operator("aten.masked_fill")
def _masked_fill(x, mask, value):
  return jnp.where(mask, jnp.asarray(value, x.dtype), x)


@operator("aten.dropout", "aten.feature_dropout", "aten.alpha_dropout")
def _dropout(x, p, train):
  if train and p > 0:
    raise InputError(
      f"Dropout with p={p:g} is active.", "Export the network in evaluation mode, after .eval()."
    )
  return x


@operator("aten.native_dropout")
def _native_dropout(x, p, train):
  return _dropout(x, p, train), jnp.ones(x.shape, bool)


# Arithmetic of lengths, which are numbers of Python.

for _names, _function in {
  ("add",): lambda x, y: x + y,
  ("sub",): lambda x, y: x - y,
  ("mul",): lambda x, y: x * y,
  ("floordiv",): lambda x, y: x // y,
  ("truediv",): lambda x, y: x / y,
  ("mod",): lambda x, y: x % y,
  ("pow",): lambda x, y: x**y,
  ("neg",): lambda x: -x,
  ("eq",): lambda x, y: x == y,
  ("ne",): lambda x, y: x != y,
  ("lt",): lambda x, y: x < y,
  ("le",): lambda x, y: x <= y,
  ("gt",): lambda x, y: x > y,
  ("ge",): lambda x, y: x >= y,
  ("and_",): lambda x, y: x & y,
  ("or_",): lambda x, y: x | y,
  ("not_",): lambda x: not x,
}.items():
  operator(*(f"_operator.{name}" for name in _names))(_function)

for _names, _function in {
  ("math.ceil",): math.ceil,
  ("math.floor",): math.floor,
  ("math.trunc",): math.trunc,
  ("torch.sym_int",): int,
  ("torch.sym_float",): float,
  ("torch.sym_max",): max,
  ("torch.sym_min",): min,
  ("torch.sym_not",): lambda x: not x,
  ("torch.sym_sum",): sum,
  ("aten.sym_size",): lambda x, dim: np.shape(x)[dim],
  ("aten.sym_numel",): lambda x: math.prod(np.shape(x)),
}.items():
  operator(*_names)(_function)

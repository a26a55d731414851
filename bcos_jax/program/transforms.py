"""Equations evaluated as B-cosification decides: scaled maps, average pooling, biases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from ..layers.maps import Convolution, Matmul, square_map
from .decisions import Decision
from .evaluation import bind, call
from .pairing import Pair, halves, merged, plain
from .reading import linear
from .values import Equation, ValueKind

Array = jax.Array


class Transforms:
  """Evaluates equations as decided."""

  def __init__(
    self,
    decisions: Mapping[Equation, Decision],
    variables: Mapping[str, Any],
    firsts: Collection[Equation] = (),
  ):
    """Takes the decisions that change something.

    Args:
      decisions: Of each equation that they are about.
      variables: Those besides the network's: exponents, and the factor of the biases.
      firsts: Maps at which the halves of paired values are put together.
    """
    self._decisions, self._variables, self._firsts = decisions, variables, firsts
    self._entered = functools.cache(
      lambda equation: any(e in decisions for body in equation.bodies for e in body.walk())
    )

  def __call__(self, equation: Equation, values: list[Any]) -> Sequence[Any]:
    if self._entered(equation) or (equation.bodies and any(isinstance(v, Pair) for v in values)):
      return call(equation, values, self)
    with jax.named_scope(equation.place.scope):  # where a trace of the result finds the place
      return self._made(equation, values)

  def _made(self, equation: Equation, values: list[Any]) -> Sequence[Any]:
    if any(isinstance(value, Pair) for value in values):
      if equation in self._firsts:
        values = merged(equation, values)
      elif linear(equation) or max(equation.kinds) == ValueKind.CONSTANT:
        return halves(equation, values)
      else:
        values = plain(values)
    decision = self._decisions.get(equation)
    if decision is None:
      return bind(equation, values)
    if decision.part == "map":
      return [self._transformed(equation, values, decision)]
    if decision.part == "max pooling":
      return [_averaged(equation, *values)]
    return [self._biased(equation, values, decision)]

  def _transformed(self, equation: Equation, values: list[Any], decision: Decision) -> Array:
    b = self._variables["b"][decision.name] if decision.learned else decision.settings.b
    b = jnp.maximum(b, 1.0) if decision.learned else b
    if not decision.learned and b == 2 and (y := _squared(equation, values)) is not None:
      return y
    (y,) = bind(equation, values)
    if equation.name == "dot_general":
      return _scaled_dot(equation, values, y, b)
    return _scaled_convolution(equation.params, values[0], values[1], y, b)

  def _biased(self, equation: Equation, values: list[Any], decision: Decision) -> Array:
    (position,) = equation.sources
    constant = jnp.asarray(values[position])
    if decision.settings.biases == "decay":
      values[position] = constant * self._variables["bias"].astype(constant.dtype)
    else:
      values[position] = jnp.zeros_like(constant)
    return bind(equation, values)[0]


def _squared(equation: Equation, values: Sequence[Any]) -> Array | None:
  """Returns the transform at B=2 by `square_map`, which reads and writes less in training.

  None for maps in other layouts than channels last, or of a precision or type of their own.
  """
  params, (x, kernel) = equation.params, values[:2]
  if params["precision"] is not None or equation.operands[0] != ValueKind.SIGNAL:
    return None
  if params["preferred_element_type"] not in (None, x.dtype) or x.dtype != kernel.dtype:
    return None
  if equation.name == "dot_general":
    if params["dimension_numbers"] != (((x.ndim - 1,), (0,)), ((), ())):
      return None
    flat = kernel.reshape(len(kernel), -1)
    y: Any = square_map(x, flat, Matmul(), F.DENSE_GUARD)
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])
  numbers, last = params["dimension_numbers"], x.ndim - 1
  places = tuple(range(1, last))
  wanted = ((0, last, *places), (last, last - 1, *range(last - 1)), (0, last, *places))
  if tuple(numbers) != wanted or any(d != 1 for d in params["lhs_dilation"]) or last > 4:
    return None
  linear = Convolution(
    tuple(kernel.shape[:-2]),
    tuple(params["window_strides"]),
    tuple(map(tuple, params["padding"])),
    tuple(params["rhs_dilation"]),
    params["feature_group_count"],
  )
  return square_map(x, kernel, linear, F.CONV_GUARD)


def _scaled_dot(equation: Equation, values: Sequence[Any], y: Array, b: Any) -> Array:
  """Returns the B-cos transform of a dot: norms are over what the dot sums."""
  contracting, batch = equation.params["dimension_numbers"]
  signal = equation.operands.index(ValueKind.SIGNAL)
  x, summed = values[signal], contracting[signal]
  square = jnp.sum(jnp.square(F.widened(x)), axis=tuple(summed))
  kept = [axis for axis in range(x.ndim) if axis not in summed]
  order = [kept.index(axis) for axis in batch[signal]]
  order += [i for i in range(len(kept)) if i not in order]
  square = square.transpose(order)  # batch axes first, as in the result
  batched, free = len(batch[signal]), len(kept) - len(batch[signal])
  units = y.ndim - batched - free
  if signal == 1:  # its axes come last: the kernel's between
    y = jnp.moveaxis(y, range(batched, batched + units), range(-units, 0)) if units else y
  shape = y.shape
  flat = y.reshape(*shape[: batched + free], math.prod(shape[batched + free :]))
  flat = F.bcos_scale(flat, square[..., None], b=b, guard=F.DENSE_GUARD)
  y = flat.reshape(shape)
  if signal == 1 and units:
    y = jnp.moveaxis(y, range(-units, 0), range(batched, batched + units))
  return y


def _scaled_convolution(
  params: Mapping[str, Any], x: Array, kernel: Array, y: Array, b: Any
) -> Array:
  """Returns the B-cos transform of a convolution: norms are those of patches, once per group."""
  numbers, groups = params["dimension_numbers"], params["feature_group_count"]
  x = jnp.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
  squares = F.sq_norm(x, groups)
  window = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
  square = lax.reduce_window(
    squares,
    0.0,
    lax.add,
    window_dimensions=(1, *window, 1),
    window_strides=(1, *params["window_strides"], 1),
    padding=((0, 0), *params["padding"], (0, 0)),
    base_dilation=(1, *params["lhs_dilation"], 1),
    window_dilation=(1, *params["rhs_dilation"], 1),
  )
  order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
  scaled = F.bcos_scale(jnp.transpose(y, order), square, b=b, guard=F.CONV_GUARD)
  return jnp.transpose(scaled, [order.index(axis) for axis in range(y.ndim)])


def _averaged(equation: Equation, x: Array) -> Array:
  """Returns the mean of each window of a max pooling, zeros of the padding counted."""
  params = equation.params
  total = lax.reduce_window(
    x,
    np.zeros((), x.dtype),  # no array of JAX: only a known zero makes it a sum
    lax.add,
    params["window_dimensions"],
    params["window_strides"],
    params["padding"],
    params["base_dilation"],
    params["window_dilation"],
  )
  return total / math.prod(params["window_dimensions"])

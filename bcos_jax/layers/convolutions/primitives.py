"""The convolution and its two gradients as primitives of JAX, closed under differentiation.

A convolution is one side of a form that is linear in three things: input, kernel and cotangent.
Given two of them it is a linear map of the third, so the derivatives of each operation here are
the two others. They are primitives because only those are compiled for the platform that they will
run on, also where it is not the one they are compiled on.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
from jax.sharding import AxisType

from . import cpu, plain
from .plain import Geometry

Array = jax.Array


def convolve(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """Maps x [N, *spatial, I] by kernel [*window, I / groups, O] to [N, *spatial_out, O].

  With `DENSE`, [..., I] by [I, O] to [..., O]. The same numbers as `lax.conv_general_dilated` and
  `lax.dot_general` up to the order of sums, with derivatives of every order and direction.
  """
  beyond = geometry.beyond
  if any(map(any, beyond)):  # or XLA's gradients would take zeros away that are not there
    x = jnp.pad(x, ((0, 0), *beyond, (0, 0)))
    geometry = dataclasses.replace(geometry, pads=geometry.within)
  if _is_placed(x) or _is_placed(kernel):
    return plain.convolved(x, kernel, geometry)
  return _convolution(x, kernel, geometry=_settled(geometry))


def window_sum(x: Array, geometry: Geometry) -> Array:
  """Returns the sum over each window of x [N, *spatial, C], channel by channel."""
  if _is_placed(x):
    return plain.window_sum(x, geometry)
  return _window_sum_p.bind(x, geometry=geometry)


def expanded(equation: Any) -> core.ClosedJaxpr | None:
  """Returns what an equation of a traced program stands for, in primitives of JAX.

  None for equations of other primitives than those of this module.
  """
  reference = _REFERENCES.get(equation.primitive)
  if reference is None:
    return None
  avals = [variable.aval for variable in equation.invars]
  return jax.make_jaxpr(functools.partial(reference, **equation.params))(*avals)


_REFERENCES: dict[core.Primitive, Callable] = {}


def _is_placed(x: Array) -> bool:
  """Whether the type of an array says where it lies, in `shard_map` or on an explicit mesh.

  Only operations of JAX carry that on. Nothing is lost: such programs are not for one CPU.
  """
  return any(kind != AxisType.Auto for kind in jax.typeof(x).sharding.mesh.axis_types)


def _settled(geometry: Geometry) -> Geometry:
  """Returns the geometry with the precision that holds now; it is compiled later."""
  if geometry.precision is not None:
    return geometry
  return dataclasses.replace(geometry, precision=jax.config.values["jax_default_matmul_precision"])


def _primitive(name: str, reference: Callable, on_cpu: Callable, folds: bool) -> core.Primitive:
  """Makes a primitive of arrays, of which the first holds examples.

  Args:
    name: In traced programs.
    reference: (*arrays, **parameters) -> result, as every platform can.
    on_cpu: The same, for CPUs.
    folds: Whether a further axis of the first array alone may become one with the examples.
  """
  primitive = core.Primitive(name)
  _REFERENCES[primitive] = reference
  primitive.def_impl(jax.jit(primitive.bind, static_argnames=("geometry", "spatial")))

  @primitive.def_abstract_eval
  def _(*operands, **parameters):
    result = jax.eval_shape(functools.partial(reference, **parameters), *operands)
    return ShapedArray(result.shape, result.dtype)

  def batched(operands, axes, **parameters):
    if not folds or axes[0] is None or any(axis is not None for axis in axes[1:]):
      each = functools.partial(reference, **parameters)
      return jax.vmap(each, in_axes=axes)(*operands), 0
    first, *rest = operands
    first = jnp.moveaxis(first, axes[0], 0)
    if not parameters["geometry"].rank:
      return primitive.bind(first, *rest, **parameters), 0
    result = primitive.bind(first.reshape(-1, *first.shape[2:]), *rest, **parameters)
    return result.reshape(*first.shape[:2], *result.shape[1:]), 0

  batching.primitive_batchers[primitive] = batched
  mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=False))
  mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
  return primitive


_convolution_p = _primitive("bcos_convolution", plain.convolved, cpu.convolved, folds=True)
_input_gradient_p = _primitive(
  "bcos_convolution_input_gradient", plain.input_gradient, cpu.input_gradient, folds=True
)
_kernel_gradient_p = _primitive(
  "bcos_convolution_kernel_gradient", plain.kernel_gradient, cpu.kernel_gradient, folds=False
)
_window_sum_p = _primitive("bcos_window_sum", plain.window_sum, cpu.window_sum, folds=True)


def _convolution(x: Array, kernel: Array, *, geometry: Geometry) -> Array:
  return _convolution_p.bind(x, kernel, geometry=geometry)


def _input_gradient(cotangent, kernel, *, geometry: Geometry, spatial: tuple[int, ...]) -> Array:
  return _input_gradient_p.bind(cotangent, kernel, geometry=geometry, spatial=spatial)


def _kernel_gradient(x, cotangent, *, geometry: Geometry) -> Array:
  return _kernel_gradient_p.bind(x, cotangent, geometry=geometry)


def _spatial(operand: Any, geometry: Geometry) -> tuple[int, ...]:
  """Returns the spatial extent of an operand of which a derivative knows the shape alone."""
  return tuple(operand.aval.shape[1:-1]) if geometry.rank else ()


ad.defbilinear(
  _convolution_p,
  lambda cotangent, x, kernel, *, geometry: _input_gradient(
    cotangent, kernel, geometry=geometry, spatial=_spatial(x, geometry)
  ),
  lambda cotangent, x, kernel, *, geometry: _kernel_gradient(x, cotangent, geometry=geometry),
)
ad.defbilinear(
  _input_gradient_p,
  lambda outer, cotangent, kernel, *, geometry, spatial: _convolution(
    outer, kernel, geometry=geometry
  ),
  lambda outer, cotangent, kernel, *, geometry, spatial: _kernel_gradient(
    outer, cotangent, geometry=geometry
  ),
)
ad.defbilinear(
  _kernel_gradient_p,
  lambda outer, x, cotangent, *, geometry: _input_gradient(
    cotangent, outer, geometry=geometry, spatial=_spatial(x, geometry)
  ),
  lambda outer, x, cotangent, *, geometry: _convolution(x, outer, geometry=geometry),
)


def _spread_sums(cotangent, x, *, geometry):
  like = jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype)
  return jax.linear_transpose(lambda x: plain.window_sum(x, geometry), like)(cotangent)


ad.deflinear2(_window_sum_p, _spread_sums)

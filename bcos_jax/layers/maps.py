"""Linear maps, and their B-cos transform at B=2 with a custom gradient.

Training is bound by memory traffic rather than arithmetic, so what counts is how often each
activation is read and written. Automatic differentiation of `y |y| / ||x||` keeps y and the
result, and reads both again for the gradient of the norm. `square_map` instead keeps its input,
its result (which the next layer keeps anyway) and one norm per position.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import numbers
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from .. import functional as F
from ..errors import unknown_name
from .convolutions import DENSE, Geometry, convolve, window_sum

Array = jax.Array

_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@dataclasses.dataclass(frozen=True)
class Matmul:
  """Dense map over the last axis: x [..., I], kernel [I, O]."""

  pointwise = True
  shared_gradient = False

  def __call__(self, x: Array, kernel: Array) -> Array:
    """Returns x @ kernel, [..., O]."""
    return convolve(x, kernel, DENSE)

  def sq_norm(self, x: Array) -> Array:
    """Returns the squared norm behind each response, float32 [..., 1]."""
    return F.sq_norm(x)


@dataclasses.dataclass(frozen=True)
class Convolution:
  """Channels-last convolution with PyTorch's padding modes.

  Attributes:
    window: Extent along each spatial axis.
    strides: Strides along each spatial axis.
    pads: (before, after) along each spatial axis.
    dilation: Kernel dilation along each spatial axis.
    groups: Feature groups.
    padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
  """

  window: tuple[int, ...]
  strides: tuple[int, ...]
  pads: tuple[tuple[int, int], ...]
  dilation: tuple[int, ...]
  groups: int = 1
  padding_mode: str = "zeros"

  # A batch norm follows: the gradient that arrives is an expression in two activations, and
  # both gradients of the map read it. See `square_map`.
  shared_gradient = True

  def __post_init__(self):
    if self.padding_mode not in _PAD_MODES:
      raise unknown_name("padding_mode", self.padding_mode, _PAD_MODES)

  @property
  def pointwise(self) -> bool:
    """Whether each response sees one position, and each position makes one response."""
    return (
      self.groups == 1
      and not any(map(any, self.pads))
      and all(k == 1 for k in (*self.window, *self.strides))
    )

  def __call__(self, x: Array, kernel: Array) -> Array:
    """Maps x [N, *spatial, I] by kernel [*window, I / groups, O] to [N, *spatial_out, O]."""
    pads = self.pads
    if self.padding_mode != "zeros":
      x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=_PAD_MODES[self.padding_mode])
      pads = ((0, 0),) * len(pads)
    return convolve(x, kernel, self._geometry(pads))

  def _geometry(self, pads: tuple[tuple[int, int], ...]) -> Geometry:
    return Geometry(self.window, self.strides, pads, self.dilation, self.groups)

  def sq_norm(self, x: Array) -> Array:
    """Returns the squared norm of each patch, float32 [N, *spatial_out, groups]."""
    if self.groups > 1:
      return window_sum(F.sq_norm(x, self.groups), self._geometry(self.pads))
    return F.patch_sq_norm(x, self.window, self.strides, self.pads, self.dilation)


def bcos_map(
  linear: Matmul | Convolution,
  x: Array,
  kernel: Array,
  *,
  b: float | Array,
  guard: F.Guard,
  unit: bool = False,
  max_out: int = 1,
  add_bias: Callable[[Array], Array] | None = None,
  gate: str | None = None,
  detach: bool = False,
) -> Array:
  """Returns the B-cos transform |cos|^(b-1) w.x of a linear map (arXiv 2205.10268, eq. 3).

  Args:
    linear: The map.
    x: Input, of the compute dtype.
    kernel: Kernel, cast to that; units of MaxOut are neighbours.
    b: The exponent; a number is compiled in, an array may be learned.
    guard: The epsilons of the norm.
    unit: Whether each output's weights count as of unit length.
    max_out: Units per output, of which the largest counts.
    add_bias: Adds a bias to the linear response, before the scale.
    gate: Activation of `functional.GATES` applied to the input first.
    detach: Explanation mode: no gradient flows through the scale.
  """
  fixed = isinstance(b, numbers.Real)
  if fixed and b == 2 and not (detach or add_bias or max_out > 1):
    made: Any = (
      unit_square_map(x, kernel, linear, guard, gate)
      if unit
      else square_map(x, kernel.astype(x.dtype), linear, guard, gate)
    )
    return made
  if gate is not None:
    x = F.gated(x, gate, detach=detach)
  if unit and detach:
    y = _unit_response(linear, x, kernel)
  else:
    y = linear(x, (F.unit_kernel(kernel)[0] if unit else kernel).astype(x.dtype))
  y = F.max_out(y if add_bias is None else add_bias(y), max_out)
  if fixed and b == 1:
    return y
  seen = F.hold(x) if detach else x
  return F.bcos_scale(y, linear.sq_norm(seen), b=b, guard=guard, detach=detach)


def _unit_response(linear: Matmul | Convolution, x: Array, kernel: Array) -> Array:
  """Returns the response of weights of unit length.

  The response is divided, not the kernel: to make another is most of the work for one input.
  """
  length = F.kernel_norm(kernel)
  y = linear(x, kernel.astype(x.dtype))
  return y * (1 / jnp.where(length == 0, 1.0, length)).astype(y.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def unit_square_map(
  x: Array, kernel: Array, linear: Matmul | Convolution, guard: F.Guard, gate: str | None = None
) -> Array:
  """Returns `square_map` of a kernel of any dtype each of whose outputs is divided by its norm."""
  if gate is not None:
    x = F.gated(x, gate)
  return F.square_scale(_unit_response(linear, x, kernel), guard.norm(linear.sq_norm(x)))


def _unit_square_map_fwd(x, kernel, linear, guard, gate):
  # Gradients keep and read the divided kernel, which is smaller than what is made of it.
  def transform(x: Array, kernel: Array) -> Array:
    return square_map(x, F.unit_kernel(kernel)[0].astype(x.dtype), linear, guard, gate)

  if x.perturbed:
    return jax.vjp(transform, x.value, kernel.value)
  out, pullback = jax.vjp(functools.partial(transform, x.value), kernel.value)
  return out, jax.tree_util.Partial(_without_input, x.value, pullback)


def _without_input(x, pullback, cotangent):
  return jnp.zeros_like(x), *pullback(cotangent)


unit_square_map.defvjp(
  _unit_square_map_fwd,
  lambda linear, guard, gate, pullback, cotangent: pullback(cotangent),
  symbolic_zeros=True,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def square_map(
  x: Array, kernel: Array, linear: Matmul | Convolution, guard: F.Guard, gate: str | None = None
) -> Array:
  """Returns |cos| w.x for w.x = linear(gated(x), kernel) (arXiv 2205.10268, eq. 3 at B=2).

  Gradients with respect to `x` and `kernel` are exact, through the norm as well. With n the
  norm and g the cotangent, the response gets d_y = 2 g |y| / n, |y| = sqrt(|out| n), and the
  squared norm d_n2 = -sum(g out) / 2n^2, the sum going over the outputs.

  * Where each response sees one position, sum(g out) = d_y.y / 2 = x.d_x / 2 with d_x the
    gradient before the norm's share: the sum may go over the inputs instead. That is taken when
    they are fewer, and costs no pass over memory: d_x and x are at hand in the layer before.
  * Where d_y is an expression in two activations and both products read it, it is written once
    (`shared_gradient`), together with the sum over the outputs.
  * `gate` names an activation of `functional.GATES` that belongs to the input. Its result is
    computed again in the backward pass, so only the input of the gate is kept.

  Args:
    x: Input, of the compute dtype.
    kernel: Kernel, of the compute dtype.
    linear: The map.
    guard: The epsilons of the norm.
    gate: Activation of the input, or None.

  Reverse mode only: `jax.jvp` and `jax.jacfwd` are refused by JAX. Gradients of gradients work.

  Returns:
    The scaled response, in the dtype of the input; the scale is computed in float32.
  """
  return _forward(x, kernel, linear, guard, gate)[0]


def _forward(x, kernel, linear, guard, gate):
  if gate is not None:
    x = F.gated(x, gate)
  norm = guard.norm(linear.sq_norm(x))
  return F.square_scale(linear(x, kernel), norm), norm


def _square_map_fwd(x, kernel, linear, guard, gate):
  out, norm = _forward(x.value, kernel.value, linear, guard, gate)
  # A tree without leaves is static: the first layer of a network computes no gradient of images.
  wanted = () if x.perturbed else None
  return out, (x.value, kernel.value, out, norm, wanted)


def _square_map_bwd(linear, guard, gate, residuals, cotangent):
  x, kernel, out, norm, wanted = residuals
  cotangent = cotangent.astype(out.dtype)
  through_gate = None
  if gate is not None:
    # The barrier keeps the compiler from finding, and keeping, the forward pass's value instead.
    x, through_gate = jax.vjp(lambda x: F.gated(x, gate), lax.optimization_barrier(x))
  d_y = F.square_scale_gradient(out, norm, cotangent)
  _, pullback = jax.vjp(linear, x, kernel)
  if wanted is None:
    return jnp.zeros_like(x), pullback(d_y)[1]
  if linear.pointwise and x.shape[-1] < out.shape[-1]:
    d_x, d_kernel = pullback(d_y)
    products = 0.5 * F.group_sum(F.widened(d_x) * F.widened(x))
    d_sq_norm = guard.sq_norm_gradient(norm, products)
  else:
    products = F.group_sum(F.widened(cotangent) * F.widened(out), norm.shape[-1])
    d_sq_norm = guard.sq_norm_gradient(norm, products)
    if linear.shared_gradient:
      d_y = lax.optimization_barrier(d_y)
    d_x, d_kernel = pullback(d_y)
  d_x = d_x + jax.vjp(linear.sq_norm, x)[1](d_sq_norm)[0]
  return (d_x if through_gate is None else through_gate(d_x)[0]), d_kernel


square_map.defvjp(_square_map_fwd, _square_map_bwd, symbolic_zeros=True)

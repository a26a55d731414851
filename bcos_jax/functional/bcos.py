"""The B-cos equations on arrays.

A B-cos transform scales the response of a linear map by a power of the cosine between input and
weight (B-cos Networks, arXiv 2205.10268, eq. 3; B-cos v2, arXiv 2306.10898):

    f(x; w) = |cos(x, w)|^(B-1) * w.x,        cos(x, w) = w.x / (||x|| ||w||)

Layers compute the response `y = w.x` and the squared norm of the input that produced it; the
functions here do the rest. Shapes use the channels-last layout of Flax.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import math
import numbers

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, check_fields
from .held import hold, widened

Array = jax.Array
Pads = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Guard:
  """How a published variant keeps the cosine finite when its input is zero.

  Attributes:
    eps: Added to the squared norm (`inside`) or to the norm itself.
    inside: Whether `eps` stands under the square root.
    base_eps: Added to |cos| before it is raised to B-1. Not used at B=2, where no power is taken.
  """

  eps: float
  inside: bool
  base_eps: float = 1e-6

  def __post_init__(self):
    check_fields(self)
    if self.eps < 0 or self.base_eps < 0:
      raise InputError(
        f"A guard has eps {self.eps} and base_eps {self.base_eps}, expected at least 0.",
        "Published eps are 1e-12 and 1e-6.",
      )

  def norm(self, sq_norm: Array) -> Array:
    """Returns the guarded norm of inputs with squared norm `sq_norm`; differentiable at zero."""
    if self.inside:
      return jnp.sqrt(sq_norm + self.eps)
    zero = sq_norm == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, sq_norm))) + self.eps

  def sq_norm_gradient(self, norm: Array, products: Array) -> Array:
    """Returns the gradient of y |y| / norm with respect to the squared norm.

    Args:
      norm: The guarded norm.
      products: Cotangents times results, summed over the channels that share the norm.
    """
    root = norm if self.inside else norm - self.eps
    zero = root == 0
    return jnp.where(zero, 0.0, -products / (2.0 * norm * jnp.where(zero, 1.0, root)))


CONV_GUARD = Guard(eps=1e-6, inside=True)
"""B-cos v1 and v2 and B-cosification, convolutions; B-cos LM, linear maps."""

DENSE_GUARD = Guard(eps=1e-12, inside=False)
"""B-cos v2, B-cosification and ALOE, linear maps."""


def check_b(b: float) -> float:
  """Returns `b` if it is a usable exponent, else raises InputError."""
  if isinstance(b, bool) or not (isinstance(b, numbers.Real) and math.isfinite(b) and b >= 1):
    raise InputError(
      f"B is {b!r}, expected a number of at least 1.",
      "Use b=1 for a linear layer, b=2 for the published B-cos networks.",
    )
  return b


def bcos_scale(
  y: Array,
  sq_norm: Array,
  *,
  b: float | Array = 2.0,
  guard: Guard = CONV_GUARD,
  detach: bool = False,
) -> Array:
  """Scales linear responses by |cos|^(b-1) (arXiv 2205.10268, eq. 3).

  Args:
    y: Responses `w.x`, [..., G*K]: G groups of K channels, the groups outermost.
    sq_norm: Squared norm of the input behind each response, [..., G], float32.
    b: The exponent B, at least 1. A number is compiled in; an array may be learned or scheduled,
      and its values are not checked.
    guard: The epsilons of the variant.
    detach: Stops the gradient through the scale, which makes the result linear in `y`: its
      derivative is then the dynamic weight of the explanation.

  Returns:
    The scaled responses, in the shape and dtype of `y`. The scale itself is computed in float32.

  Raises:
    InputError: A number `b` below 1.
  """
  fixed = not isinstance(b, jax.Array | np.ndarray)
  if fixed and check_b(b) == 1:
    return y
  if fixed and b == 2 and not detach:
    return _square_scale(y, sq_norm, guard)
  wide = widened(y)
  response = hold(wide) if detach else wide
  norm = guard.norm(hold(sq_norm) if detach else sq_norm)
  cos = jnp.abs(response) * _per_channel(1 / norm, y.shape[-1])
  scale = cos if fixed and b == 2 else (cos + guard.base_eps) ** (b - 1)
  return (wide * scale).astype(y.dtype)


def square_scale(y: Array, norm: Array) -> Array:
  """Returns y |y| / norm, the scaled response at B=2.

  Args:
    y: Responses, [..., G*K].
    norm: Guarded norms, float32 [..., G].
  """
  wide = widened(y)
  # Divided once for each position: compilers keep quotients in memory, and compute products again.
  return (wide * jnp.abs(wide) * _per_channel(1 / norm, y.shape[-1])).astype(y.dtype)


def square_scale_gradient(out: Array, norm: Array, cotangent: Array) -> Array:
  """Returns the gradient of `square_scale` with respect to y, from its result `out`.

  The response can be recovered from the result, |y| = sqrt(|out| norm), so a backward pass keeps
  the result, which the next layer keeps anyway, and never stores the response.
  """
  wide, g = widened(out), widened(cotangent)
  square = jnp.abs(wide) * _per_channel(1 / norm, out.shape[-1])
  # Safe at zero in the second derivative as well.
  root = jnp.where(square == 0, 0.0, jnp.sqrt(jnp.where(square == 0, 1.0, square)))
  return (2.0 * g * root).astype(out.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _square_scale(y: Array, sq_norm: Array, guard: Guard) -> Array:
  return square_scale(y, guard.norm(sq_norm))


def _square_scale_fwd(y, sq_norm, guard):
  norm = guard.norm(sq_norm)
  out = square_scale(y, norm)
  return out, (out, norm)


def _square_scale_bwd(guard, residuals, cotangent):
  out, norm = residuals
  products = group_sum(widened(cotangent) * widened(out), norm.shape[-1])
  return square_scale_gradient(out, norm, cotangent), guard.sq_norm_gradient(norm, products)


_square_scale.defvjp(_square_scale_fwd, _square_scale_bwd)


def _per_channel(per_group: Array, channels: int) -> Array:
  """Makes [..., G] broadcast against [..., channels]."""
  groups = per_group.shape[-1]
  return per_group if groups == 1 else jnp.repeat(per_group, channels // groups, axis=-1)


def group_sum(x: Array, groups: int = 1) -> Array:
  """Returns the sum over the channels of each group, [..., C] -> [..., groups]."""
  if groups == 1:
    return jnp.sum(x, axis=-1, keepdims=True)
  return jnp.sum(x.reshape(*x.shape[:-1], groups, -1), axis=-1)


def sq_norm(x: Array, groups: int = 1) -> Array:
  """Returns the float32 squared norm over the channels of each group, [..., C] -> [..., groups]."""
  return group_sum(jnp.square(widened(x)), groups)


def patch_sq_norm(
  x: Array,
  window: Sequence[int],
  strides: Sequence[int],
  padding: Pads,
  dilation: Sequence[int],
  groups: int = 1,
) -> Array:
  """Returns the squared norm of every patch that a convolution sees.

  Args:
    x: Inputs, [N, *spatial, C].
    window: Extent of the kernel along each spatial axis.
    strides: Strides along each spatial axis.
    padding: Zeros before and after each spatial axis. Padding counts as zeros whatever the
      convolution itself pads with (B-cos v2, bcosconv2d).
    dilation: Kernel dilation along each spatial axis.
    groups: Feature groups of the convolution.

  Returns:
    float32, [N, *spatial_out, groups].
  """
  squares = sq_norm(x, groups)
  if all(k == 1 for k in window) and not any(map(any, padding)):
    return lax.slice(squares, (0,) * squares.ndim, squares.shape, (1, *strides, 1))
  return lax.reduce_window(
    squares,
    0.0,
    lax.add,
    window_dimensions=(1, *window, 1),
    window_strides=(1, *strides, 1),
    padding=((0, 0), *padding, (0, 0)),
    window_dilation=(1, *dilation, 1),
  )


def unit_kernel(kernel: Array) -> tuple[Array, Array]:
  """Divides a kernel by the norm of each output unit.

  Args:
    kernel: [..., O], Flax layout; the norm is taken over all axes but the last. Published code
      adds no epsilon (B-cos v2, NormedConv2d); a unit that is zero stays zero here, not NaN.

  Returns:
    The unit-norm kernel, and the norms [O].
  """
  norm = kernel_norm(kernel)
  return kernel / jnp.where(norm == 0, 1.0, norm), norm


def kernel_norm(kernel: Array) -> Array:
  """Returns the norm of each output unit of a kernel [..., O], [O]; differentiable at zero."""
  square = jnp.square(kernel).reshape(-1, kernel.shape[-1])
  # Summed by a product, which every core takes part in.
  ones = jnp.ones((1, len(square)), square.dtype)
  square = jnp.matmul(ones, square, precision=lax.Precision.HIGHEST)[0]
  zero = square == 0
  return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def max_out(y: Array, units: int) -> Array:
  """Keeps the largest of every `units` neighbouring channels (arXiv 2205.10268, eq. 6)."""
  return y if units == 1 else y.reshape(*y.shape[:-1], -1, units).max(axis=-1)


def unit_length(x: Array, *, eps: float = 1e-12, detach: bool = False) -> Array:
  """Divides vectors by their length.

  Args:
    x: [..., C].
    eps: Least divisor, which keeps zero at zero.
    detach: Makes the divisor a constant dynamic weight.

  Returns:
    The same shape and dtype as `x`. The length is computed in float32.
  """
  inverse = lax.rsqrt(jnp.maximum(sq_norm(x), eps**2))
  return (x * (hold(inverse) if detach else inverse)).astype(x.dtype)

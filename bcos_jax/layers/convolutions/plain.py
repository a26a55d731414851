"""What a convolution and its two gradients are, as JAX and XLA make them."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Geometry:
  """Which inputs a convolution of 1 to 3 spatial axes maps to which results.

  Without spatial axes it is a dense map, `DENSE`, of [..., I] to [..., O].

  Attributes:
    window: Extent of the kernel along each spatial axis.
    strides: Strides along each spatial axis.
    pads: Zeros (before, after) each spatial axis.
    dilation: Kernel dilation along each spatial axis.
    groups: Feature groups.
    precision: Of the products, as `jax.lax` takes it; None follows `jax.default_matmul_precision`.
  """

  window: tuple[int, ...]
  strides: tuple[int, ...]
  pads: tuple[tuple[int, int], ...]
  dilation: tuple[int, ...]
  groups: int = 1
  precision: str | None = None

  @property
  def rank(self) -> int:
    """The number of spatial axes."""
    return len(self.window)

  @property
  def one_position(self) -> bool:
    """Whether each result sees one position."""
    return math.prod(self.window) == 1 and not any(map(any, self.pads))

  @property
  def beyond(self) -> tuple[tuple[int, int], ...]:
    """Zeros (before, after) each axis that are further out than the kernel reaches."""
    reach = [(k - 1) * d for k, d in zip(self.window, self.dilation, strict=True)]
    return tuple(
      (max(before - r, 0), max(after - r, 0))
      for (before, after), r in zip(self.pads, reach, strict=True)
    )

  @property
  def within(self) -> tuple[tuple[int, int], ...]:
    """The pads but for those beyond."""
    return tuple(
      (before - b, after - a)
      for (before, after), (b, a) in zip(self.pads, self.beyond, strict=True)
    )

  def spatial_out(self, spatial: Sequence[int]) -> tuple[int, ...]:
    """Returns the extent of the results for inputs of extent `spatial`."""
    return tuple(
      (length + sum(pads) - (k - 1) * d - 1) // s + 1
      for length, pads, k, d, s in zip(
        spatial, self.pads, self.window, self.dilation, self.strides, strict=True
      )
    )


DENSE = Geometry((), (), (), ())


def convolved(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """Maps x [N, *spatial, I] by kernel [*window, I / groups, O] to [N, *spatial_out, O]."""
  if not geometry.rank:
    contracted = ((x.ndim - 1,), (0,))
    return lax.dot_general(x, kernel, (contracted, ((), ())), precision=geometry.precision)
  axes = "DHW"[3 - geometry.rank :]
  return lax.conv_general_dilated(
    x,
    kernel,
    geometry.strides,
    geometry.pads,
    rhs_dilation=geometry.dilation,
    feature_group_count=geometry.groups,
    dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    precision=geometry.precision,
  )


def input_gradient(
  cotangent: Array, kernel: Array, geometry: Geometry, spatial: tuple[int, ...]
) -> Array:
  """Returns what `convolved` has as gradient with respect to x, [N, *spatial, I]."""
  examples = cotangent.shape[:1] if geometry.rank else cotangent.shape[:-1]
  inputs = kernel.shape[-2] * geometry.groups
  x = jax.ShapeDtypeStruct((*examples, *spatial, inputs), cotangent.dtype)
  return jax.linear_transpose(lambda x: convolved(x, kernel, geometry), x)(cotangent)[0]


def kernel_gradient(x: Array, cotangent: Array, geometry: Geometry) -> Array:
  """Returns what `convolved` has as gradient with respect to the kernel."""
  shape = (*geometry.window, x.shape[-1] // geometry.groups, cotangent.shape[-1])
  kernel = jax.ShapeDtypeStruct(shape, jnp.result_type(x, cotangent))
  return jax.linear_transpose(lambda kernel: convolved(x, kernel, geometry), kernel)(cotangent)[0]


def window_sum(x: Array, geometry: Geometry) -> Array:
  """Returns the sum over each window of x [N, *spatial, C], channel by channel."""
  return lax.reduce_window(
    x,
    0.0,
    lax.add,
    window_dimensions=(1, *geometry.window, 1),
    window_strides=(1, *geometry.strides, 1),
    padding=((0, 0), *geometry.pads, (0, 0)),
    window_dilation=(1, *geometry.dilation, 1),
  )

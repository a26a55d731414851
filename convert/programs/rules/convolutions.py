"""Convolutions, in PyTorch's layouts: [N, C, places] and [outputs, C / groups, window]."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ..operators import operator


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
  """Returns a number for each axis, of one for all or one for each."""
  value = [value] if isinstance(value, int) else list(value)
  return tuple(value * axes if len(value) == 1 else value)


@operator("aten.conv1d", "aten.conv2d", "aten.conv3d")
def _conv(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
  axes = weight.ndim - 2
  dilation = per_axis(dilation, axes)
  if padding == "valid":
    padding = 0
  if padding == "same":
    totals = [d * (n - 1) for d, n in zip(dilation, weight.shape[2:], strict=True)]
    pads = [(total // 2, total - total // 2) for total in totals]
  else:
    pads = [(n, n) for n in per_axis(padding, axes)]
  single = x.ndim == axes + 1  # one example, without an axis of the batch
  y = jax.lax.conv_general_dilated(
    x[None] if single else x,
    weight,
    per_axis(stride, axes),
    pads,
    rhs_dilation=dilation,
    feature_group_count=groups,
  )
  return _biased(y[0] if single else y, bias, axes)


def _biased(y, bias, axes: int):
  return y if bias is None else y + bias.reshape(-1, *[1] * axes)


@operator("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def _conv_transpose(
  x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
  axes = weight.ndim - 2
  stride, padding, more, dilation = (
    per_axis(each, axes) for each in (stride, padding, output_padding, dilation)
  )
  reach = [d * (n - 1) for d, n in zip(dilation, weight.shape[2:], strict=True)]
  pads = [(r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True)]
  inputs, outputs, *window = weight.shape  # outputs of a group
  kernel = weight.reshape(groups, inputs // groups, outputs, *window)
  kernel = jnp.swapaxes(kernel, 1, 2).reshape(groups * outputs, inputs // groups, *window)
  y = jax.lax.conv_general_dilated(
    x,
    jnp.flip(kernel, range(2, kernel.ndim)),
    (1,) * axes,
    pads,
    lhs_dilation=stride,
    rhs_dilation=dilation,
    feature_group_count=groups,
  )
  return _biased(y, bias, axes)


@operator("aten.convolution", "aten._convolution")
def _convolution(
  x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, *flags
):
  if transposed:
    return _conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)
  return _conv(x, weight, bias, stride, padding, dilation, groups)

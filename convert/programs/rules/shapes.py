"""Operators that move numbers: shapes, axes, parts, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ..operators import operator


@operator("aten.view", "aten.reshape", "aten._unsafe_view", "aten.view_copy")
def _view(x, size):
  if isinstance(size, np.dtype):
    raise NotImplementedError("a view of other numbers of bits")
  return x.reshape(size)


@operator("aten.view_as", "aten.reshape_as")
def _view_as(x, other):
  return x.reshape(other.shape)


@operator("aten.flatten")
def _flatten(x, start=0, end=-1):
  if not x.ndim:
    return x.reshape(1)
  start, end = start % x.ndim, end % x.ndim
  return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


@operator("aten.unflatten")
def _unflatten(x, dim, sizes):
  dim %= x.ndim
  known = math.prod(size for size in sizes if size >= 0)
  sizes = [x.shape[dim] // known if size < 0 else size for size in sizes]
  return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


@operator("aten.permute", "aten.permute_copy")
def _permute(x, dims):
  return jnp.transpose(x, dims)


@operator("aten.transpose", "aten.transpose_copy", "aten.swapaxes")
def _transpose(x, first, second):
  return jnp.swapaxes(x, first, second)


@operator("aten.t", "aten.numpy_T")
def _t(x):
  return x.T


@operator("aten.movedim")
def _movedim(x, source, destination):
  return jnp.moveaxis(x, source, destination)


@operator("aten.unsqueeze", "aten.unsqueeze_copy")
def _unsqueeze(x, dim):
  return jnp.expand_dims(x, dim)


@operator("aten.squeeze", "aten.squeeze_copy")
def _squeeze(x, dim=None):
  dims = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
  return jnp.squeeze(x, tuple(d % x.ndim for d in dims if x.ndim and x.shape[d] == 1))


@operator("aten.expand", "aten.expand_copy")
def _expand(x, size, implicit=False):
  shape = (1,) * (len(size) - x.ndim) + x.shape
  sizes = [own if wanted == -1 else wanted for own, wanted in zip(shape, size, strict=True)]
  return jnp.broadcast_to(x, sizes)


@operator("aten.expand_as")
def _expand_as(x, other):
  return jnp.broadcast_to(x, other.shape)


@operator("aten.slice", "aten.slice_copy")
def _slice(x, dim=0, start=None, end=None, step=1):
  return x[_along(dim % x.ndim, slice(start, end, step))]


def _along(dim: int, part) -> tuple:
  """Returns the index of a part of one axis."""
  return (slice(None),) * dim + (part,)


@operator("aten.select", "aten.select_copy")
def _select(x, dim, index):
  return x[_along(dim % x.ndim, index)]


@operator("aten.narrow")
def _narrow(x, dim, start, length):
  return x[_along(dim % x.ndim, slice(start, start + length))]


@operator("aten.slice_scatter")
def _slice_scatter(x, source, dim=0, start=None, end=None, step=1):
  return x.at[_along(dim % x.ndim, slice(start, end, step))].set(source)


@operator("aten.select_scatter")
def _select_scatter(x, source, dim, index):
  return x.at[_along(dim % x.ndim, index)].set(source)


@operator("aten.cat", "aten.concat")
def _cat(tensors, dim=0):
  rank = max(x.ndim for x in tensors)
  return jnp.concatenate([x for x in tensors if x.ndim == rank], dim)  # [0] is left out


@operator("aten.stack")
def _stack(tensors, dim=0):
  return jnp.stack(tensors, dim)


@operator("aten.split", "aten.split_copy")
def _split(x, size, dim=0):
  if not isinstance(size, int):
    return _split_with_sizes(x, size, dim)
  return jnp.split(x, list(range(size, x.shape[dim], size)), dim)


@operator("aten.split_with_sizes", "aten.split_with_sizes_copy")
def _split_with_sizes(x, sizes, dim=0):
  return jnp.split(x, list(itertools.accumulate(sizes))[:-1], dim)


@operator("aten.chunk")
def _chunk(x, chunks, dim=0):
  return _split(x, max(1, -(-x.shape[dim] // chunks)), dim)


@operator("aten.unbind", "aten.unbind_copy")
def _unbind(x, dim=0):
  return [_select(x, dim, i) for i in range(x.shape[dim])]


@operator("aten.repeat", "aten.tile")
def _repeat(x, repeats):
  return jnp.tile(x, repeats)


@operator("aten.repeat_interleave.self_int")
def _repeat_interleave(x, repeats, dim=None, output_size=None):
  return jnp.repeat(x, repeats, dim)


@operator("aten.roll")
def _roll(x, shifts, dims=()):
  shifts, dims = ([n] if isinstance(n, int) else list(n) for n in (shifts, dims))
  return jnp.roll(x, tuple(shifts), tuple(dims)) if dims else jnp.roll(x, shifts[0])


@operator("aten.flip")
def _flip(x, dims):
  return jnp.flip(x, tuple(dims))


@operator("aten.diagonal")
def _diagonal(x, offset=0, dim1=0, dim2=1):
  return jnp.diagonal(x, offset, dim1, dim2)


@operator("aten.constant_pad_nd")
def _constant_pad(x, pads, value=0):
  return _pad(x, pads, "constant", value)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@operator("aten.pad")
def _pad(x, pads, mode="constant", value=None):
  pairs = [(0, 0)] * (x.ndim - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))[::-1]
  if any(n < 0 for pair in pairs for n in pair):  # which cuts
    start = [max(0, -low) for low, _ in pairs]
    stop = [n + min(0, high) for n, (_, high) in zip(x.shape, pairs, strict=True)]
    x = jax.lax.slice(x, start, stop)
    pairs = [(max(0, low), max(0, high)) for low, high in pairs]
  if mode != "constant":
    return jnp.pad(x, pairs, _MODES[mode])
  return jnp.pad(x, pairs, constant_values=0 if value is None else value)


@operator("aten.reflection_pad1d", "aten.reflection_pad2d", "aten.reflection_pad3d")
def _reflection_pad(x, pads):
  return _pad(x, pads, "reflect")


@operator("aten.replication_pad1d", "aten.replication_pad2d", "aten.replication_pad3d")
def _replication_pad(x, pads):
  return _pad(x, pads, "replicate")


@operator("aten.pixel_shuffle")
def _pixel_shuffle(x, factor):
  *batch, channels, height, width = x.shape
  x = x.reshape(*batch, channels // factor**2, factor, factor, height, width)
  x = jnp.moveaxis(x, (-4, -3), (-3, -1))
  return x.reshape(*batch, channels // factor**2, height * factor, width * factor)


@operator("aten.pixel_unshuffle")
def _pixel_unshuffle(x, factor):
  *batch, channels, height, width = x.shape
  x = x.reshape(*batch, channels, height // factor, factor, width // factor, factor)
  x = jnp.moveaxis(x, (-3, -1), (-4, -3))
  return x.reshape(*batch, channels * factor**2, height // factor, width // factor)


@operator("aten.channel_shuffle", "aten.native_channel_shuffle")
def _channel_shuffle(x, groups):
  count, channels, *places = x.shape
  grouped = x.reshape(count, groups, channels // groups, *places)
  return jnp.swapaxes(grouped, 1, 2).reshape(x.shape)


@operator("aten.unfold")
def _unfold(x, dim, size, step):
  starts = np.arange(0, x.shape[dim] - size + 1, step)
  windows = jnp.take(x, starts[:, None] + np.arange(size), axis=dim)
  return jnp.moveaxis(windows, dim % x.ndim + 1, -1)


@operator("aten.as_strided")
def _as_strided(x, size, stride, offset=None):
  """Of a tensor whose numbers lie in order, as all of those are that exported programs view so."""
  grid = np.ix_(*(np.arange(n) * step for n, step in zip(size, stride, strict=True)))
  return x.reshape(-1)[(offset or 0) + sum(grid, start=np.zeros(size, int))]


def _columns(length: int, kernel: int, dilation: int, pad: int, stride: int) -> np.ndarray:
  """Returns which places of a padded axis the windows see, [window, position]."""
  count = (length + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
  return np.arange(kernel)[:, None] * dilation + np.arange(count) * stride


@operator("aten.im2col")
def _im2col(x, kernel, dilation, padding, stride):
  rows, columns = (
    _columns(x.shape[2 + i], kernel[i], dilation[i], padding[i], stride[i]) for i in (0, 1)
  )
  padded = jnp.pad(x, [(0, 0), (0, 0), *((n, n) for n in padding)])
  seen = padded[:, :, rows[:, None, :, None], columns[None, :, None, :]]
  return seen.reshape(x.shape[0], math.prod(seen.shape[1:4]), -1)


@operator("aten.col2im")
def _col2im(x, size: Sequence[int], kernel, dilation, padding, stride):
  rows, columns = (_columns(size[i], kernel[i], dilation[i], padding[i], stride[i]) for i in (0, 1))
  windows = (x.shape[0], -1, *kernel, rows.shape[1], columns.shape[1])
  padded = [n + 2 * pad for n, pad in zip(size, padding, strict=True)]
  x = x.reshape(windows)
  whole = jnp.zeros((*x.shape[:2], *padded), x.dtype)
  whole = whole.at[:, :, rows[:, None, :, None], columns[None, :, None, :]].add(x)
  return whole[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]

"""Formulations that XLA's CPU backend runs faster than its own; figures in docs/performance.md.

It is at its best in products of matrices and in convolutions without strides of the input and
without groups. Gradients with respect to the input of a strided convolution are such convolutions
by phases: inputs whose place leaves the same rest modulo the stride see the same taps of the
kernel. Depthwise convolutions are sums over taps.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp

from ... import functional as F
from . import plain
from .plain import Geometry

Array = jax.Array


def convolved(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """Computes what `plain.convolved` does."""
  if geometry.groups == 1:
    return plain.convolved(x, kernel, geometry)
  if kernel.shape[-2] == 1 and math.prod(geometry.window) <= MOST_TAPS:
    return _by_taps(x, kernel, geometry)
  return _by_blocks(x, kernel, geometry)


def input_gradient(
  cotangent: Array, kernel: Array, geometry: Geometry, spatial: tuple[int, ...]
) -> Array:
  """Computes what `plain.input_gradient` does."""
  if not geometry.rank:
    return _product(cotangent, kernel, geometry)
  if geometry.groups == 1 and geometry.one_position:
    return _spread(_product(cotangent, kernel, geometry), geometry.strides, spatial)
  if math.prod(geometry.strides) == 1:
    return _flipped(cotangent, kernel, geometry, spatial)
  if math.prod(geometry.dilation) == 1:
    return _by_phases(cotangent, kernel, geometry, spatial)
  return plain.input_gradient(cotangent, kernel, geometry, spatial)


def kernel_gradient(x: Array, cotangent: Array, geometry: Geometry) -> Array:
  """Computes what `plain.kernel_gradient` does."""
  if not geometry.rank:
    return _matrix_gradient(x, cotangent, geometry)
  if geometry.groups > 1:
    if geometry.groups == x.shape[-1] == cotangent.shape[-1]:
      return _tap_gradients(x, cotangent, geometry)
    return _block_gradients(x, cotangent, geometry)
  if geometry.one_position:
    seen = next(_seen(x, geometry, cotangent.shape[1:-1]))
    product = _matrix_gradient(seen, cotangent, geometry)
    return product.reshape(*geometry.window, *product.shape)
  return plain.kernel_gradient(x, cotangent, geometry)


def _seen(x: Array, geometry: Geometry, results: tuple[int, ...]) -> Iterator[Array]:
  """Yields what each tap sees of x, [N, *results, C], in the order of the kernel."""
  x = _padded(x, geometry)
  for tap in itertools.product(*map(range, geometry.window)):
    starts = [t * d for t, d in zip(tap, geometry.dilation, strict=True)]
    ends = [
      start + (count - 1) * stride + 1
      for start, count, stride in zip(starts, results, geometry.strides, strict=True)
    ]
    yield lax.slice(x, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]), (1, *geometry.strides, 1))


def _padded(x: Array, geometry: Geometry) -> Array:
  """Returns x with its zeros around it."""
  pads = [(before, after, 0) for before, after in geometry.pads]
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def window_sum(x: Array, geometry: Geometry) -> Array:
  """Computes what `plain.window_sum` does."""
  if x.shape[-1] == 1 or not 1 < math.prod(geometry.window) <= MOST_TAPS:
    return plain.window_sum(x, geometry)
  ones = jnp.ones((*geometry.window, 1, x.shape[-1]), x.dtype)
  return _by_taps(x, ones, geometry)


MOST_TAPS = 128
"""Taps up to which depthwise convolutions are written out as sums."""


def _by_taps(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """A convolution each of whose results sees one channel: sums of products, no matrices.

  Made in a loop over parts of the first axis, which the compiler does not look into: what reads
  the sums would compute them again, and round them otherwise, so that a maximum could differ from
  all that it was taken of.
  """
  results = geometry.spatial_out(x.shape[1:-1])
  parts = next((n for n in range(2, results[0] + 1) if results[0] % n == 0), 0)
  if not parts:
    return plain.convolved(x, kernel, geometry)
  x = _padded(jnp.repeat(x, kernel.shape[-1] // x.shape[-1], axis=-1), geometry)
  rows, stride = results[0] // parts, geometry.strides[0]
  reach = (rows - 1) * stride + (geometry.window[0] - 1) * geometry.dilation[0] + 1
  one = dataclasses.replace(geometry, pads=((0, 0),) * geometry.rank)
  taps = kernel.reshape(-1, kernel.shape[-1])

  def part(i: Array) -> Array:
    seen = lax.dynamic_slice_in_dim(x, i * rows * stride, reach, axis=1)
    seen = _seen(seen, one, (rows, *results[1:]))
    products = (F.widened(each) * tap for each, tap in zip(seen, taps, strict=True))
    return functools.reduce(jnp.add, products).astype(x.dtype)

  made = jnp.moveaxis(lax.map(part, jnp.arange(parts)), 0, 1)
  return made.reshape(x.shape[0], *results, kernel.shape[-1])


def _tap_gradients(x: Array, cotangent: Array, geometry: Geometry) -> Array:
  """The gradient with respect to the kernel where every group is one channel, tap by tap."""
  axes = tuple(range(cotangent.ndim - 1))
  x = _padded(x, geometry)
  spans = [
    (count - 1) * stride + 1
    for count, stride in zip(cotangent.shape[1:-1], geometry.strides, strict=True)
  ]
  strided = (slice(None), *(slice(None, None, stride) for stride in geometry.strides))

  def of_tap(start: Array) -> Array:
    seen = lax.dynamic_slice(x, (0, *start, 0), (x.shape[0], *spans, x.shape[-1]))
    return jnp.sum(seen[strided] * cotangent, axes)

  taps = itertools.product(*map(range, geometry.window))
  starts = jnp.asarray(list(taps)) * jnp.asarray(geometry.dilation)
  return lax.map(of_tap, starts).reshape(*geometry.window, 1, x.shape[-1])


BLOCK = 32
"""Channels that convolutions of small groups see at once; zeros stand between the groups."""


def _blocks(kernel_inputs: int, groups: int) -> int:
  """Returns how many groups are computed as one."""
  wanted = max(1, BLOCK // kernel_inputs)
  return max(count for count in range(1, groups + 1) if groups % count == 0 and count <= wanted)


def _by_blocks(x: Array, kernel: Array, geometry: Geometry) -> Array:
  """A convolution of groups, some groups at a time as one with a kernel of diagonal blocks."""
  per_group, outputs = kernel.shape[-2], kernel.shape[-1] // geometry.groups
  together = _blocks(per_group, geometry.groups)
  blocks = geometry.groups // together
  diagonal = jnp.eye(together, dtype=kernel.dtype)
  spread = kernel.reshape(*geometry.window, per_group, blocks, together, outputs)
  spread = jnp.einsum("...ibto,st->...bsito", spread, diagonal)
  spread = spread.reshape(*geometry.window, blocks, together * per_group, together * outputs)
  one = dataclasses.replace(geometry, groups=1)
  parts = jnp.split(x, blocks, axis=-1)
  return jnp.concatenate(
    [plain.convolved(part, spread[..., i, :, :], one) for i, part in enumerate(parts)], axis=-1
  )


def _block_gradients(x: Array, cotangent: Array, geometry: Geometry) -> Array:
  """The gradient with respect to the kernel of a convolution of groups, see `_by_blocks`."""
  groups = geometry.groups
  per_group, outputs = x.shape[-1] // groups, cotangent.shape[-1] // groups
  together = _blocks(per_group, groups)
  blocks = groups // together
  one = dataclasses.replace(geometry, groups=1)
  parts = []
  for seen, part in zip(
    jnp.split(x, blocks, axis=-1), jnp.split(cotangent, blocks, axis=-1), strict=True
  ):
    whole = plain.kernel_gradient(seen, part, one)
    whole = whole.reshape(*geometry.window, together, per_group, together, outputs)
    parts.append(jnp.einsum("...tito->...ito", whole))
  return jnp.concatenate(parts, axis=-2).reshape(*geometry.window, per_group, groups * outputs)


def _matrix_gradient(x: Array, cotangent: Array, geometry: Geometry) -> Array:
  """The gradient with respect to the matrix that maps [..., I] to [..., O], [I, O]."""
  x, cotangent = (part.reshape(-1, part.shape[-1]) for part in (x, cotangent))
  # XLA turns the first factor round in memory: the smaller one.
  turned = x.shape[1] > cotangent.shape[1]
  factors = (cotangent, x) if turned else (x, cotangent)
  product = lax.dot_general(*factors, (((0,), (0,)), ((), ())), precision=geometry.precision)
  return product.T if turned else product


def _product(cotangent: Array, kernel: Array, geometry: Geometry) -> Array:
  """Returns a cotangent times a kernel of one position, transposed."""
  return lax.dot_general(
    cotangent,
    kernel.reshape(kernel.shape[-2:]),
    (((cotangent.ndim - 1,), (1,)), ((), ())),
    precision=geometry.precision,
  )


def _spread(x: Array, strides: tuple[int, ...], spatial: tuple[int, ...]) -> Array:
  """Puts zeros between positions that are `strides` apart in an array of extent `spatial`."""
  if math.prod(strides) == 1:
    return x
  pads = [
    (0, length - (count - 1) * stride - 1, stride - 1)
    for length, count, stride in zip(spatial, x.shape[1:-1], strides, strict=True)
  ]
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


def _transposed(kernel: Array, groups: int) -> Array:
  """Returns a kernel with its taps in reverse order, and inputs and outputs changed over."""
  *window, inputs, outputs = kernel.shape
  kernel = jnp.flip(kernel, range(len(window))).reshape(*window, inputs, groups, -1)
  return jnp.swapaxes(kernel, -1, -3).reshape(*window, outputs // groups, groups * inputs)


def _flipped(
  cotangent: Array, kernel: Array, geometry: Geometry, spatial: tuple[int, ...]
) -> Array:
  """The gradient with respect to the input of a convolution without strides."""
  pads = []
  for length, count, (before, _), k, d in zip(
    spatial, cotangent.shape[1:-1], geometry.pads, geometry.window, geometry.dilation, strict=True
  ):
    reach = (k - 1) * d
    pads.append((reach - before, length - count + before))
  backward = dataclasses.replace(geometry, pads=tuple(pads))
  return convolved(cotangent, _transposed(kernel, geometry.groups), backward)


def _by_phases(
  cotangent: Array, kernel: Array, geometry: Geometry, spatial: tuple[int, ...]
) -> Array:
  """The gradient with respect to the input of a strided convolution.

  Input i sees result o by tap t where i + before = o * stride + t. Inputs of one phase, the rest r
  of i + before modulo the stride, see the taps r, r + stride, ... in a convolution without strides.
  """
  starts = [before for before, _ in geometry.pads]
  counts = [
    -(-(length + before) // stride)
    for length, before, stride in zip(spatial, starts, geometry.strides, strict=True)
  ]
  phases = list(itertools.product(*map(range, geometry.strides)))
  none_missing = all(k % s == 0 for k, s in zip(geometry.window, geometry.strides, strict=True))
  few = len(phases) * kernel.shape[-2] <= FEW
  if geometry.groups == 1 and (none_missing or few):
    parts = _phases_at_once(cotangent, kernel, geometry, counts, phases)
  else:
    parts = [_phase(cotangent, kernel, geometry, counts, phase) for phase in phases]
  return _interleaved(jnp.stack(parts), geometry.strides, starts, spatial)


FEW = 32
"""Channels of all phases up to which one convolution makes them, though some of it is zeros."""


def _phases_at_once(cotangent, kernel, geometry, counts, phases):
  """Phases as channels; those with fewer taps, as of a stem, get further ones of zeros."""
  more = [(0, -k % s) for k, s in zip(geometry.window, geometry.strides, strict=True)]
  kernel = jnp.pad(kernel, (*more, (0, 0), (0, 0)))
  taps = jnp.concatenate([_transposed(_taps(kernel, geometry, p), 1) for p in phases], axis=-1)
  together = plain.convolved(cotangent, taps, _of_taps(taps, geometry, counts, cotangent))
  return jnp.split(together, len(phases), axis=-1)


def _phase(cotangent, kernel, geometry, counts, phase):
  taps = _taps(kernel, geometry, phase)
  if 0 in taps.shape:
    inputs = kernel.shape[-2] * geometry.groups
    return jnp.zeros((cotangent.shape[0], *counts, inputs), cotangent.dtype)
  one_phase = _of_taps(taps, geometry, counts, cotangent)
  return convolved(cotangent, _transposed(taps, geometry.groups), one_phase)


def _taps(kernel, geometry, phase):
  """Returns the taps that inputs of one phase see."""
  return kernel[tuple(slice(r, None, s) for r, s in zip(phase, geometry.strides, strict=True))]


def _of_taps(taps, geometry, counts, cotangent):
  """Returns the geometry of a convolution that makes `counts` inputs of a phase."""
  ones, window = (1,) * geometry.rank, taps.shape[: geometry.rank]
  pads = tuple(
    (k - 1, count - results)
    for k, count, results in zip(window, counts, cotangent.shape[1:-1], strict=True)
  )
  return Geometry(window, ones, pads, ones, geometry.groups, geometry.precision)


def _interleaved(parts, strides, starts, spatial):
  """Returns [N, *spatial, C] from its phases, [phases, N, *counts, C]."""
  rank = len(strides)
  batch, *counts, channels = parts.shape[1:]
  parts = parts.reshape(*strides, batch, *counts, channels)
  order = [rank]
  for axis in range(rank):
    order += [rank + 1 + axis, axis]
  whole = parts.transpose(*order, 2 * rank + 1).reshape(
    batch, *(count * stride for count, stride in zip(counts, strides, strict=True)), channels
  )
  for axis, (start, length) in enumerate(zip(starts, spatial, strict=True)):
    whole = lax.slice_in_dim(whole, start, start + length, axis=axis + 1)
  return whole

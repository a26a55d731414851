"""Rules of what moves numbers and computes none: shapes, orders, slices, paddings."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from ..graph import Dim, OnnxGraph, Tensor, known
from .table import UnwrittenEquation, rule


@rule("transpose")
def _transpose(_: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  (x,), permutation = equation.inputs, equation.params["permutation"]
  dims = tuple(x.dims[axis] for axis in permutation)
  if x.array is not None:
    return known(np.transpose(x.array, permutation))
  places = {axis: i for i, axis in enumerate(permutation)}
  return dataclasses.replace(x, dims=dims, order=tuple(places[axis] for axis in x.order))


@rule("broadcast_in_dim")
def _broadcast(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  x, axes = equation.inputs[0], equation.params["broadcast_dimensions"]
  return placed(graph, x, axes, len(equation.dims[0]))


def placed(graph: OnnxGraph, x: Tensor, axes: Sequence[int], rank: int) -> Tensor:
  """Returns a tensor whose axes became some axes of a larger rank, the others being of length 1."""
  dims: list[Dim] = [1] * rank
  for axis, dim in zip(axes, x.dims, strict=True):
    dims[axis] = dim
  if x.array is not None:
    return known(np.transpose(x.array, np.argsort(axes)).reshape(dims))
  mapped = [axes[axis] for axis in x.order]
  new = [axis for axis in range(rank) if axis not in axes]
  order = sorted([*mapped, *new]) if mapped == sorted(mapped) else [*mapped, *new]
  if not new:
    return Tensor(tuple(dims), x.dtype, tuple(order), x.name)
  where = graph.integers(*(order.index(axis) for axis in new))
  return Tensor(tuple(dims), x.dtype, tuple(order), graph.node("Unsqueeze", x.name, where))


@rule("squeeze")
def _squeeze(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  return squeezed(graph, equation.inputs[0], equation.params["dimensions"])


def squeezed(graph: OnnxGraph, x: Tensor, axes: Sequence[int]) -> Tensor:
  """Returns a tensor without some axes of length 1."""
  kept = [axis for axis in range(x.rank) if axis not in axes]
  dims = tuple(x.dims[axis] for axis in kept)
  if x.array is not None:
    return known(x.array.reshape(dims))
  name = x.name
  if axes:
    name = graph.node("Squeeze", name, graph.integers(*sorted(map(x.stored_axis, axes))))
  order = tuple(kept.index(axis) for axis in x.order if axis in kept)
  return Tensor(dims, x.dtype, order, name)


@rule("reshape")
def _reshape(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  (x,), before, after = equation.inputs, equation.shapes[0], equation.dims[0]
  if equation.params.get("dimensions") is not None:
    return _turned(graph, equation)
  old = [axis for axis, dim in enumerate(before) if dim != 1]
  new = [axis for axis, dim in enumerate(after) if dim != 1]
  if [before[axis] for axis in old] == [after[axis] for axis in new]:  # only lengths of 1 change
    ones = [axis for axis in range(x.rank) if axis not in old]
    return placed(graph, squeezed(graph, x, ones), new, len(after))
  if x.array is not None and all(isinstance(dim, int) for dim in (*before, *after)):
    return known(np.broadcast_to(x.array, before).reshape(after))
  x = equation.full(graph)
  name = graph.reshaped(graph.stored(x), after)
  return Tensor(after, x.dtype, tuple(range(len(after))), name)


def _turned(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  """A reshape of turned axes, as the gradients of grouped convolutions have."""
  turn, after = equation.params["dimensions"], equation.dims[0]
  x = equation.full(graph)
  if x.array is not None:
    return known(np.transpose(x.array, turn).reshape(after))
  return Tensor(
    after, x.dtype, tuple(range(len(after))), graph.reshaped(graph.stored(x, turn), after)
  )


@rule("slice")
def _slice(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  params = equation.params
  starts, limits = params["start_indices"], params["limit_indices"]
  strides = params["strides"] or (1,) * len(starts)
  return sliced(graph, equation.inputs[0], equation.dims[0], starts, limits, strides)


def sliced(
  graph: OnnxGraph,
  x: Tensor,
  dims: Sequence[Dim],
  starts: Sequence[int],
  limits: Sequence[Dim],
  strides: Sequence[int],
) -> Tensor:
  """Returns a slice of a tensor; where its broadcast is open, it stays so."""
  cut = [
    axis
    for axis, dim in enumerate(x.dims)
    if (dim != 1 or dims[axis] == 0)
    and not (starts[axis] == 0 and strides[axis] == 1 and limits[axis] == dim)
  ]
  if not cut:
    return x
  found = tuple(dims[axis] if axis in cut else dim for axis, dim in enumerate(x.dims))
  if x.array is not None:
    places = [
      slice(starts[a], limits[a], strides[a]) if a in cut else slice(None) for a in range(x.rank)
    ]
    return known(x.array[tuple(places)])
  name = graph.node(
    "Slice",
    x.name,
    graph.integers(*(starts[axis] for axis in cut)),
    graph.integers(*(limits[axis] for axis in cut)),
    graph.integers(*(x.stored_axis(axis) for axis in cut)),
    graph.integers(*(strides[axis] for axis in cut)),
  )
  return Tensor(found, x.dtype, x.order, name)


@rule("rev")
def _reverse(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  (x,) = equation.inputs
  axes = [axis for axis in equation.params["dimensions"] if x.dims[axis] != 1]
  if not axes:
    return x
  if x.array is not None:
    return known(np.flip(x.array, tuple(axes)))
  ends = graph.integers(*[-1] * len(axes))
  least = graph.integers(*[np.iinfo(np.int64).min] * len(axes))  # before the first one
  places = graph.integers(*map(x.stored_axis, axes))
  return dataclasses.replace(x, name=graph.node("Slice", x.name, ends, least, places, ends))


@rule("concatenate")
def _concatenate(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  axis = equation.params["dimension"]
  parts = [equation.full(graph, i) for i in range(len(equation.inputs))]
  order = next((x.order for x in parts if x.array is None), parts[0].order)
  names = [graph.stored(x, order) for x in parts]
  made = graph.node("Concat", *names, axis=order.index(axis))
  return Tensor(equation.dims[0], equation.dtypes[0], order, made)


@rule("stack")
def _stack(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  axis, rank = equation.params["axis"], len(equation.dims[0])
  kept = [a for a in range(rank) if a != axis]
  parts = [placed(graph, equation.full(graph, i), kept, rank) for i in range(len(equation.inputs))]
  order = next((x.order for x in parts if x.array is None), parts[0].order)
  names = [graph.stored(x, order) for x in parts]
  made = graph.node("Concat", *names, axis=order.index(axis))
  return Tensor(equation.dims[0], equation.dtypes[0], order, made)


@rule("unstack")
def _unstack(graph: OnnxGraph, equation: UnwrittenEquation) -> list[Tensor]:
  axis, x = equation.params["axis"], equation.full(graph)
  parts = []
  for i in range(len(equation.dims)):
    starts, limits = [0] * x.rank, list(x.dims)
    starts[axis], limits[axis] = i, i + 1
    dims = [1 if a == axis else dim for a, dim in enumerate(x.dims)]
    part = sliced(graph, x, dims, starts, limits, [1] * x.rank)
    parts.append(squeezed(graph, part, [axis]))
  return parts


@rule("tile")
def _tile(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  x, counts = equation.full(graph), equation.params["reps"]
  times = graph.integers(*(counts[axis] for axis in x.order))
  made = graph.node("Tile", graph.stored(x, x.order), times)
  return Tensor(equation.dims[0], x.dtype, x.order, made)


@rule("split")
def _split(graph: OnnxGraph, equation: UnwrittenEquation) -> list[Tensor]:
  axis, sizes = equation.params["axis"], equation.params["sizes"]
  x, ends = equation.full(graph), np.cumsum(sizes).tolist()
  parts = []
  for dims, start, end in zip(equation.dims, [0, *ends], ends, strict=False):
    starts, limits = [0] * x.rank, list(x.dims)
    starts[axis], limits[axis] = start, end
    parts.append(sliced(graph, x, dims, starts, limits, [1] * x.rank))
  return parts


@rule("pad")
def _pad(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  value = equation.inputs[1]
  config = [tuple(map(int, each)) for each in equation.params["padding_config"]]
  x = equation.full(graph)
  for axis, (_, _, inside) in enumerate(config):
    if inside and x.dims[axis] != 1:
      x = _spread(graph, x, value, axis, inside + 1)
  return padded(graph, x, [(low, high) for low, high, _ in config], value)


def padded(graph: OnnxGraph, x: Tensor, pads: Sequence[tuple[int, int]], value: Tensor) -> Tensor:
  """Returns a tensor with a value around it; negative paddings cut off."""
  if any(low < 0 or high < 0 for low, high in pads):
    starts = [max(0, -low) for low, _ in pads]
    limits = [dim + min(0, high) if high < 0 else dim for dim, (_, high) in _with(x.dims, pads)]
    dims = [limit - start for limit, start in zip(limits, starts, strict=True)]
    x = sliced(graph, x, dims, starts, limits, [1] * x.rank)
  pads = [(max(0, low), max(0, high)) for low, high in pads]
  if not any(map(any, pads)):
    return x
  stored = [pads[axis] for axis in x.order]
  amounts = graph.integers(*(low for low, _ in stored), *(high for _, high in stored))
  name = graph.node("Pad", graph.stored(x, x.order), amounts, graph.stored(value), mode="constant")
  dims = tuple(dim + low + high for dim, (low, high) in _with(x.dims, pads))
  return Tensor(dims, x.dtype, x.order, name)


def _with(dims: Sequence[Dim], pads: Sequence[tuple[int, int]]):
  return zip(dims, pads, strict=True)


def _spread(graph: OnnxGraph, x: Tensor, value: Tensor, axis: int, step: int) -> Tensor:
  """Returns a tensor with a value between the numbers along an axis."""
  length, stored = x.dims[axis], x.stored_axis(axis)
  name = graph.node("Unsqueeze", graph.stored(x, x.order), graph.integers(stored + 1))
  after = [0] * (x.rank + 1)
  after[stored + 1] = step - 1
  amounts = graph.integers(*itertools.chain([0] * (x.rank + 1), after))
  name = graph.node("Pad", name, amounts, graph.stored(value), mode="constant")
  dims = tuple(dim if i != axis else length * step for i, dim in enumerate(x.dims))
  name = graph.reshaped(name, [dims[i] for i in x.order])
  x = Tensor(dims, x.dtype, x.order, name)
  limits = [dim if i != axis else (length - 1) * step + 1 for i, dim in enumerate(dims)]
  return sliced(graph, x, limits, [0] * x.rank, limits, [1] * x.rank)


@rule("iota")
def _iota(_: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  axis, dims = equation.params["dimension"], equation.dims[0]
  if not isinstance(dims[axis], int):
    raise equation.refuse(f"it counts to {dims[axis]}, which is free; give --batch=1")
  shape = [1] * len(dims)
  shape[axis] = dims[axis]
  return known(np.arange(dims[axis], dtype=equation.dtypes[0]).reshape(shape))


@rule("dim_as_value")
def _length(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  length = graph.reshaped(graph.length(equation.params["dim"]), [])
  return Tensor((), equation.dtypes[0], (), graph.node("Cast", length, to=np.dtype("int32")))

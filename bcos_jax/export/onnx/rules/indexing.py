"""Rules of gathers and scatters, as far as they are slices, rows of tables, or one of each row."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from jax.lax import GatherScatterMode
import numpy as np

from ..graph import OnnxGraph, Tensor, known
from .layout import padded, placed, sliced, squeezed
from .table import UnwrittenEquation, rule


def _start(indices: Tensor, axes: Sequence[int], rank: int) -> list[int] | None:
  """Returns where the one slice that is gathered begins; None if it is not known or not one."""
  if indices.array is None or indices.array.ndim != 1:
    return None
  starts = [0] * rank
  for axis, start in zip(axes, indices.array.tolist(), strict=True):
    starts[axis] = int(start)
  return starts


@rule("gather")
def _gather(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  x, indices = equation.full(graph), equation.inputs[1]
  numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
  batched = tuple(numbers.operand_batching_dims)
  starts = _start(indices, numbers.start_index_map, x.rank)
  if starts is not None and not batched:
    limits = [start + size for start, size in zip(starts, sizes, strict=True)]
    found = sliced(graph, x, sizes, starts, limits, [1] * x.rank)
    return squeezed(graph, found, numbers.collapsed_slice_dims)
  axes = tuple(numbers.start_index_map)
  if len(axes) == 1 and tuple(numbers.collapsed_slice_dims) == axes and not batched:
    return _rows(graph, equation, x, axes[0])
  if batched and tuple(numbers.collapsed_slice_dims) == axes and len(axes) == 1:
    return _one_each(graph, equation, x, axes[0])
  raise equation.refuse("its indices are neither known nor those of rows")


def _numbers(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  """Returns the indices without their last axis, of length 1."""
  indices = graph.expanded(equation.inputs[1], equation.shapes[1])
  return squeezed(graph, indices, [indices.rank - 1])


def _filled(graph: OnnxGraph, equation: UnwrittenEquation, found: Tensor, length: int) -> Tensor:
  """Returns rows of a table, those of indices beyond it filled with what the gather says."""
  if equation.params["mode"] != GatherScatterMode.FILL_OR_DROP:
    return found
  value = equation.params["fill_value"]
  if value is None:
    value = np.nan if found.dtype == "float32" else 0
  indices = _numbers(graph, equation)
  offsets = equation.params["dimension_numbers"].offset_dims
  others = [a for a in range(found.rank) if a not in offsets]
  low, high = graph.scalar(0, indices.dtype), graph.scalar(length, indices.dtype)
  name = graph.stored(indices)
  inside = graph.node(
    "And", graph.node("GreaterOrEqual", name, low), graph.node("Less", name, high)
  )
  mask = Tensor(indices.dims, "bool", tuple(range(indices.rank)), inside)
  mask = placed(graph, mask, others, found.rank)
  return dataclasses.replace(
    found,
    name=graph.node(
      "Where", graph.stored(mask, found.order), found.name, graph.scalar(value, found.dtype)
    ),
  )


def _within(graph: OnnxGraph, name: str, dtype: str, length: int) -> str:
  """Returns indices, those outside moved to the ends: of what is there, none is outside."""
  low, high = graph.scalar(0, dtype), graph.scalar(length - 1, dtype)
  return graph.node("Min", graph.node("Max", name, low), high)


def _rows(graph: OnnxGraph, equation: UnwrittenEquation, x: Tensor, axis: int) -> Tensor:
  numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
  if any(sizes[a] != x.dims[a] for a in range(x.rank) if a != axis):
    raise equation.refuse("it takes parts of rows")
  indices = _numbers(graph, equation)
  places = _within(graph, graph.stored(indices), indices.dtype, x.dims[axis])
  name = graph.node("Gather", graph.stored(x), places, axis=axis)
  offsets, rank = list(numbers.offset_dims), len(equation.dims[0])
  others = [a for a in range(rank) if a not in offsets]
  order = (*offsets[:axis], *others, *offsets[axis:])
  found = Tensor(equation.dims[0], equation.dtypes[0], order, name)
  return _filled(graph, equation, found, x.dims[axis])


def _one_each(graph: OnnxGraph, equation: UnwrittenEquation, x: Tensor, axis: int) -> Tensor:
  """take_along_axis: one number, or vector, of each row by its own index."""
  numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
  batch = tuple(numbers.operand_batching_dims)
  offsets = [a for a in range(x.rank) if a not in (*batch, axis)]
  if any(sizes[a] != x.dims[a] for a in offsets):
    raise equation.refuse("it takes parts of rows")
  indices, first = _numbers(graph, equation), tuple(numbers.start_indices_batching_dims)
  turned = (*first, *(a for a in range(indices.rank) if a not in first))
  places = _within(graph, graph.stored(indices, turned), indices.dtype, x.dims[axis])
  places = graph.node("Cast", places, to=np.dtype("int64"))
  last = graph.node("Unsqueeze", places, graph.integers(indices.rank))
  found = graph.node(
    "GatherND", graph.stored(x, (*batch, axis, *offsets)), last, batch_dims=len(batch)
  )
  others = [a for a in range(len(equation.dims[0])) if a not in numbers.offset_dims]
  order = (*(others[a] for a in turned), *numbers.offset_dims)
  made = Tensor(equation.dims[0], equation.dtypes[0], order, found)
  return _filled(graph, equation, made, x.dims[axis])


@rule("scatter-add", "scatter_add")
def _scatter(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  """Adds a slice at a known place, or one number to each row, as gradients of gathers do."""
  x, indices, updates = equation.full(graph), equation.inputs[1], equation.full(graph, 2)
  numbers = equation.params["dimension_numbers"]
  starts = _start(indices, numbers.scatter_dims_to_operand_dims, x.rank)
  if numbers.operand_batching_dims:
    return _plus(graph, equation, _spread(graph, equation, updates))
  if starts is None:
    raise equation.refuse("its indices are not known")
  kept = [a for a in range(x.rank) if a not in numbers.inserted_window_dims]
  slices = placed(graph, updates, kept, x.rank)
  pads = [
    (start, dim - start - size) if axis in numbers.scatter_dims_to_operand_dims else (0, 0)
    for axis, (start, dim, size) in enumerate(zip(starts, x.dims, slices.dims, strict=True))
  ]
  return _plus(graph, equation, padded(graph, slices, pads, known(np.zeros((), x.dtype))))


def _plus(graph: OnnxGraph, equation: UnwrittenEquation, spread: Tensor) -> Tensor:
  """Returns what a scatter adds to, plus what it adds."""
  if equation.inputs[0].zero:
    return spread
  x = equation.full(graph)
  name = graph.node("Add", graph.stored(x, spread.order), graph.stored(spread, spread.order))
  return Tensor(x.dims, x.dtype, spread.order, name)


def _spread(graph: OnnxGraph, equation: UnwrittenEquation, updates: Tensor) -> Tensor:
  """Returns numbers, or vectors, where the index of their row says, and zeros elsewhere."""
  numbers, dims = equation.params["dimension_numbers"], equation.dims[0]
  batch, (axis, *more) = numbers.operand_batching_dims, numbers.scatter_dims_to_operand_dims
  indices, first = _numbers(graph, equation), tuple(numbers.scatter_indices_batching_dims)
  rest = [a for a in range(indices.rank) if a not in first]
  if more or any(indices.dims[a] != 1 for a in rest):
    raise equation.refuse("it adds several numbers to a row")
  rows = placed(graph, squeezed(graph, indices, rest), batch, len(dims))
  windows = numbers.update_window_dims
  others = [a for a in range(updates.rank) if a not in windows]
  single = squeezed(graph, updates, [others[a] for a in rest])
  inside = [a for a in range(len(dims)) if a not in (*batch, axis)]
  targets = dict(zip(windows, inside, strict=True))
  targets |= {others[a]: b for a, b in zip(first, batch, strict=True)}
  slices = placed(graph, single, [targets[a] for a in sorted(targets)], len(dims))
  places = np.arange(dims[axis], dtype=indices.dtype).reshape(
    [-1 if a == axis else 1 for a in range(len(dims))]
  )
  here = graph.node("Equal", graph.stored(rows), graph.initialiser(places))
  zero = graph.scalar(0, updates.dtype)
  name = graph.node("Where", here, graph.stored(slices), zero)
  return graph.expanded(Tensor(dims, updates.dtype, tuple(range(len(dims))), name), dims)


@rule("dynamic_slice")
def _dynamic_slice(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  x, sizes = equation.full(graph), equation.params["slice_sizes"]
  starts = [each.array for each in equation.inputs[1:]]
  if any(start is None for start in starts):
    raise equation.refuse("where it begins is computed from the input")
  places = [int(start) for start in starts if start is not None]
  limits = [start + size for start, size in zip(places, sizes, strict=True)]
  return sliced(graph, x, equation.dims[0], places, limits, [1] * x.rank)

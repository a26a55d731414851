"""Rules of sums, extremes and orders along axes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph import OnnxGraph, Tensor
from .table import UnwrittenEquation, rule


def _reduced(
  graph: OnnxGraph, equation: UnwrittenEquation, write: Callable[[str, list[int]], str]
) -> Tensor:
  """Writes a reduction: (name, stored axes) -> name of the result, without these axes."""
  axes = tuple(equation.params["axes"])
  (x,), (shape, *_) = equation.inputs, equation.shapes
  if not axes:
    return x
  x = graph.expanded(x, [shape[a] if a in axes else dim for a, dim in enumerate(x.dims)])
  name = write(graph.stored(x, x.order), sorted(map(x.stored_axis, axes)))
  kept = [axis for axis in range(x.rank) if axis not in axes]
  order = tuple(kept.index(axis) for axis in x.order if axis in kept)
  return Tensor(tuple(x.dims[axis] for axis in kept), equation.dtypes[0], order, name)


def _reduction(operator: str):
  def write(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
    return _reduced(
      graph,
      equation,
      lambda x, axes: graph.node(operator, x, graph.integers(*axes), keepdims=0),
    )

  return write


for _primitive, _operator in {
  "reduce_sum": "ReduceSum",
  "reduce_max": "ReduceMax",
  "reduce_min": "ReduceMin",
  "reduce_prod": "ReduceProd",
}.items():
  rule(_primitive)(_reduction(_operator))


@rule("reduce_or", "reduce_and")
def _logical(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  operator = "ReduceMax" if equation.name == "reduce_or" else "ReduceMin"

  def write(x: str, axes: list[int]) -> str:
    numbers = graph.node("Cast", x, to=np.dtype("int32"))
    found = graph.node(operator, numbers, graph.integers(*axes), keepdims=0)
    return graph.node("Cast", found, to=np.dtype("bool"))

  return _reduced(graph, equation, write)


@rule("argmax", "argmin")
def _arg(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  operator = "ArgMax" if equation.name == "argmax" else "ArgMin"

  def write(x: str, axes: list[int]) -> str:
    found = graph.node(operator, x, axis=axes[0], keepdims=0)
    return graph.node("Cast", found, to=np.dtype(equation.dtypes[0]))

  return _reduced(graph, equation, write)


@rule("cumsum")
def _cumulative(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  x, reverse = equation.full(graph), int(equation.params["reverse"])
  axis = graph.scalar(x.stored_axis(equation.params["axis"]), "int64")
  name = graph.node("CumSum", graph.stored(x, x.order), axis, reverse=reverse)
  return Tensor(x.dims, x.dtype, x.order, name)


@rule("sort")
def _sort(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  if len(equation.inputs) > 1:
    raise equation.refuse(f"it sorts {len(equation.inputs)} arrays together")
  x = equation.full(graph)
  axis = equation.params["dimension"]
  count = graph.shape([x.dims[axis]])
  values, _ = graph.node(
    "TopK", graph.stored(x, x.order), count, outputs=2, axis=x.stored_axis(axis), largest=0
  )
  return Tensor(x.dims, x.dtype, x.order, values)


@rule("top_k")
def _top(graph: OnnxGraph, equation: UnwrittenEquation) -> list[Tensor]:
  x = equation.full(graph)
  count = graph.integers(equation.params["k"])
  axis = x.stored_axis(equation.params.get("axis", x.rank - 1) % x.rank)
  values, places = graph.node("TopK", graph.stored(x, x.order), count, outputs=2, axis=axis)
  places = graph.node("Cast", places, to=np.dtype(equation.dtypes[1]))
  names = zip(equation.dims, equation.dtypes, (values, places), strict=True)
  return [Tensor(dims, dtype, x.order, name) for dims, dtype, name in names]

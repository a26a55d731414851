"""Rules of pooling, and of its gradients."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from ..graph import Dim, OnnxGraph, Tensor, known
from .layout import padded
from .products import Window, transposed_convolution
from .table import UnwrittenEquation, rule


def _sliding(params) -> list[int]:
  """Returns the axes along which a window is more than the number itself."""
  names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
  steps = zip(*(params.get(name) or (1,) * len(params["padding"]) for name in names), strict=True)
  return [
    axis
    for axis, (each, pads) in enumerate(zip(steps, params["padding"], strict=True))
    if any(step != 1 for step in each) or any(pads)
  ]


def _channels(graph: OnnxGraph, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, list[int]]:
  """Returns a tensor as [-1, 1, axes ...], and the order of the others before and the axes."""
  others = [axis for axis in x.order if axis not in axes]
  order = [*others, *axes]
  dims = [x.dims[axis] for axis in axes]
  size = math.prod(x.dims[axis] for axis in others)
  name = graph.reshaped(graph.stored(x, order), [size, 1, *dims])
  return Tensor((size, 1, *dims), x.dtype, tuple(range(len(dims) + 2)), name), order


def _back(
  graph: OnnxGraph,
  equation: UnwrittenEquation,
  name: str,
  order: Sequence[int],
  dims: Sequence[Dim],
) -> Tensor:
  name = graph.reshaped(name, [dims[axis] for axis in order])
  return Tensor(tuple(dims), equation.dtypes[0], tuple(order), name)


def _of(params, name: str, axes: Sequence[int]) -> tuple:
  values = params.get(name) or (1,) * len(params["padding"])
  return tuple(values[axis] for axis in axes)


def _kernel(params, axes: Sequence[int]) -> Window:
  return Window(
    _of(params, "window_strides", axes),
    tuple((int(low), int(high)) for low, high in _of(params, "padding", axes)),
    _of(params, "base_dilation", axes),
    _of(params, "window_dilation", axes),
  )


@rule("reduce_window_sum")
def _window_sum(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  """Sums are convolutions by ones."""
  axes = _sliding(equation.params)
  x = equation.full(graph)
  if not axes:
    return x
  window, sizes = _kernel(equation.params, axes), _of(equation.params, "window_dimensions", axes)
  x, order = _channels(graph, x, axes)
  ones = np.ones((1, 1, *sizes), x.dtype)
  if any(step > 1 for step in window.spread):
    if any(step > 1 for step in window.strides):
      raise equation.refuse("its input is spread and its window has strides")
    name = transposed_convolution(graph, x, ones, window, 1)
  else:
    x, pads = _cut(graph, x, window)
    name = graph.node(
      "Conv",
      x.name,
      graph.initialiser(ones),
      kernel_shape=sizes,
      strides=window.strides,
      pads=pads,
      dilations=window.dilation,
      group=1,
    )
  return _back(graph, equation, name, order, equation.dims[0])


def _cut(graph: OnnxGraph, x: Tensor, window: Window) -> tuple[Tensor, tuple[int, ...]]:
  """Returns [-1, 1, ...] without what negative paddings cut off, and the other paddings."""
  low = [(0, 0), (0, 0), *((min(p, 0), min(q, 0)) for p, q in window.pads)]
  x = padded(graph, x, low, known(np.zeros((), x.dtype)))
  pads = [(max(p, 0), max(q, 0)) for p, q in window.pads]
  return x, (*(p for p, _ in pads), *(q for _, q in pads))


@rule("reduce_window_max", "reduce_window_min")
def _window_max(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  axes = _sliding(equation.params)
  x = equation.full(graph)
  if not axes:
    return x
  if any(step > 1 for step in _of(equation.params, "base_dilation", axes)):
    raise equation.refuse("its input is spread")
  x, order = _channels(graph, x, axes)
  least = equation.name == "reduce_window_min"
  name = _largest(graph, graph.node("Neg", x.name) if least else x.name, equation.params, axes)[0]
  name = graph.node("Neg", name) if least else name
  return _back(graph, equation, name, order, equation.dims[0])


def _largest(graph: OnnxGraph, name: str, params, axes: Sequence[int]) -> tuple[str, str]:
  """Returns the largest numbers of windows of [-1, 1, ...], and where they are, counted flat."""
  window, sizes = _kernel(params, axes), _of(params, "window_dimensions", axes)
  amounts = [low for low, _ in window.pads], [high for _, high in window.pads]
  return graph.node(
    "MaxPool",
    name,
    outputs=2,
    kernel_shape=sizes,
    strides=window.strides,
    pads=(*amounts[0], *amounts[1]),
    dilations=window.dilation,
  )


@rule("select_and_scatter_add")
def _window_max_gradient(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  """The gradient goes to the first of the largest numbers of each window."""
  params = equation.params
  axes = _sliding(params)
  if str(params["select_prim"]) != "ge":
    raise equation.refuse(f"it selects by {params['select_prim']}")
  if not axes:
    return equation.inputs[0]
  gradient, x = equation.full(graph, 0), equation.full(graph, 1)
  flat, order = _channels(graph, x, axes)
  pooled = [gradient.dims[axis] for axis in order]
  arrived = graph.reshaped(graph.stored(gradient, order), pooled)
  _, places = _largest(graph, flat.name, params, axes)
  zeros = graph.node("Mul", flat.name, graph.scalar(0.0, x.dtype))
  flat_zeros, flat_places, flat_arrived = (
    graph.node("Reshape", name, graph.integers(-1)) for name in (zeros, places, arrived)
  )
  name = graph.node(
    "ScatterElements", flat_zeros, flat_places, flat_arrived, axis=0, reduction="add"
  )
  return _back(graph, equation, name, order, x.dims)

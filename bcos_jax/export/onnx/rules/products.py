"""Rules of matrix products and convolutions, those of backward passes included."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from ..graph import SMALL, Dim, OnnxGraph, Tensor, known
from .layout import padded
from .table import UnwrittenEquation, rule


@rule("dot_general")
def _dot(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
  left, right = equation.full(graph, 0), equation.full(graph, 1)
  left_free = [a for a in range(left.rank) if a not in (*left_sum, *left_batch)]
  right_free = [a for a in range(right.rank) if a not in (*right_sum, *right_batch)]
  batch = [left.dims[axis] for axis in left_batch]
  rows, columns = [left.dims[a] for a in left_free], [right.dims[a] for a in right_free]
  inner = [left.dims[axis] for axis in left_sum]
  several = bool(batch) and len(rows) != 1  # else the product takes any number of leading axes
  first = graph.stored(left, (*left_batch, *left_free, *left_sum))
  if several or not rows or len(inner) != 1:
    leading = rows if rows and not several else [_size(rows)]
    first = graph.reshaped(first, [*batch, *leading, _size(inner)])
  second = graph.stored(right, (*right_batch, *right_sum, *right_free))
  if len(columns) != 1 or len(inner) != 1:
    second = graph.reshaped(second, [*batch, _size(inner), _size(columns)])
  made = graph.node("MatMul", first, second)
  dims = equation.dims[0]
  if several or not rows or len(columns) != 1:
    made = graph.reshaped(made, dims)
  return Tensor(dims, equation.dtypes[0], tuple(range(len(dims))), made)


def _size(dims: Sequence[Dim]) -> Dim:
  return math.prod(dims)


@dataclasses.dataclass(frozen=True)
class Window:
  """How a convolution slides, for each spatial axis.

  Attributes:
    strides: Of the window.
    pads: (before, after), possibly negative.
    spread: Steps between the numbers of the input; more than 1 in backward passes.
    dilation: Steps between the numbers of the kernel.
  """

  strides: tuple[int, ...]
  pads: tuple[tuple[int, int], ...]
  spread: tuple[int, ...]
  dilation: tuple[int, ...]


@rule("conv_general_dilated")
def _convolution(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  params, numbers = equation.params, equation.params["dimension_numbers"]
  if params["batch_group_count"] != 1:
    raise equation.refuse("it is the gradient of a kernel")
  window = Window(
    tuple(params["window_strides"]),
    tuple((int(low), int(high)) for low, high in params["padding"]),
    tuple(params["lhs_dilation"]),
    tuple(params["rhs_dilation"]),
  )
  x, kernel = equation.full(graph, 0), equation.inputs[1]
  order = tuple(numbers.lhs_spec)
  x = Tensor(x.dims, x.dtype, order, graph.stored(x, order))
  groups = params["feature_group_count"]
  if kernel.array is not None:
    weights = np.transpose(np.broadcast_to(kernel.array, equation.shapes[1]), numbers.rhs_spec)
    name = _convolved(graph, equation, x, weights, window, groups)
  elif any(step > 1 for step in window.spread):
    raise equation.refuse("its kernel is computed from the input, and its input is spread")
  else:
    kernel = equation.full(graph, 1)
    x = padded(graph, x, _around(x, [(min(p, 0), min(q, 0)) for p, q in window.pads]), _ZERO)
    sizes = [kernel.dims[axis] for axis in numbers.rhs_spec[2:]]
    name = graph.node(
      "Conv",
      x.name,
      graph.stored(kernel, numbers.rhs_spec),
      **_attributes(window, groups, sizes),
    )
  return Tensor(equation.dims[0], equation.dtypes[0], tuple(numbers.out_spec), name)


_ZERO = known(np.zeros((), np.float32))


def _around(x: Tensor, pads: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
  """Returns the paddings of all axes for those of the spatial ones."""
  found = [(0, 0)] * x.rank
  for axis, pad in zip(x.order[2:], pads, strict=True):
    found[axis] = pad
  return found


def _attributes(window: Window, groups: int, sizes: Sequence[int]) -> dict:
  pads = [(max(low, 0), max(high, 0)) for low, high in window.pads]
  return {
    "strides": window.strides,
    "pads": (*(low for low, _ in pads), *(high for _, high in pads)),
    "dilations": window.dilation,
    "group": groups,
    "kernel_shape": tuple(sizes),
  }


def _convolved(
  graph: OnnxGraph,
  equation: UnwrittenEquation,
  x: Tensor,
  weights: np.ndarray,
  window: Window,
  groups: int,
) -> str:
  """Returns the name of a convolution by a known kernel, stored as [batch, feature, ...].

  Args:
    graph: Where to.
    equation: What it is for.
    x: The input, stored as [batch, feature, ...].
    weights: [outputs, inputs / groups, ...].
    window: How it slides.
    groups: Feature groups.
  """
  if all(step == 1 for step in window.spread):
    x = padded(graph, x, _around(x, [(min(p, 0), min(q, 0)) for p, q in window.pads]), _ZERO)
    kernel = _shared(graph, weights)
    return graph.node("Conv", x.name, kernel, **_attributes(window, groups, weights.shape[2:]))
  if any(stride > 1 for stride in window.strides):
    raise equation.refuse("its input is spread and its window has strides")
  return transposed_convolution(graph, x, weights, window, groups)


def transposed_convolution(
  graph: OnnxGraph, x: Tensor, weights: np.ndarray, window: Window, groups: int
) -> str:
  """Returns the name of a convolution of a spread input; arguments as for `_convolved`."""
  outputs, inputs, *sizes = weights.shape
  kernel = _flipped(weights).reshape(groups, outputs // groups, inputs, *sizes).swapaxes(1, 2)
  kernel = kernel.reshape(groups * inputs, outputs // groups, *sizes)
  reach = [d * (k - 1) for d, k in zip(window.dilation, sizes, strict=True)]
  cut = [(r - low, r - high) for r, (low, high) in zip(reach, window.pads, strict=True)]
  name = graph.node(
    "ConvTranspose",
    x.name,
    graph.initialiser(kernel),
    strides=window.spread,
    pads=(*(max(low, 0) for low, _ in cut), *(max(high, 0) for _, high in cut)),
    dilations=window.dilation,
    group=groups,
    kernel_shape=tuple(sizes),
  )
  more = [(max(-low, 0), max(-high, 0)) for low, high in cut]
  if any(map(any, more)):  # where no window reaches
    amounts = (0, 0, *(low for low, _ in more), 0, 0, *(high for _, high in more))
    name = graph.node("Pad", name, graph.integers(*amounts), graph.stored(_ZERO), mode="constant")
  return name


def _flipped(weights: np.ndarray) -> np.ndarray:
  return np.flip(weights, tuple(range(2, weights.ndim)))


def _shared(graph: OnnxGraph, weights: np.ndarray) -> str:
  """Returns the name of a kernel; that of a backward pass is made of the forward pass's.

  So that files hold each kernel once. Runtimes turn it when they load the file.
  """
  turned = np.ascontiguousarray(_flipped(weights).swapaxes(0, 1))
  source = graph.initialiser_name(turned)
  if weights.size < SMALL or source not in graph.initialisers:
    return graph.initialiser(weights)
  rank = weights.ndim
  name = graph.transposed(source, (1, 0, *range(2, rank)))
  axes = [axis for axis in range(2, rank) if weights.shape[axis] > 1]
  if not axes:
    return name
  ends = graph.integers(*[-1] * len(axes))
  least = graph.integers(*[np.iinfo(np.int64).min] * len(axes))
  return graph.node("Slice", name, ends, least, graph.integers(*axes), ends)

"""Rules of what is computed number by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..graph import OnnxGraph, Tensor
from .table import UnwrittenEquation, rule

_UNARY = {
  "abs": "Abs",
  "acos": "Acos",
  "asin": "Asin",
  "atan": "Atan",
  "ceil": "Ceil",
  "cos": "Cos",
  "erf": "Erf",
  "exp": "Exp",
  "floor": "Floor",
  "log": "Log",
  "logistic": "Sigmoid",
  "neg": "Neg",
  "sign": "Sign",
  "sin": "Sin",
  "sqrt": "Sqrt",
  "tan": "Tan",
  "tanh": "Tanh",
}
_BINARY = {
  "div": "Div",
  "eq": "Equal",
  "ge": "GreaterOrEqual",
  "gt": "Greater",
  "le": "LessOrEqual",
  "lt": "Less",
  "max": "Max",
  "min": "Min",
  "mul": "Mul",
  "pow": "Pow",
}


def each(
  graph: OnnxGraph,
  equation: UnwrittenEquation,
  write: Callable[..., str],
  inputs: Sequence[Tensor] | None = None,
) -> Tensor:
  """Writes an operation on numbers: its operands are stored in one order and broadcast.

  Args:
    graph: Where to.
    equation: What it is for, with one result.
    write: (*names of the operands) -> name of the result.
    inputs: The operands; None for all of the equation.
  """
  inputs = equation.inputs if inputs is None else inputs
  rank = len(equation.dims[0])
  full = [x for x in inputs if x.rank == rank]
  largest = max(full, key=lambda x: sum(dim != 1 for dim in x.dims) + (x.array is None) / 2)
  order = largest.order
  names = [graph.stored(x, order if x.rank == rank else None) for x in inputs]
  lengths = ([x.dims[axis] for x in full if x.dims[axis] != 1] or [1] for axis in range(rank))
  return Tensor(tuple(found[0] for found in lengths), equation.dtypes[0], order, write(*names))


def _node(operator: str):
  def write(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
    return each(graph, equation, lambda *names: graph.node(operator, *names))

  return write


for _primitive, _operator in (*_UNARY.items(), *_BINARY.items()):
  rule(_primitive)(_node(_operator))


@rule("add", "add_any", "sub")
def _sum(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  first, second = equation.inputs
  if second.zero and first.rank == len(equation.dims[0]):
    return first
  if equation.name != "sub" and first.zero and second.rank == len(equation.dims[0]):
    return second
  operator = "Sub" if equation.name == "sub" else "Add"
  return each(graph, equation, lambda *names: graph.node(operator, *names))


@rule("ne", "xor")
def _unequal(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  return each(graph, equation, lambda *names: graph.node("Not", graph.node("Equal", *names)))


@rule("and", "or", "not")
def _logical(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  if equation.dtypes[0] != "bool":
    raise equation.refuse(f"it is of the bits of {equation.dtypes[0]}")
  operator = equation.name.capitalize()
  return each(graph, equation, lambda *names: graph.node(operator, *names))


@rule("rsqrt")
def _rsqrt(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  return each(graph, equation, lambda x: graph.node("Reciprocal", graph.node("Sqrt", x)))


@rule("square")
def _square(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  return each(graph, equation, lambda x: graph.node("Mul", x, x))


@rule("integer_pow")
def _integer_power(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  power = equation.params["y"]

  def write(x: str) -> str:
    if abs(power) == 2:
      made = graph.node("Mul", x, x)
    elif abs(power) == 1:
      made = x
    else:
      made = graph.node("Pow", x, graph.scalar(abs(power), equation.dtypes[0]))
    return graph.node("Reciprocal", made) if power < 0 else made

  return each(graph, equation, write)


@rule("exp2", "expm1", "log1p", "erfc")
def _composed(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  def number(value: float) -> str:
    return graph.scalar(value, equation.dtypes[0])

  forms: dict[str, Callable[[str], str]] = {
    "exp2": lambda x: graph.node("Pow", number(2), x),
    "expm1": lambda x: graph.node("Sub", graph.node("Exp", x), number(1)),
    "log1p": lambda x: graph.node("Log", graph.node("Add", x, number(1))),
    "erfc": lambda x: graph.node("Sub", number(1), graph.node("Erf", x)),
  }
  return each(graph, equation, forms[equation.name])


@rule("is_finite")
def _finite(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  def write(x: str) -> str:
    return graph.node("Not", graph.node("Or", graph.node("IsInf", x), graph.node("IsNaN", x)))

  return each(graph, equation, write)


@rule("round")
def _round(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  if int(equation.params["rounding_method"]) != 1:
    raise equation.refuse("halves are rounded away from zero, ONNX rounds them to even numbers")
  return each(graph, equation, lambda x: graph.node("Round", x))


@rule("rem")
def _remainder(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  return each(graph, equation, lambda *names: graph.node("Mod", *names, fmod=1))


@rule("clamp")
def _clamp(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  def write(low: str, x: str, high: str) -> str:
    return graph.node("Min", graph.node("Max", x, low), high)

  return each(graph, equation, write)


@rule("select_n")
def _select(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  which, *cases = equation.inputs
  if len(cases) != 2 or which.dtype != "bool":
    raise equation.refuse(f"it selects among {len(cases)} by {which.dtype}")
  # The first case is the one of False.
  inputs = (which, cases[1], cases[0])
  return each(graph, equation, lambda *names: graph.node("Where", *names), inputs)


@rule("convert_element_type")
def _cast(graph: OnnxGraph, equation: UnwrittenEquation) -> Tensor:
  if equation.inputs[0].dtype == equation.dtypes[0]:
    return equation.inputs[0]
  to = np.dtype(equation.dtypes[0])
  return each(graph, equation, lambda x: graph.node("Cast", x, to=to))


@rule(
  *("copy", "copy_p", "device_put", "layout_constraint", "name", "optimization_barrier"),
  *("pbroadcast", "pvary", "reduce_precision", "sharding_constraint", "stop_gradient"),
)
def _same(_: OnnxGraph, equation: UnwrittenEquation) -> Any:
  return equation.inputs

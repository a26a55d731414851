"""From a program of JAX to a graph: calls are entered, constants computed, zeros left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.extend import core
import numpy as np

from ...errors import InputError
from ...program.tracing import ENTERED, inlined
from ...program.values import place_of
from .graph import Dim, OnnxGraph, Tensor, check_dtype, known, zero
from .rules import RULES, UnwrittenEquation

_LINEAR = {
  **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), (0, 1)),
  **dict.fromkeys(
    (
      *("broadcast_in_dim", "convert_element_type", "copy", "cumsum", "div", "neg"),
      *("reduce_sum", "reduce_window_sum", "reshape", "rev", "select_and_scatter_add", "slice"),
      *("squeeze", "transpose"),
    ),
    (0,),
  ),
}
"""Primitives whose result is zero if one of these operands is."""

_MOVES = frozenset(("broadcast_in_dim", "iota", "reshape", "rev", "slice", "squeeze", "transpose"))
"""Primitives whose rules move known numbers by themselves."""

_UFUNCS: dict[str, Any] = {
  "abs": np.abs,
  "add": np.add,
  "and": np.bitwise_and,
  "eq": np.equal,
  "ge": np.greater_equal,
  "gt": np.greater,
  "le": np.less_equal,
  "lt": np.less,
  "max": np.maximum,
  "min": np.minimum,
  "mul": np.multiply,
  "ne": np.not_equal,
  "neg": np.negative,
  "or": np.bitwise_or,
  "sqrt": np.sqrt,
  "square": np.square,
  "sub": np.subtract,
}
"""What NumPy rounds as JAX does; it compiles nothing, and leaves broadcasts open."""

_LARGEST = 2**20  # elements that a constant may have which is more than its operands together
_CALLS = {name: key for name, key in ENTERED.items() if name.startswith("custom_")}
_CALLS |= {name: ENTERED[name] for name in ("checkpoint", "remat", "remat2")}


def graph_of(
  closed: Any, inputs: Mapping[str, Any], outputs: Sequence[str]
) -> tuple[OnnxGraph, list[Tensor]]:
  """Returns the graph of a program, and its results.

  Args:
    closed: The closed jaxpr.
    inputs: Name -> shape and dtype of each argument, in order. Lengths may be symbolic.
    outputs: Names of the results, in order.

  Raises:
    InputError: A primitive or a dtype that has no form in ONNX, and where it is.
  """
  symbols = [
    (dim, name, axis)
    for name, spec in inputs.items()
    for axis, dim in enumerate(spec.shape)
    if not isinstance(dim, int)
  ]
  graph = OnnxGraph(symbols)
  arguments = [
    Tensor(tuple(s.shape), np.dtype(s.dtype).name, tuple(range(len(s.shape))), name)
    for name, s in inputs.items()
  ]
  results = _enter(graph, closed, arguments)
  named = zip(outputs, results, closed.jaxpr.outvars, strict=True)
  return graph, [graph.result(name, x, variable.aval.shape) for name, x, variable in named]


def _enter(graph: OnnxGraph, closed: Any, arguments: Sequence[Tensor]) -> list[Tensor]:
  jaxpr = closed.jaxpr
  env: dict[Any, Tensor] = dict(zip(jaxpr.invars, arguments, strict=True))
  env.update(zip(jaxpr.constvars, map(known, closed.consts), strict=True))

  def read(atom: Any) -> Tensor:
    return _literal(atom) if isinstance(atom, core.Literal) else env[atom]

  for found in jaxpr.eqns:
    operands = [read(atom) for atom in found.invars]
    name = found.primitive.name
    inner = found.params[_CALLS[name]] if name in _CALLS else inlined(found)
    if inner is not None:
      inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
      made = _enter(graph, inner, operands)
    else:
      made = _results(graph, found, operands)
    env.update(zip(found.outvars, made, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _literal(atom: Any) -> Tensor:
  return known(np.asarray(atom.val, atom.aval.dtype))


def _results(graph: OnnxGraph, found: Any, operands: Sequence[Tensor]) -> Sequence[Tensor]:
  """Returns the results of an equation that is no call."""
  name = found.primitive.name
  shapes = [tuple(variable.aval.shape) for variable in found.outvars]
  place = place_of(found)
  dtypes = [check_dtype(v.aval.dtype, f"{name} at {place}") for v in found.outvars]
  if any(operands[i].zero for i in _LINEAR.get(name, ()) if i < len(operands)):
    return [zero(len(shapes[0]), dtypes[0])]
  befores = tuple(tuple(atom.aval.shape) for atom in found.invars)
  arrays = [x.array for x in operands if x.array is not None]
  if arrays and len(arrays) == len(operands) and name not in _MOVES:
    if name in _UFUNCS:
      return [known(_UFUNCS[name](*arrays).astype(dtypes[0]))]
    if _is_small(arrays, [*befores, *shapes]):
      return _computed(found, [*map(np.broadcast_to, arrays, befores)])
  if name not in RULES:
    raise InputError(
      f"{name} at {place} cannot be exported to ONNX: there is no rule for it.",
      "Export it to StableHLO: --to=stablehlo; or add a rule, bcos_jax.export.onnx.rule.",
    )
  equation = UnwrittenEquation(
    name, tuple(operands), found.params, tuple(shapes), tuple(dtypes), befores, str(place)
  )
  made = RULES[name](graph, equation)
  return [made] if isinstance(made, Tensor) else made


def _is_small(arrays: Sequence[np.ndarray], shapes: Sequence[Sequence[Dim]]) -> bool:
  """Whether shapes are numbers, and the last, a result's, not much larger than the arrays."""
  if not all(isinstance(dim, int) for shape in shapes for dim in shape):
    return False
  given, size = sum(array.size for array in arrays), int(np.prod(shapes[-1]))
  return size <= max(given, _LARGEST)


def _computed(found: Any, arrays: Sequence[np.ndarray]) -> list[Tensor]:
  params = found.primitive.get_bind_params(dict(found.params))
  with jax.ensure_compile_time_eval():
    made = found.primitive.bind(*arrays, **params)
  return [known(each) for each in (made if found.primitive.multiple_results else [made])]

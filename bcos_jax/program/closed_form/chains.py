"""What each map of a program aims at: the value behind sums, constants and a gate.

As `calibration.aims`, for functions of any layout: reshapes and transposes are passed, and gates
are known by what they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import functional as F
from ...calibration.aims import Chain
from ...calibration.traced import MarkedProgram, Operation, evaluate

Array = jax.Array

_SAME = ("convert_element_type", "copy", "name", "neg", "reduce_precision", "optimization_barrier")
_ADDED = ("add", "add_any", "sub")
_VIEWS = ("broadcast_in_dim", "reshape", "squeeze", "transpose")
_ELEMENTWISE = (
  *_SAME,
  *("add", "add_any", "sub", "mul", "div", "max", "min", "abs", "erf", "erfc", "exp", "expm1"),
  *(
    "integer_pow",
    "log",
    "log1p",
    "logistic",
    "pow",
    "select_n",
    "sign",
    "square",
    "tanh",
    "clamp",
  ),
  *("eq", "ge", "gt", "le", "lt", "ne", "stop_gradient"),
)
_GRID = 4096


def chain_of(program: MarkedProgram, path: str) -> Chain:
  """Returns the chain that follows a map, see `calibration.aims.Chain`."""
  value = program.response(path)
  ends, sides = [], []
  while (step := _single(program, value)) is not None and _passes(program, step, value):
    side = _side(program, step, value)
    if side is not None:
      ends.append(value)
      sides.append(side)
    value = step.outputs[0]
  return Chain((*ends, value), tuple(sides), ((),) * (len(ends) + 1), gate_of(program, value))


def _single(program: MarkedProgram, value: int) -> Operation | None:
  readers = program.consumers.get(value, ())
  return readers[0] if len(readers) == 1 else None


def _passes(program: MarkedProgram, step: Operation, value: int) -> bool:
  name = step.primitive.name
  old, new = program.shapes[value], program.shapes[step.outputs[0]]
  if name in _VIEWS:
    return step.reads == (value,) and math.prod(old) == math.prod(new) and old[0] == new[0]
  if old != new or step.reads.count(value) != 1:
    return False
  fixed = not program.dependent.intersection(v for v in step.reads if v != value)
  if name == "mul" or (name == "div" and step.inputs[0] == value):
    return fixed
  return name in _SAME or name in _ADDED


def _side(program: MarkedProgram, step: Operation, value: int) -> int | None:
  if step.primitive.name not in _ADDED:
    return None
  return next((v for v in step.reads if v != value and v in program.dependent), None)


def back_from(program: MarkedProgram, path: str, end: int) -> Callable[[Array], Array]:
  """Returns what arranges the value at an end of a chain as the map's response is arranged."""
  value, undone = program.response(path), []
  while value != end:
    step = _single(program, value)
    assert step is not None  # chains pass these
    if step.primitive.name == "transpose":
      order = np.argsort(step.primitive.equation.params["permutation"])
      undone.append(lambda array, order=tuple(order): array.transpose(order))
    elif step.primitive.name in _VIEWS:
      undone.append(lambda array, shape=program.shapes[value]: array.reshape(shape))
    value = step.outputs[0]

  def back(array: Array) -> Array:
    for step in reversed(undone):
      array = step(array)
    return array

  return back


def gate_of(program: MarkedProgram, value: int) -> str:
  """Returns the gate of `functional.GATES` that alone reads a value; '' for none."""
  inside, taken, found = {value}, set(), ""
  for operation in program.equations:
    if not inside.intersection(operation.reads):
      continue
    if operation.primitive.name not in _ELEMENTWISE or len(operation.outputs) != 1:
      return found
    if program.dependent.intersection(operation.reads) - inside:
      return found
    result = operation.outputs[0]
    taken.add(id(operation))
    inside.add(result)
    readers = (r for v in inside - {result} for r in program.consumers.get(v, ()))
    if all(id(reader) in taken for reader in readers):
      found = _named(program, value, result) or found  # relu6 begins with relu
  return found


def _named(program: MarkedProgram, value: int, result: int) -> str:
  """Returns which gate a value goes through, told by its values on a grid."""
  known = {value, *program.constants}
  steps = program.needed([result], known.__contains__)
  made = {v for step in steps for v in step.outputs}
  if any(v not in made and v not in known for step in steps for v in step.reads):
    return ""  # a parameter of its own
  shape = program.shapes[value]
  grid = np.resize(np.linspace(-10, 10, min(_GRID, math.prod(shape)), dtype=np.float32), shape)
  env: dict[int, Any] = {**program.constants, value: jnp.asarray(grid)}
  (found,) = evaluate(steps, env, [result])
  for kind in F.GATES:
    if kind != "identity" and np.abs(found - F.gated(jnp.asarray(grid), kind)).max() <= 1e-4:
      return kind
  return ""


def paths_left(all_paths: Sequence[str], fitted: Sequence[str]) -> tuple[str, ...]:
  """Returns the paths of maps that nothing was fitted to."""
  return tuple(dict.fromkeys(path for path in all_paths if path not in fitted))

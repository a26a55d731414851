"""Programs as calibration reads them: one list of operations, evaluated by either network.

The function and the B-cos network that is made of it have the same equations, and so the same
values; they differ in how some of them are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from ...calibration.traced import INTO, OUT_OF, MarkedProgram, Operation
from ..evaluation import Apply, bind
from ..pairing import Pair, merged
from ..program import Program
from ..values import Atom, Body, Equation
from .views import MapView

_ENTERED = ("checkpoint", "custom_jvp_call", "custom_vjp_call", "remat", "remat2")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
  """An equation in place of a primitive, evaluated by a network's own rules."""

  equation: Equation
  apply: Apply
  multiple_results = True

  @property
  def name(self) -> str:
    """Name of the primitive."""
    return self.equation.name

  def bind(self, *values: Any) -> Any:
    """Returns its results."""
    return self.apply(self.equation, list(values))


@dataclasses.dataclass(frozen=True, eq=False)
class FirstMap(Evaluated):
  """A map whose last operand is the half of the kernel that -z meets."""

  def bind(self, *values: Any) -> Any:
    *own, negated = values
    signal = self.equation.operands.index(max(self.equation.operands))
    pairs = [Pair(v, -v) if i == signal else Pair(v, negated) for i, v in enumerate(own)]
    return self.apply(self.equation, merged(self.equation, pairs))


def operations(body: Body) -> Iterator[tuple[Equation, tuple[Atom, ...], tuple[int, ...]]]:
  """Yields equations, operands and results in order, those of calls in place of the calls."""
  yield from _entered(body, {})[0]


def _entered(body: Body, names: dict[int, Atom]) -> tuple[list[Any], dict[int, Atom]]:
  found: list[Any] = []
  for equation in body.equations:
    operands = tuple(_named(atom, names) for atom in equation.inputs)
    if equation.bodies and equation.name in _ENTERED:
      inner = equation.bodies[0]
      own = dict(zip(inner.inputs, operands, strict=True))
      inside, own = _entered(inner, own)
      found += inside
      results = (_named(atom, own) for atom in inner.outputs)
      names = names | dict(zip(equation.outputs, results, strict=True))
    else:
      found.append((equation, operands, equation.outputs))
  return found, names


def _named(atom: Atom, names: Mapping[int, Atom]) -> Atom:
  return names.get(atom, atom) if isinstance(atom, int) else atom


def constants_of(body: Body) -> dict[int, Any]:
  """Returns the constants of a body and of those that it calls."""
  found = dict(body.constants)
  for equation in body.equations:
    if equation.name in _ENTERED:
      for inner in equation.bodies:
        found |= constants_of(inner)
  return found


def flattened(
  whole: Program,
  views: Mapping[str, MapView],
  output: int,
  apply: Apply = bind,
  negated: Mapping[str, int] | None = None,
) -> MarkedProgram:
  """Returns a program of a batch as one list of operations.

  Args:
    whole: The program.
    views: Path -> map that can be fitted.
    output: The value that the network returns.
    apply: How the network evaluates equations.
    negated: Path of a first map -> number of the half of its kernel that -z meets.
  """
  leaves = dict(zip(whole.paths, whole.body.inputs[:-1], strict=True))
  negated = negated or {}
  firsts = {views[path].equation: number for path, number in negated.items() if path in views}
  leaves |= {half_path(path): number for path, number in negated.items()}
  made = []
  for equation, operands, results in operations(whole.body):
    kind = FirstMap if equation in firsts else Evaluated
    more = (firsts[equation],) if equation in firsts else ()
    made.append(Operation(kind(equation, apply), {}, (*operands, *more), results))
  shapes = {number: value.shape for number, value in whole.values.items()}
  shapes |= {number: shapes[leaves[path]] for path, number in negated.items()}
  inputs = whole.body.inputs[-1:]
  dependent = set(inputs)
  for operation in made:
    if dependent.intersection(operation.reads):
      dependent.update(operation.outputs)
  marks = {f"{INTO}{path}": view.seen for path, view in views.items()}
  marks |= {f"{OUT_OF}{path}": view.response for path, view in views.items()}
  return MarkedProgram(
    tuple(made),
    leaves,
    inputs,
    output,
    {number: jnp.asarray(c) for number, c in constants_of(whole.body).items()},
    shapes,
    {path: view.module for path, view in views.items()},
    {},
    marks,
    frozenset(dependent),
  )


def half_path(path: str) -> str:
  """Returns what the half of a kernel that -z meets is called."""
  return f"{path} of -z"


def output_of(whole: Program) -> int:
  """Returns the first output that is an array of the input."""
  return next(
    atom
    for atom in whole.body.outputs
    if isinstance(atom, int) and np.issubdtype(whole.values[atom].dtype, np.floating)
  )

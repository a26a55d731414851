"""Maps of a program as calibration fits them: channels last, whatever the function's layout."""

from __future__ import annotations

from collections.abc import Callable, Collection
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ...calibration.traced import Map, Operation, evaluate
from ...layers import BcosConv, BcosDense
from ..decisions import Decision
from ..pairing import Pair, joined
from ..program import Program
from ..reading import rearranges
from ..values import Equation, ValueKind

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class MapView:
  """A map.

  Attributes:
    path: Of its kernel.
    equation: The equation, of a program of a batch.
    seen: The value that it sees.
    response: Its result.
    module: A layer that computes the same of `inputs` by `kernel`.
    inputs: What it sees -> [N, ..., I].
    outputs: Its result -> [N, ..., O].
    kernel: The variable -> [*window, I / groups, O] or [I, O]; a rearrangement.
    shape: Of the variable.
    paired: Whether it sees -z as well.
  """

  path: str
  equation: Equation
  seen: int
  response: int
  module: Map
  inputs: Callable[[Array], Array]
  outputs: Callable[[Array], Array]
  kernel: Callable[[Array], Array]
  shape: tuple[int, ...]
  paired: bool

  def seen_values(self, x: Array) -> Array:
    """Returns what it sees as [N, ..., I], with -z if it is paired."""
    x = self.inputs(x)
    groups = getattr(self.module, "feature_group_count", 1)
    return joined(Pair(x, -x), x.ndim - 1, groups) if self.paired else x

  def own_kernel(self, halves: list[Any]) -> Array:
    """Returns the kernel of the variable, or of both halves."""
    return jnp.concatenate([self.kernel(jnp.asarray(half)) for half in halves], axis=-2)

  def variables(self, kernel: Array) -> list[Array]:
    """Returns the variable, or both halves, of a kernel: the inverse of `own_kernel`."""
    leaf = jax.ShapeDtypeStruct(self.shape, kernel.dtype)
    back = jax.linear_transpose(self.kernel, leaf)  # of a permutation the inverse
    return [back(part)[0] for part in jnp.split(kernel, 2 if self.paired else 1, axis=-2)]


def views_of(
  whole: Program,
  decisions: tuple[Decision, ...],
  flat: tuple[Operation, ...],
  firsts: Collection[Equation],
) -> dict[str, MapView]:
  """Returns path -> map, of those that can be fitted.

  Left out are maps in loops and branches, those whose kernel another map has as well or is
  computed, and dots with a kernel for each place.

  Args:
    whole: The program of a batch.
    decisions: Placed at its equations.
    flat: Its operations, evaluated as the function does.
    firsts: Maps that see pairs.
  """
  made: dict[str, MapView] = {}
  twice: set[str] = set()
  at = {operation.primitive.equation: operation for operation in flat}
  for decision in decisions:
    if decision.part not in ("map", "map of weights") or decision.equation not in at:
      continue
    if decision.name in made:
      twice.add(decision.name)
      continue
    view = _view(whole, decision, at[decision.equation], flat, decision.equation in firsts)
    if view is not None:
      made[decision.name] = view
  return {path: view for path, view in made.items() if path not in twice}


def _view(
  whole: Program,
  decision: Decision,
  operation: Operation,
  flat: tuple[Operation, ...],
  paired: bool,
) -> MapView | None:
  equation = decision.equation
  moving = [i for i, kind in enumerate(equation.operands) if kind != ValueKind.CONSTANT]
  if len(moving) != 1:
    return None
  signal = moving[0]
  seen, operand = operation.inputs[signal], operation.inputs[1 - signal]
  if not (isinstance(seen, int) and isinstance(operand, int)):
    return None
  path = decision.name
  leaf = whole.body.inputs[whole.paths.index(path)]
  steps = _steps(flat, operand, leaf, whole.values[operand].size == whole.values[leaf].size)
  shapes = whole.values[seen].shape, whole.values[operand].shape
  b = decision.settings.b if decision.part == "map" else 1.0
  layout = (_convolution if equation.name != "dot_general" else _dot)(equation, signal, shapes, b)
  if steps is None or layout is None:
    return None
  module, inputs, outputs, arranged = layout

  def kernel(variable: Array) -> Array:
    return arranged(evaluate(steps, {leaf: variable}, [operand])[0])

  shape = whole.values[leaf].shape
  return MapView(
    path, equation, seen, operation.outputs[0], module, inputs, outputs, kernel, shape, paired
  )


def _steps(
  flat: tuple[Operation, ...], operand: int, leaf: int, whole: bool
) -> tuple[Operation, ...] | None:
  """Returns the operations that rearrange a variable into an operand; None if it is computed."""
  wanted, chosen = {operand}, []
  for operation in reversed(flat):
    if wanted.intersection(operation.outputs):
      chosen.append(operation)
      wanted.update(operation.reads)
  equations = [operation.primitive.equation for operation in chosen]
  if not whole or not all(rearranges(e.name, e.params) for e in equations):
    return None
  return tuple(reversed(chosen)) if leaf in wanted else None


Layout = tuple[Map, Callable[[Array], Array], Callable[[Array], Array], Callable[[Array], Array]]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def _convolution(equation: Equation, signal: int, shapes: Shapes, b: float) -> Layout | None:
  params, numbers = equation.params, equation.params["dimension_numbers"]
  if signal != 0 or params["batch_group_count"] != 1 or any(d != 1 for d in params["lhs_dilation"]):
    return None
  if any(pad < 0 for pads in params["padding"] for pad in pads):
    return None
  x, y, kernel = (
    (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]),
    (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1]),
    (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0]),
  )
  module = BcosConv(
    shapes[1][numbers.rhs_spec[0]],
    tuple(shapes[1][axis] for axis in numbers.rhs_spec[2:]),
    strides=tuple(params["window_strides"]),
    padding=tuple(map(tuple, params["padding"])),
    kernel_dilation=tuple(params["rhs_dilation"]),
    feature_group_count=params["feature_group_count"],
    b=b,
  )
  return module, _transposing(x), _transposing(y), _transposing(kernel)


def _transposing(order: tuple[int, ...]) -> Callable[[Array], Array]:
  return lambda array: array.transpose(order)


def _dot(equation: Equation, signal: int, shapes: Shapes, b: float) -> Layout | None:
  contracting, batch = equation.params["dimension_numbers"]
  summed, rows = contracting[signal], contracting[1 - signal]
  x, kernel = shapes
  free = [axis for axis in range(len(x)) if axis not in summed]
  units = [axis for axis in range(len(kernel)) if axis not in rows]
  if batch[0] or not free or free[0] != 0:
    return None
  width, features = math.prod(x[a] for a in summed), math.prod(kernel[a] for a in units)

  def inputs(value: Array) -> Array:
    return value.transpose((*free, *summed)).reshape(*(value.shape[a] for a in free), width)

  def outputs(value: Array) -> Array:
    if signal == 1:  # its axes come last: the kernel's before
      value = jnp.moveaxis(value, range(len(units)), range(-len(units), 0)) if units else value
    return value.reshape(*value.shape[: len(free)], features)

  def arranged(value: Array) -> Array:
    return value.transpose((*rows, *units)).reshape(width, features)

  return BcosDense(features, b=b), inputs, outputs, arranged

"""How a program reads its input: what is done to it before the first maps, and its channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import math

from ..errors import InputError
from .program import Program
from .values import Atom, Body, Equation, Holding, Value, ValueKind

MAPS = ("conv_general_dilated", "dot_general")
ELEMENTWISE = (
  *("add", "add_any", "sub", "mul", "div", "neg", "convert_element_type", "copy", "name"),
  "reduce_precision",
)
_RANK_KEPT = (
  *("concatenate", "cumsum", "dynamic_slice", "mul", "pad", "reduce_window_sum", "rev", "slice"),
  *(*ELEMENTWISE, "optimization_barrier"),
)
_PASSED = ("checkpoint", "custom_jvp_call", "custom_vjp_call", "remat", "remat2")
_COLORS = (1, 3)

Axes = tuple[int | None, ...]
"""Of each axis of a value, the axis of the input that it is; None where it is none."""


@dataclasses.dataclass(frozen=True)
class InputReading:
  """What a program does with its input before the first maps.

  Attributes:
    start: The normalised input: behind it, up to the maps, nothing is added.
    maps: Dots and convolutions of it with variables, on the way to an output.
    stops: Other equations on that way that are not linear in it, and read it before any map.
    channels: Axis of the channels of the input, as convolutions see it; None if none says so.
  """

  start: int
  maps: tuple[Equation, ...]
  stops: tuple[Equation, ...]
  channels: int | None


@functools.lru_cache(maxsize=64)
def reading_of(program: Program) -> InputReading:
  """Returns how a program, without variables (`Program.bare`), reads its input."""
  start = _start(program)
  rank = len(program.values[start].shape)
  found = list(_reached(program, program.body, {start: tuple(range(rank))}))
  axes = [
    own[equation.params["dimension_numbers"].lhs_spec[1]]
    for equation, own, _ in found
    if equation.name == "conv_general_dilated" and equation.operands[0] == ValueKind.SIGNAL
  ]
  channels = axes[0] if axes and all(axis == axes[0] for axis in axes) else None
  maps, stops = ([e for e, _, role in found if role == wanted] for wanted in ("map", "stop"))
  return InputReading(start, tuple(maps), tuple(stops), channels)


def channel_axis_of(program: Program) -> int:
  """Returns the axis of the channels of inputs [N, ...]; see `trace`."""
  _, example = program.shapes
  rank = 1 + len(example.shape)
  stated = program.stated_axis
  stated = getattr(program.function, "channel_axis", None) if stated is None else stated
  if stated is not None:
    return stated % rank
  found = reading_of(program.bare).channels
  if found is not None:
    return found
  if rank > 3 and example.shape[-1] not in _COLORS and example.shape[0] in _COLORS:
    return 1
  return rank - 1


def linear(equation: Equation) -> bool:
  """Whether signals pass through an equation that neither adds nor holds anything."""
  added = any(body.sources for body in equation.bodies)
  return (
    equation.signal
    and equation.form == Holding.PLAIN
    and not (equation.held or equation.sources or added)
    and sum(kind != ValueKind.CONSTANT for kind in equation.operands)
    == sum(kind == ValueKind.SIGNAL for kind in equation.operands)
  )


def _is_map(equation: Equation) -> bool:
  return equation.name in MAPS


def named_kernel(program: Program, equation: Equation) -> int | None:
  """Returns the number of the variable that is the kernel of a map; None if there is none."""
  for atom, kind in zip(equation.inputs, equation.operands, strict=True):
    if kind == ValueKind.CONSTANT and isinstance(atom, int) and program.values[atom].leaves:
      return program.values[atom].leaves[0]
  return None


def _start(program: Program) -> int:
  """Returns the last value that is the input, shifted and scaled element by element."""
  value = program.body.inputs[-1]
  while True:
    readers = [e for e in program.body.equations if value in _numbers(e.inputs)]
    if len(readers) != 1 or not _scales(program, readers[0], value):
      return value
    value = readers[0].outputs[0]


def _numbers(atoms: tuple[Atom, ...]) -> list[int]:
  return [atom for atom in atoms if isinstance(atom, int)]


def _scales(program: Program, equation: Equation, value: int) -> bool:
  others = [k for a, k in zip(equation.inputs, equation.operands, strict=True) if a != value]
  return (
    equation.name in ELEMENTWISE
    and equation.inputs.count(value) == 1
    and not equation.held
    and equation.signal
    and all(kind == ValueKind.CONSTANT for kind in others)
    and program.values[equation.outputs[0]].shape == program.values[value].shape
  )


def _reached(
  program: Program, body: Body, have: dict[int, Axes]
) -> Iterator[tuple[Equation, Axes, str]]:
  """Yields what the input reaches by a linear way, with the axes of what it reads, and its role.

  Roles are 'map', 'fixed' for a map without a variable, which the way goes on behind, and 'stop'.
  """
  for equation in body.equations:
    own = [have[atom] for atom in _numbers(equation.inputs) if atom in have]
    if not own or not program.live.intersection(equation.outputs):
      continue
    signals = sum(kind == ValueKind.SIGNAL for kind in equation.operands)
    if _is_map(equation) and named_kernel(program, equation) is not None and signals == 1:
      yield equation, own[0], "map"
    elif equation.bodies and equation.name in _PASSED:
      inner = equation.bodies[0]
      pairs = zip(inner.inputs, equation.inputs, strict=True)
      inside = {n: have[atom] for n, atom in pairs if isinstance(atom, int) and atom in have}
      yield from _reached(program, inner, inside)
      have.update(
        (number, inside[atom])
        for number, atom in zip(equation.outputs, inner.outputs, strict=True)
        if isinstance(atom, int) and atom in inside
      )
    elif linear(equation) and not equation.bodies and signals == len(own):
      if _is_map(equation):
        yield equation, own[0], "fixed"
      for number in equation.outputs:
        have[number] = _axes(equation, own[0], program.values, number)
    else:
      yield equation, own[0], "stop"


def _axes(equation: Equation, axes: Axes, values: Mapping[int, Value], number: int) -> Axes:
  shape = values[number].shape
  if equation.name == "transpose":
    return tuple(axes[i] for i in equation.params["permutation"])
  if equation.name in _RANK_KEPT and len(axes) == len(shape):
    return axes
  old = values[_numbers(equation.inputs)[0]].shape
  regroups = equation.name in ("reshape", "squeeze", "broadcast_in_dim")
  if regroups and len(old) == len(axes) and math.prod(old) == math.prod(shape):
    wide = [axis for axis, length in zip(axes, old, strict=True) if length != 1]
    lengths = [length for length in old if length != 1]
    if lengths == [length for length in shape if length != 1]:
      left = iter(wide)
      return tuple(None if length == 1 else next(left) for length in shape)
  return (None,) * len(shape)


def check_linear_kernel(program: Program, leaf: int) -> None:
  """Raises InputError unless all that reads a variable are the first maps, at most rearranged.

  Args:
    program: The program.
    leaf: Number of the variable among the leaves.
  """
  name, maps = program.paths[leaf], reading_of(program.bare).maps
  for equation in program.body.walk():
    constants = [
      program.values[atom]
      for atom, kind in zip(equation.inputs, equation.operands, strict=True)
      if isinstance(atom, int) and kind == ValueKind.CONSTANT
    ]
    if not any(leaf in value.leaves for value in constants):
      continue
    if equation.signal and not (equation in maps or equation.bodies):
      raise InputError(
        f"{name} is the kernel of a first map, and {equation} reads it as well.",
        "Leave out pairing: the input [z, -z] needs a kernel of its own.",
      )
    if not equation.signal and not rearranges(equation.primitive.name, equation.params):
      raise InputError(
        f"The kernel of a first map is computed from {name}: {equation}.",
        "Leave out pairing, or make what is computed the variable.",
      )


_REARRANGING = (
  *("broadcast_in_dim", "convert_element_type", "copy", "reshape", "rev", "squeeze", "transpose"),
  *("name", "device_put", "optimization_barrier"),
)


def rearranges(name: str, params: Mapping) -> bool:
  if name in ("jit", "pjit", "closed_call"):
    inner = params["jaxpr" if "jaxpr" in params else "call_jaxpr"]
    return all(rearranges(e.primitive.name, e.params) for e in inner.jaxpr.eqns)
  return name in _REARRANGING

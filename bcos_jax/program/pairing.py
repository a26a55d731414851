"""Inputs as pairs [z, -z]: no colour has length zero, and each has its own direction.

Up to the first maps both halves pass through the same linear equations; there they are put together
along the axis of the channels, as the two halves of the kernel are (B-cosification, arXiv
2411.00715, section 3.1).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from ..errors import InputError, unknown_name
from .evaluation import bind, evaluate
from .program import Program
from .reading import InputReading, check_linear_kernel, named_kernel, reading_of
from .values import Body, Equation

if TYPE_CHECKING:
  from .bcosified import BcosifiedProgram

Array = jax.Array

PAIRINGS = ("none", "negated")
"""What becomes of the input, as in `bcos_jax.Encoding`."""


class Pair(NamedTuple):
  """The two halves of a value: of z and of -z, or of the kernels that they meet."""

  plain: Any
  negated: Any


def check_pairing(program: Program, pairing: str) -> InputReading | None:
  """Returns how a program reads an input that is to be paired; None if it is not.

  Raises:
    InputError: An unknown pairing; something besides linear maps with kernels of their own reads
      the input.
  """
  if pairing not in PAIRINGS:
    raise unknown_name("pairing", pairing, PAIRINGS)
  if pairing == "none":
    return None
  reading = reading_of(program.bare)
  if reading.stops or not reading.maps:
    what = f"{reading.stops[0]} reads the input" if reading.stops else "No map reads the input"
    raise InputError(
      f"{what} before any map with a variable: [z, -z] has no kernels to be widened for.",
      "Leave out pairing.",
    )
  for equation in reading.maps:
    leaf = named_kernel(program, equation)
    assert leaf is not None  # of every map that is read
    check_linear_kernel(program, leaf)
  return reading


def kernels(program: Program, reading: InputReading) -> dict[str, int]:
  """Returns path -> number among the leaves, of the kernels of the first maps."""
  leaves = [named_kernel(program, equation) for equation in reading.maps]
  return {program.paths[leaf]: leaf for leaf in leaves if leaf is not None}


def widened(
  program: Program, reading: InputReading, variables: Any
) -> tuple[Any, dict[str, Array]]:
  """Returns variables with the halves of kernels that z meets, and those that -z meets, by path."""
  leaves, structure = jax.tree.flatten(variables)
  negated = {}
  for path, leaf in kernels(program, reading).items():
    half = jnp.asarray(leaves[leaf]) / 2
    leaves[leaf], negated[path] = half, -half
  return structure.unflatten(leaves), negated


def paired_leaves(
  program: Program, reading: InputReading, variables: Any, negated: Any
) -> list[Any]:
  """Returns the leaves of the variables, those of first kernels as pairs."""
  leaves = jax.tree.leaves(variables)
  for path, leaf in kernels(program, reading).items():
    leaves[leaf] = Pair(leaves[leaf], negated[path])
  return leaves


def split_body(program: Program, start: int) -> tuple[Body, Body]:
  """Returns the equations up to the normalised input, and those behind it, whose last argument
  it is."""
  body, needed, before = program.body, {start}, set()
  for equation in reversed(body.equations):
    if needed.intersection(equation.outputs):
      before.add(equation)
      needed.update(atom for atom in equation.inputs if isinstance(atom, int))
  first = dataclasses.replace(
    body,
    equations=tuple(e for e in body.equations if e in before),
    outputs=(start,),
    sources={},
  )
  # The constants that lead to it may be read again.
  later = tuple(e for e in body.equations if not (e in before and e.signal))
  return first, dataclasses.replace(
    body,
    equations=later,
    inputs=(*body.inputs[:-1], start) if start != body.inputs[-1] else body.inputs,
  )


def normalised(program: Program, reading: InputReading, variables: Any, inputs: Array) -> Array:
  """Returns z, the input as the first maps see it, up to linear rearrangement."""
  first, _ = split_body(program, reading.start)
  (z,) = evaluate(first, [*jax.tree.leaves(variables), inputs], bind)
  return z


def merged(equation: Equation, values: list[Any]) -> list[Any]:
  """Returns the operands of a first map, both halves put together where it sums over channels."""
  axes = _channel_axes(equation)
  return [
    joined(value, axis, _groups(equation, i)) if isinstance(value, Pair) else value
    for i, (value, axis) in enumerate(zip(values, axes, strict=True))
  ]


def _channel_axes(equation: Equation) -> tuple[int, int]:
  if equation.name == "dot_general":
    (first, second), _ = equation.params["dimension_numbers"]
    return first[0], second[0]
  numbers = equation.params["dimension_numbers"]
  return numbers.lhs_spec[1], numbers.rhs_spec[1]


def _groups(equation: Equation, position: int) -> int:
  return equation.params.get("feature_group_count", 1) if position == 0 else 1


def joined(pair: Pair, axis: int, groups: int) -> Array:
  """Returns both halves along an axis, those of each group together."""
  halves = [jnp.asarray(half) for half in pair]
  if groups == 1:
    return jnp.concatenate(halves, axis)
  shape = halves[0].shape
  split = (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
  whole = jnp.concatenate([half.reshape(split) for half in halves], axis + 1)
  return whole.reshape(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])


def halves(equation: Equation, values: list[Any]) -> list[Any]:
  """Returns the results of an equation for each half by itself."""
  sides = [[v[i] if isinstance(v, Pair) else v for v in values] for i in range(2)]
  return [Pair(*made) for made in zip(*(bind(equation, side) for side in sides), strict=True)]


def plain(values: list[Any]) -> list[Any]:
  """Returns operands of what only makes weights: as the network saw them."""
  return [value.plain if isinstance(value, Pair) else value for value in values]


@dataclasses.dataclass(frozen=True)
class Encoded:
  """A B-cosified program as a function of the encoded input [z, -z].

  Attributes:
    made: The program.
  """

  made: BcosifiedProgram

  @property
  def channel_axis(self) -> int:
    """Along which the halves lie."""
    return self.made.channel_axis

  def __call__(self, variables: Any, encoded: Array) -> Any:
    """Returns the outputs [N, ...] for what `made.encode` returns."""
    z, negated = jnp.split(encoded, 2, self.channel_axis)
    return self.made.evaluated(variables, Pair(z, negated), encoded.shape[0])

"""Programs of whole batches: traced again, and compared with that of one example.

An axis of a value is the axis of the batch if its length is 1 for one example and N for N. That is
where residuals are told apart by example, without a `vmap`, whose layouts would cost memory
traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..errors import InputError
from .evaluation import Held
from .program import Program, traced
from .rules import is_float
from .values import Atom, Equation, ValueKind

Array = jax.Array
Shape = tuple[int, ...]
_BROADCASTING = ("add", "max", "min", "sub")


class Batched(NamedTuple):
  """A program of N examples.

  Attributes:
    program: It.
    axes: (First result of an equation, operand) -> the shape in which gains [N] multiply the
      operand; None if they have to be mapped over the batch.
  """

  program: Program
  axes: Mapping[tuple[int, int], Shape] | None


def batched(program: Program, count: Any) -> Batched:
  """Returns the program of a batch of `count`, a number or a dimension of `jax.export`.

  Raises:
    InputError: The function makes one value of several examples.
  """
  # Dimensions cannot be told apart from those of other exports: they are no keys of a cache.
  return _batched(program, count) if isinstance(count, int) else _made(program, count)


def _made(program: Program, count: Any) -> Batched:
  if count == 1:
    found = {
      (e.outputs[0], i): (1,) * len(_shape(program, e.inputs[i]))
      for e in program.body.walk()
      for i in e.sources
    }
    return Batched(program, found)
  whole = traced(program.function, program.shapes, count, program.options, program.precision)
  pairs = list(zip(program.body.walk(), whole.body.walk(), strict=False))
  alike = len(program.values) == len(whole.values) and all(a.name == b.name for a, b in pairs)
  if not alike:
    return Batched(whole, None)
  axes: dict[tuple[int, int], Shape] | None = {}
  for one, many in pairs:
    _check_apart(program, one, whole, many)
    for i in many.sources:
      shape = _gain_shape(program, one, whole, many, i, count)
      if axes is not None:
        axes = None if shape is None else {**axes, (many.outputs[0], i): shape}
  measured = any(body.sources for e in whole.body.walk() for body in e.bodies)
  return Batched(whole, None if measured or whole.body.sources else axes)


_batched = functools.lru_cache(maxsize=64)(_made)


def mapped(program: Program, variables: Any, inputs: Array, gains: Mapping[str, Array]) -> Any:
  """Returns the outputs of a batch with weights held, one example at a time; see `Program.held`."""

  def one(x: Array, own: Mapping[str, Array]) -> Any:
    outputs = program.run(variables, x[None], Held(program.live, own, {}))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], outputs)

  try:
    return jax.vmap(one)(inputs, gains)
  except NotImplementedError:  # of primitives that take no batches, such as ragged dots
    return jax.lax.map(lambda each: one(*each), (inputs, gains))


def _shape(program: Program, atom: Atom) -> Shape:
  return program.values[atom].shape if isinstance(atom, int) else jnp.shape(atom.val)


def _gain_shape(
  program: Program, one: Equation, whole: Program, many: Equation, position: int, count: int
) -> Shape | None:
  """Returns the shape in which gains [N] multiply an operand; None if there is none."""
  own = (_shape(program, one.inputs[position]), _shape(whole, many.inputs[position]))
  if own[0] != own[1]:
    return _along(_batch_axis(*own), len(own[1]), count)
  # The operand has no batch: it gets one where the operation spreads it over the batch anyway.
  result = (_shape(program, one.outputs[0]), _shape(whole, many.outputs[0]))
  gains = _along(_batch_axis(*result), len(result[1]), count)
  if many.name not in _BROADCASTING or gains is None or len(own[1]) not in (0, len(gains)):
    return None
  return gains


def _along(axis: int | None, rank: int, count: int) -> Shape | None:
  if axis is None:
    return None
  return tuple(count if i == axis else 1 for i in range(rank))


def _batch_axis(one: Shape, many: Shape) -> int | None:
  """Returns the axis that is the batch; None for none, several, or one that is more than it."""
  if len(one) != len(many):
    return None
  changed = [i for i, (a, b) in enumerate(zip(one, many, strict=True)) if a != b]
  return changed[0] if len(changed) == 1 and one[changed[0]] == 1 else None


def _check_apart(program: Program, one: Equation, whole: Program, many: Equation) -> None:
  """Raises InputError if an equation makes a value without batch of values that have one."""

  def grows(first: Atom, second: Atom) -> bool:
    return _shape(program, first) != _shape(whole, second)

  pairs = zip(one.inputs, many.inputs, many.operands, strict=True)
  some = any(kind != ValueKind.CONSTANT and grows(a, b) for a, b, kind in pairs)
  lost = [
    number
    for first, number in zip(one.outputs, many.outputs, strict=True)
    if not grows(first, number) and is_float(whole.values[number].dtype)
  ]
  if some and lost and len(lost) == len(many.outputs):
    raise InputError(
      f"{many} makes one value of all examples of a batch, which then cannot be explained apart.",
      "Call the network in evaluation mode, where its norms use running statistics.",
    )
  mixed = [
    i
    for i, (first, second) in enumerate(zip(one.inputs, many.inputs, strict=True))
    if many.operands[i] != ValueKind.CONSTANT
    and (axis := _batch_axis(_shape(program, first), _shape(whole, second))) is not None
    and axis in _mixed_axes(many, i)
  ]
  if mixed:
    raise InputError(
      f"{many} mixes the examples of a batch, which then cannot be explained apart.",
      "Let the network treat each example by itself, whatever else is in the batch.",
    )


def _mixed_axes(equation: Equation, position: int) -> tuple[int, ...]:
  """Returns the axes of an operand along which an equation mixes elements, the shape kept."""
  params, name = equation.params, equation.name
  if name == "dot_general":
    return tuple(params["dimension_numbers"][0][position])
  if name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"):
    return (params["axis"],)
  if name == "sort":
    return (params["dimension"],)
  if name == "rev":
    return tuple(params["dimensions"])
  if name.startswith("reduce_window") or name == "conv_general_dilated":
    if position:
      return ()
    if name == "conv_general_dilated":
      return tuple(params["dimension_numbers"].lhs_spec[1:])
    return tuple(i for i, length in enumerate(params["window_dimensions"]) if length > 1)
  return ()

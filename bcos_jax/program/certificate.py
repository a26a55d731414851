"""A proof by typing that a program with its weights held is affine in the input.

Every equation is typed once more, of what really varies with the input: signals that are not held.
It passes if its rule asks for no further hold. The second witness does not know the rules: with the
weights taken at one input, the program must be a function that `jax.linear_transpose` accepts,
which knows only what JAX's own primitives are linear in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from ..errors import InputError
from .evaluation import bind, chosen, evaluate, gated
from .rules import Case, is_float, typed, weight
from .tracing import ENTERED
from .values import Body, Equation, Holding, Value, ValueKind

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What was proven of a program: its outputs are affine in the input, given what is held.

  Attributes:
    equations: Equations that were typed.
    holds: Equations at which something is held.
    maps: Dots and convolutions of the signal with constants.
    sources: Names of what is added on the way.
    transposed: Relative difference of W(x) between `jax.linear_transpose` and the gradient of the
      held program; None if there was no input to take it at.
  """

  equations: int
  holds: int
  maps: int
  sources: tuple[str, ...]
  transposed: float | None = None

  def __str__(self) -> str:
    lines = [
      f"affine in the input: {self.equations} equations, {self.holds} of which hold weights, "
      f"{self.maps} maps, {len(self.sources)} sources of residuals"
    ]
    if self.transposed is not None:
      lines.append(f"jax.linear_transpose agrees with the gradient to {self.transposed:.1e}")
    return "\n".join(lines)


def holds(equation: Equation) -> bool:
  """Whether an equation holds something, as an operand or by its form."""
  return bool(equation.held) or equation.form in (Holding.GATE, Holding.LARGER)


def certified(program: Any, variables: Any = None, inputs: Any = None) -> Certificate:
  """Returns the certificate of a program; see `Program.check`."""
  prove(program.body, program.values)
  equations = tuple(program.body.walk())
  transposed = None if inputs is None else _witnessed(program, variables, jnp.asarray(inputs)[:1])
  return Certificate(
    equations=len(equations),
    holds=sum(map(holds, equations)),
    maps=sum(1 for _ in program.maps()),
    sources=program.sources,
    transposed=transposed,
  )


def _witnessed(program: Any, variables: Any, example: Array) -> float:
  """Returns how far the two ways to W(x) are apart, for a random sum of the outputs."""

  def summed(outputs: Any, weights: Any) -> Array:
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(weights), strict=True)
    return sum((jnp.sum(a * b) for a, b in pairs if is_float(a.dtype)), jnp.zeros(()))

  leaves, structure = jax.tree.flatten(program.outputs)
  keys = jax.random.split(jax.random.key(0), len(leaves))
  cotangents = structure.unflatten(
    jax.random.normal(key, leaf.shape, leaf.dtype)
    if is_float(leaf.dtype)
    else jnp.zeros(leaf.shape, leaf.dtype)
    for key, leaf in zip(keys, leaves, strict=True)
  )

  @jax.jit
  def both(variables: Any, example: Array) -> Array:
    gradient = jax.grad(lambda x: summed(program.held(variables, x), cotangents))(example)
    transposed = transposed_map(program, variables, example, cotangents)
    scale = jnp.maximum(jnp.linalg.norm(gradient), jnp.finfo(gradient.dtype).tiny)
    return jnp.linalg.norm(gradient - transposed) / scale

  with jax.default_matmul_precision("highest"):
    return float(both(variables, example))


def prove(body: Body, values: Mapping[int, Value]) -> None:
  """Proves that results of a body are affine in its last argument.

  Raises:
    InputError: Naming the first equation that is not, its place and the fix.
  """
  _typed_again(body, [False] * (len(body.inputs) - 1) + [True], values)
  known = [values[atom].kind for atom in body.outputs if isinstance(atom, int)]
  if ValueKind.SIGNAL not in known:
    last = _last_hold(body)
    raise InputError(
      f"The outputs are no signals: {last} makes weights of the input, which are held, so that "
      "nothing would be left to contribute.",
      "Return what comes before it, such as logits rather than probabilities.",
    )


def _last_hold(body: Body) -> Equation:
  needed = {atom for atom in body.outputs if isinstance(atom, int)}
  for equation in reversed(body.equations):
    if needed.intersection(equation.outputs):
      if holds(equation):
        return equation
      needed.update(atom for atom in equation.inputs if isinstance(atom, int))
  return body.equations[-1]


def _typed_again(body: Body, varying: Sequence[bool], values: Mapping[int, Value]) -> list[bool]:
  """Returns which results vary with the input, in ways that were proven affine."""
  moves = dict(zip(body.inputs, varying, strict=True))
  for equation in body.equations:
    own = [isinstance(atom, int) and moves.get(atom, False) for atom in equation.inputs]
    own = [moving and i not in equation.held for i, moving in enumerate(own)]
    if not any(own):
      results = [False] * len(equation.outputs)
    elif equation.bodies:
      results = _bodies(equation, own, values)
    else:
      _check(equation, own, values)
      results = [is_float(values[number].dtype) for number in equation.outputs]
    pairs = zip(equation.kinds, results, strict=True)
    if any(kind != ValueKind.SIGNAL and moving for kind, moving in pairs):
      _refuse(equation)
    moves.update(zip(equation.outputs, results, strict=True))
  return [isinstance(atom, int) and moves.get(atom, False) for atom in body.outputs]


def _bodies(equation: Equation, own: list[bool], values: Mapping[int, Value]) -> list[bool]:
  if equation.name == "cond":
    if own[0]:
      _refuse(equation)
    found = [_typed_again(body, own[1:], values) for body in equation.bodies]
    return [any(each) for each in zip(*found, strict=True)]
  if equation.name != "scan":
    return _typed_again(equation.bodies[0], own, values)
  first, carried = equation.params["num_consts"], equation.params["num_carry"]
  while True:
    results = _typed_again(equation.bodies[0], own, values)
    after = [a or b for a, b in zip(own[first : first + carried], results[:carried], strict=True)]
    if after == own[first : first + carried]:
      return results
    own = [*own[:first], *after, *own[first + carried :]]


def _check(equation: Equation, own: Sequence[bool], values: Mapping[int, Value]) -> None:
  """Raises InputError unless an equation is affine in the operands that vary."""
  if equation.name in ENTERED:
    _refuse(equation)
  operands = tuple(
    _as(
      equation,
      i,
      ValueKind.SIGNAL if moving else min(ValueKind.WEIGHT, equation.operands[i]),
      values,
    )
    for i, moving in enumerate(own)
  )
  case = Case(
    equation.name,
    equation.params,
    operands,
    len(operands) > 1 and equation.inputs[0] is equation.inputs[1],
    values[equation.outputs[0]].size,
    equation.place,
  )
  try:
    typing = typed(case)
  except InputError:
    _refuse(equation)
  floats = any(is_float(values[number].dtype) for number in equation.outputs)
  typing = typing if floats else weight(case)
  if typing.kind != ValueKind.SIGNAL or typing.held or typing.form != equation.form:
    _refuse(equation)


def _as(equation: Equation, position: int, kind: ValueKind, values: Mapping[int, Value]) -> Value:
  atom = equation.inputs[position]
  if isinstance(atom, int):
    return dataclasses.replace(values[atom], kind=kind)
  number = float(atom.val) if jnp.ndim(atom.val) == 0 else None
  return Value(kind, jnp.shape(atom.val), jnp.asarray(atom.val).dtype, literal=number)


def _refuse(equation: Equation) -> NoReturn:
  raise InputError(
    f"{equation} is not affine in the signals that it gets: more must be held.",
    "Trace the function again; where the rule of the primitive is your own, let it hold more.",
  )


@dataclasses.dataclass(frozen=True)
class _Pair:
  """A signal at the input at which weights are taken, and at the input that moves."""

  at: Any
  moved: Any


def transposed_map(program: Any, variables: Any, example: Array, cotangents: Any) -> Any:
  """Returns W(x) of a weighted sum of outputs by `jax.linear_transpose`.

  Args:
    program: The program.
    variables: Its variables.
    example: A batch of one, [1, ...].
    cotangents: Weights of the outputs, in their structure.

  Raises:
    InputError: JAX refuses to transpose it.
  """

  def moved(x: Array) -> Any:
    leaves = [*jax.tree.leaves(variables), _Pair(example, x)]
    results = evaluate(program.body, leaves, _paired)
    outputs = [r.moved if isinstance(r, _Pair) else jnp.zeros_like(r) for r in results]
    return jax.tree.unflatten(jax.tree.structure(program.outputs), outputs)

  try:
    (found,) = jax.linear_transpose(moved, example)(cotangents)
  except (NotImplementedError, TypeError, AssertionError, ValueError) as error:
    raise InputError(
      f"JAX does not transpose the held program: {' '.join(str(error).split())[:200]}",
      "Some rule lets pass what is not linear: see program.check().",
    ) from error
  return found


def _paired(equation: Equation, values: list[Any]) -> list[Any]:
  if equation.bodies and equation.signal:
    return _unrolled(equation, values)
  at = [v.at if isinstance(v, _Pair) else v for v in values]
  made = bind(equation, at)
  if not equation.signal:
    return list(made)
  moved = [
    v.moved if isinstance(v, _Pair) and i not in equation.held else at[i]
    for i, v in enumerate(values)
  ]
  if equation.form == Holding.GATE:
    results = [gated(equation, *moved, at=at[0])]
  elif equation.form == Holding.LARGER:
    results = [jnp.where(chosen(equation, *at), *moved)]
  elif equation.form == Holding.SELECTION:
    results = _selected(equation, at, moved)
  else:
    results = bind(equation, moved)
  return [
    _Pair(m, r) if kind == ValueKind.SIGNAL else m
    for m, r, kind in zip(made, results, equation.kinds, strict=True)
  ]


def _selected(equation: Equation, at: list[Any], moved: list[Any]) -> Sequence[Any]:
  """Returns what is selected of `moved` by a choice made at `at`: the derivative is the choice."""
  floats = [i for i, v in enumerate(at) if is_float(jnp.asarray(v).dtype)]

  def select(*chosen: Any) -> Sequence[Any]:
    full = list(at)
    for i, v in zip(floats, chosen, strict=True):
      full[i] = v
    return tuple(bind(equation, full))

  primals, tangents = ([jnp.asarray(v[i]) for i in floats] for v in (at, moved))
  return jax.jvp(select, primals, tangents)[1]


def _unrolled(equation: Equation, values: list[Any]) -> list[Any]:
  """Evaluates a call without it, which pairs could not pass: loops step by step."""
  if equation.name == "shard_map":
    raise InputError(
      f"{equation} cannot be transposed by the second witness, which knows no shards.",
      "Rely on the proof by typing: program.check() without inputs.",
    )
  if equation.name == "scan":
    return _steps(equation, values)
  if equation.name == "cond":
    found = [evaluate(body, values[1:], _paired) for body in equation.bodies]
    return [_branched(values[0], each) for each in zip(*found, strict=True)]
  return evaluate(equation.bodies[0], values, _paired)


def _branched(index: Array, results: Sequence[Any]) -> Any:
  if not any(isinstance(r, _Pair) for r in results):
    return jax.lax.select_n(jnp.asarray(index), *results)
  sides = ([getattr(r, side) if isinstance(r, _Pair) else r for r in results] for side in _SIDES)
  return _Pair(*(jax.lax.select_n(jnp.asarray(index), *side) for side in sides))


def _steps(equation: Equation, values: list[Any]) -> list[Any]:
  params = equation.params
  first, carried = params["num_consts"], params["num_carry"]
  constants, carry, stacked = (
    values[:first],
    values[first : first + carried],
    values[first + carried :],
  )
  steps = range(params["length"])
  rows: list[list[Any]] = []
  for i in reversed(steps) if params["reverse"] else steps:
    each = [_over(lambda v, i=i: v[i], v) for v in stacked]
    results = evaluate(equation.bodies[0], [*constants, *carry, *each], _paired)
    carry = results[:carried]
    rows.append(results[carried:])
  rows = rows[::-1] if params["reverse"] else rows
  return [*carry, *(_stack(column) for column in zip(*rows, strict=True))]


_SIDES = ("at", "moved")


def _over(function: Any, value: Any) -> Any:
  if isinstance(value, _Pair):
    return _Pair(function(value.at), function(value.moved))
  return function(value)


def _stack(column: Sequence[Any]) -> Any:
  if not any(isinstance(v, _Pair) for v in column):
    return jnp.stack(column)
  return _Pair(
    *(jnp.stack([getattr(v, s) if isinstance(v, _Pair) else v for v in column]) for s in _SIDES)
  )

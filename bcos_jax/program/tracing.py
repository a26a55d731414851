"""From a function to typed equations: calls are entered, values numbered, every operand judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math
from typing import Any

from jax.extend import core
import numpy as np

from ..layers.convolutions import expanded
from .rules import Case, Typing, is_float, typed, weight
from .values import Atom, Body, Equation, Place, Value, ValueKind, place_of

INLINED = {"jit": "jaxpr", "composite": "jaxpr", "closed_call": "call_jaxpr", "call": "call_jaxpr"}
"""Calls whose equations take the place of the call, and the parameter that holds them."""

ENTERED = {
  "checkpoint": "jaxpr",
  "cond": "branches",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "remat": "jaxpr",
  "remat2": "jaxpr",
  "scan": "jaxpr",
  "shard_map": "jaxpr",
}
"""Calls that stay, with a typed body, and the parameter that holds it."""

_KEEP_ZERO = (
  *("broadcast_in_dim", "convert_element_type", "copy", "neg", "pbroadcast", "pvary", "reshape"),
  *("squeeze", "transpose"),
)


def inlined(equation: Any) -> core.ClosedJaxpr | None:
  """Returns the equations that take the place of one; None where it stays."""
  name = equation.primitive.name
  return _closed(equation.params[INLINED[name]]) if name in INLINED else expanded(equation)


@dataclasses.dataclass(frozen=True)
class TraceOptions:
  """What the user decides where no rule does; places by their modules or line, '*' for any text.

  Attributes:
    products: Place -> 'first' or 'second', the factor of a product that is held.
    weights: Places at which the results are weights, whatever the operation.
  """

  products: Mapping[str, str] = dataclasses.field(default_factory=dict)
  weights: tuple[str, ...] = ()

  def factor(self, place: Place) -> str:
    """Returns which factor is held at a place; '' if the user does not say."""
    return next((f for pattern, f in self.products.items() if place.matches(pattern)), "")

  def weighs(self, place: Place) -> bool:
    """Whether the user makes the results at a place weights."""
    return any(place.matches(pattern) for pattern in self.weights)


class Tracer:
  """Numbers and types the values of a jaxpr.

  Attributes:
    values: What is known of each value, by number.
  """

  def __init__(self, paths: Sequence[str], options: TraceOptions):
    self.values: dict[int, Value] = {}
    self._paths, self._options = paths, options
    self._count = itertools.count()
    self._made_of: dict[int, tuple[Atom, ...]] = {}

  def new(self, aval: Any, **known: Any) -> int:
    """Returns the number of a new value."""
    number = next(self._count)
    self.values[number] = Value(shape=tuple(aval.shape), dtype=aval.dtype, **known)
    return number

  def body(self, closed: Any, inputs: Sequence[int], outside: Place) -> Body:
    """Returns the equations of a closed jaxpr for arguments by number."""
    equations: list[Equation] = []
    constants: dict[int, Any] = {}
    outputs = self._enter(closed, inputs, outside, equations, constants)
    return _pruned(Body(tuple(inputs), tuple(equations), tuple(outputs), constants))

  def known(self, atom: Atom) -> Value:
    """Returns what is known of a value or literal."""
    if isinstance(atom, int):
      return self.values[atom]
    number = float(atom.val) if np.ndim(atom.val) == 0 and np.isrealobj(atom.val) else None
    zero = not np.any(atom.val)
    dtype = np.asarray(atom.val).dtype
    return Value(ValueKind.CONSTANT, np.shape(atom.val), dtype, zero=zero, literal=number)

  def _enter(self, closed, inputs, outside, equations, constants) -> list[Atom]:
    env: dict[Any, Atom] = dict(zip(closed.jaxpr.invars, inputs, strict=True))
    for variable, constant in zip(closed.jaxpr.constvars, closed.consts, strict=True):
      env[variable] = self.new(variable.aval, kind=ValueKind.CONSTANT)
      constants[env[variable]] = constant

    def read(atom: Any) -> Atom:
      return atom if isinstance(atom, core.Literal) else env[atom]

    for found in closed.jaxpr.eqns:
      operands = tuple(read(atom) for atom in found.invars)
      place = place_of(found).inside(outside)
      kinds = [self.known(atom).kind for atom in operands]
      inner = inlined(found)
      if inner is not None and ValueKind.SIGNAL in kinds and not self._options.weighs(place):
        made = self._enter(inner, operands, place, equations, constants)
      else:
        equation = self._equation(found, operands, kinds, place)
        equations.append(equation)
        made = equation.outputs
      env.update(zip(found.outvars, made, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]

  def _equation(self, found, operands, kinds, place: Place) -> Equation:
    known = tuple(self.known(atom) for atom in operands)
    bare = Equation(found.primitive, found.params, operands, (), (), tuple(kinds), place)
    if ValueKind.SIGNAL not in kinds:
      return self._without_signal(bare, found.outvars, known)
    case = Case(
      found.primitive.name,
      found.params,
      known,
      self._same(found.primitive.name, operands),
      math.prod(found.outvars[0].aval.shape),
      place,
      self._options.factor(place),
      self._derived(operands) if found.primitive.name == "mul" else "",
    )
    floats = [is_float(variable.aval.dtype) for variable in found.outvars]
    if self._options.weighs(place):
      typing = weight(case)
    elif case.name in ENTERED:
      return self._call(bare, found.outvars)
    else:
      typing = typed(case)
    if not any(floats) and typing.kind == ValueKind.SIGNAL:
      typing = dataclasses.replace(weight(case), activations=typing.activations)
    kinds = tuple(typing.kind if each else ValueKind.WEIGHT for each in floats)
    multiple = self._multiple_of(case, operands)
    outputs = [
      self.new(v.aval, kind=kind, activations=typing.activations, multiple_of=multiple)
      for v, kind in zip(found.outvars, kinds, strict=True)
    ]
    self._made_of.update((made, operands) for made in outputs)
    return dataclasses.replace(
      bare,
      outputs=tuple(outputs),
      kinds=kinds,
      held=typing.held,
      form=typing.form,
      slope=typing.slope,
      sources=self._sources(bare, typing),
    )

  def _same(self, name: str, operands: Sequence[Atom]) -> bool:
    """Whether the first two operands are one value or, of products by element, multiples of one."""
    if len(operands) < 2:
      return False
    first, second = operands[:2]
    return first is second or (name == "mul" and self._original(first) == self._original(second))

  def _original(self, atom: Atom) -> Atom:
    """Returns the signal that a value is a multiple of, or itself."""
    found = self.values[atom].multiple_of if isinstance(atom, int) else None
    return atom if found is None else found

  def _derived(self, operands: Sequence[Atom]) -> str:
    """Returns which of two factors is made of the other one: 'first', 'second' or ''."""
    first, second = map(self._original, operands)
    if self._reaches(second, first):
      return "second"
    return "first" if self._reaches(first, second) else ""

  def _reaches(self, made: Atom, source: Atom) -> bool:
    """Whether a value is made of another one; values are numbered in the order they are made."""
    left, seen = [made], set()
    while left and isinstance(source, int):
      atom = left.pop()
      if isinstance(atom, int) and atom > source and atom not in seen:
        seen.add(atom)
        left.extend(self._made_of.get(atom, ()))
      elif atom == source:
        return source != made
    return False

  def _multiple_of(self, case: Case, operands: Sequence[Atom]) -> Any:
    """Returns the signal that the result is a multiple of, by a number; None if there is none."""
    numbers = [value.literal is not None for value in case.operands]
    if case.name == "mul" and sum(numbers) == 1:
      return self._original(operands[numbers.index(False)])
    if case.name in ("neg", "copy") or (case.name == "div" and numbers == [False, True]):
      return self._original(operands[0])
    return None

  def _without_signal(self, bare: Equation, outvars, known: Sequence[Value]) -> Equation:
    kind = max((value.kind for value in known), default=ValueKind.CONSTANT)
    leaves = tuple(dict.fromkeys(leaf for value in known for leaf in value.leaves))
    seen = max((value.activations for value in known), default=0)
    zero = bare.name in _KEEP_ZERO and known[0].zero
    outputs = tuple(
      self.new(v.aval, kind=kind, activations=seen, leaves=leaves, zero=zero) for v in outvars
    )
    self._made_of.update((made, bare.inputs) for made in outputs)
    return dataclasses.replace(bare, outputs=outputs, kinds=(kind,) * len(outputs))

  def _sources(self, equation: Equation, typing: Typing) -> dict[int, str]:
    """Returns the names of what an equation adds to signals."""
    if typing.kind != ValueKind.SIGNAL:
      return {}
    return {
      i: self.source(equation.inputs[i], equation)
      for i in typing.added
      if not self.known(equation.inputs[i]).zero
    }

  def source(self, atom: Atom, equation: Equation) -> str:
    """Returns what a residual is called: the variable, or the operation and its place."""
    known = self.known(atom)
    if known.leaves:
      return self._paths[known.leaves[0]]
    what = "weight" if known.kind == ValueKind.WEIGHT else "constant"
    return f"{what} at {equation.place}"

  def _call(self, bare: Equation, outvars) -> Equation:
    if bare.name == "scan":
      bodies = (self._scanned(bare),)
      carried = bare.params["num_carry"]
      offset = bare.params["num_consts"]
      sources = self._carried_sources(bare, bodies[0], range(offset, offset + carried))
    else:
      inner = bare.params[ENTERED[bare.name]]
      branches = inner if bare.name == "cond" else (inner,)
      operands = bare.inputs[1:] if bare.name == "cond" else bare.inputs
      bodies = tuple(self._branch(each, operands, bare) for each in branches)
      sources = {}
    results = [
      [self.known(body.outputs[i]) for body in bodies] for i in range(len(bodies[0].outputs))
    ]
    kinds = [max(value.kind for value in values) for values in results]
    if bare.name == "cond" and self.known(bare.inputs[0]).kind != ValueKind.CONSTANT:
      kinds = [max(kind, ValueKind.WEIGHT) for kind in kinds]
    bodies = tuple(self._completed(body, kinds, bare) for body in bodies)
    outputs = tuple(
      self.new(v.aval, kind=kind, activations=max(value.activations for value in values))
      for v, kind, values in zip(outvars, kinds, results, strict=True)
    )
    self._made_of.update((made, bare.inputs) for made in outputs)
    return dataclasses.replace(
      bare, outputs=outputs, kinds=tuple(kinds), sources=sources, bodies=bodies
    )

  def _branch(self, jaxpr: Any, operands: Sequence[Atom], bare: Equation) -> Body:
    closed = _closed(jaxpr)
    inputs = [
      self._argument(variable.aval, self.known(atom))
      for variable, atom in zip(closed.jaxpr.invars, operands, strict=True)
    ]
    self._made_of.update((made, (atom,)) for made, atom in zip(inputs, operands, strict=True))
    return self.body(closed, inputs, bare.place)

  def _argument(self, aval: Any, known: Value) -> int:
    return self.new(
      aval,
      kind=known.kind,
      activations=known.activations,
      leaves=known.leaves,
      zero=known.zero,
    )

  def _scanned(self, bare: Equation) -> Body:
    """Returns the body of a scan, typed so that what it carries keeps its kind."""
    closed = _closed(bare.params["jaxpr"])
    first, carried = bare.params["num_consts"], bare.params["num_carry"]
    known = [self.known(atom) for atom in bare.inputs]
    places = range(first, first + carried)
    for i in places:  # At later steps it is something else.
      known[i] = dataclasses.replace(known[i], leaves=(), zero=False, literal=None)
    while True:
      pairs = zip(closed.jaxpr.invars, known, strict=True)
      inputs = [self._argument(variable.aval, value) for variable, value in pairs]
      body = self.body(closed, inputs, bare.place)
      results = [self.known(atom).kind for atom in body.outputs[:carried]]
      if all(kind <= known[i].kind for i, kind in zip(places, results, strict=True)):
        return self._completed(body, [known[i].kind for i in places], bare)
      for i, kind in zip(places, results, strict=True):
        known[i] = dataclasses.replace(known[i], kind=max(kind, known[i].kind))

  def _carried_sources(self, bare, body: Body, positions) -> dict[int, str]:
    return {
      i: self.source(bare.inputs[i], bare)
      for i in positions
      if self.values[body.inputs[i]].kind == ValueKind.SIGNAL
      and self.known(bare.inputs[i]).kind != ValueKind.SIGNAL
      and not self.known(bare.inputs[i]).zero
    }

  def _completed(self, body: Body, kinds: Sequence[ValueKind], bare: Equation) -> Body:
    """Names results that are no signals where signals are wanted."""
    sources = {
      i: self.source(body.outputs[i], bare)
      for i, kind in enumerate(kinds)
      if kind == ValueKind.SIGNAL
      and self.known(body.outputs[i]).kind != ValueKind.SIGNAL
      and not self.known(body.outputs[i]).zero
    }
    return dataclasses.replace(body, sources={**body.sources, **sources})


def _closed(jaxpr: Any) -> Any:
  return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())


def _pruned(body: Body) -> Body:
  """Leaves out the equations that no result needs."""
  needed = {atom for atom in body.outputs if isinstance(atom, int)}
  kept = []
  for equation in reversed(body.equations):
    if needed.intersection(equation.outputs):
      kept.append(equation)
      needed.update(atom for atom in equation.inputs if isinstance(atom, int))
  constants = {number: c for number, c in body.constants.items() if number in needed}
  return dataclasses.replace(body, equations=tuple(reversed(kept)), constants=constants)

"""What a program consists of: values of three kinds, and equations with their places.

A *constant* does not depend on the input, a *signal* is affine in the input given what is held, a
*weight* depends on the input and is held: a constant to the gradient that is taken next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import enum
import fnmatch
import pathlib
import re
from typing import Any

import jax
from jax.extend import core

Array = jax.Array
Atom = int | core.Literal
"""A value by its number, or a literal."""


class ValueKind(enum.IntEnum):
  """The kinds of values, in the order in which they are joined."""

  CONSTANT = 0
  WEIGHT = 1
  SIGNAL = 2


@dataclasses.dataclass(frozen=True)
class Place:
  """Where an equation stands in the user's code.

  Attributes:
    modules: The named scopes around it, outermost first, such as 'layer1/conv'; '' for none.
    line: The line that made it, 'net.py:12'; '' if it is not known.
  """

  modules: str = ""
  line: str = ""

  def __str__(self) -> str:
    if self.modules and self.line:
      return f"{self.modules} ({self.line})"
    return self.modules or self.line or "an unknown place"

  @property
  def scope(self) -> str:
    """The named scope in which `place_of` finds this place again."""
    return "/".join(filter(None, (self.modules, self.line)))

  def matches(self, pattern: str) -> bool:
    """Whether a pattern, in which '*' is any text, is about its modules or its line."""
    return any(fnmatch.fnmatchcase(text, pattern) for text in (self.modules, self.line))

  def inside(self, call: Place) -> Place:
    """Returns the place seen from outside of a call; its line is known where a library's is not."""
    return Place("/".join(filter(None, (call.modules, self.modules))), self.line or call.line)


_TRANSFORMED = re.compile(
  r"\b(?:checkpoint|jvp|remat|rematted_computation|transpose|vmap)\(([^()]*)\)"
)
_LINE = re.compile(r"[^/]+\.\w+:\d+")
_HERE = pathlib.Path(__file__).parent
_LIBRARIES = ("jax", "flax", "equinox", "haiku", "keras")


def place_of(equation: Any) -> Place:
  """Returns where an equation of a jaxpr was made: the innermost line outside of libraries."""
  source = equation.source_info
  frames = source.traceback.frames if source.traceback else ()
  for frame in frames:
    path = pathlib.PurePath(frame.file_name)
    library = "site-packages" in path.parts and path.parts[path.parts.index("site-packages") + 1]
    if library not in _LIBRARIES and path.parent != _HERE:
      return _placed(_scopes(source), f"{path.name}:{frame.line_num}")
  return _placed(_scopes(source), "")


def _placed(scopes: str, line: str) -> Place:
  """Returns a place, of `Place.scope` if the equation was made again of another one."""
  names = scopes.split("/")
  lines = [i for i, name in enumerate(names) if _LINE.fullmatch(name)]
  if not lines:
    return Place(scopes, line)
  return Place("/".join(names[: lines[0]]), names[lines[0]])


def _scopes(source: Any) -> str:
  """Returns the named scopes, without what transformations make of them: 'vmap(layer)/conv'."""
  text, before = str(source.name_stack), None
  while text != before:
    text, before = _TRANSFORMED.sub(r"\1", text), text
  return "/".join(filter(None, text.split("/")))


@dataclasses.dataclass(frozen=True)
class Value:
  """What is known of a value when its program is traced.

  Attributes:
    kind: Constant, weight or signal.
    shape: Its shape, for one example.
    dtype: Its dtype.
    activations: How many activations it went through since the last map.
    leaves: Numbers of the variables that a constant is made of, the leading one first.
    zero: Whether it is known to be zero.
    literal: The number, of a scalar literal.
    multiple_of: Number of the signal that it is a multiple of; None for those of none.
  """

  kind: ValueKind
  shape: tuple[int, ...]
  dtype: Any
  activations: int = 0
  leaves: tuple[int, ...] = ()
  zero: bool = False
  literal: float | None = None
  multiple_of: int | None = None

  @property
  def size(self) -> int:
    """Number of elements."""
    size = 1
    for length in self.shape:
      size *= length
    return size


class Holding(enum.Enum):
  """How an equation is evaluated while weights are held."""

  PLAIN = "plain"  # as it is; operands in `held` are held
  GATE = "gate"  # f(x) as x * held f(x)/x
  LARGER = "larger"  # the larger or smaller of two, by a held choice
  SELECTION = "selection"  # as it is: its derivative is the choice


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
  """One operation.

  Attributes:
    primitive: The primitive of JAX.
    params: Its parameters.
    inputs: Its operands.
    outputs: Numbers of its results.
    kinds: Kinds of its results.
    operands: Kinds of its operands.
    held: Positions of operands that are held.
    form: How it is evaluated.
    slope: f'(0), of gates.
    sources: Position of an operand that is added to a signal -> name of the residual.
    place: Where it stands.
    bodies: What it calls: loops, branches, shards.
  """

  primitive: Any
  params: Mapping[str, Any]
  inputs: tuple[Atom, ...]
  outputs: tuple[int, ...]
  kinds: tuple[ValueKind, ...]
  operands: tuple[ValueKind, ...]
  place: Place
  held: frozenset[int] = frozenset()
  form: Holding = Holding.PLAIN
  slope: float = 0.0
  sources: Mapping[int, str] = dataclasses.field(default_factory=dict)
  bodies: tuple[Body, ...] = ()

  @property
  def name(self) -> str:
    """Name of the primitive."""
    return self.primitive.name

  @property
  def signal(self) -> bool:
    """Whether a result is a signal."""
    return ValueKind.SIGNAL in self.kinds

  def __str__(self) -> str:
    return f"{self.name} at {self.place}"


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
  """Equations with arguments and results.

  Attributes:
    inputs: Numbers of the arguments.
    equations: In the order of evaluation.
    outputs: The results.
    constants: Values that were known when tracing.
    sources: Position of a result that is a constant or weight where a signal is wanted -> name of
      the residual.
  """

  inputs: tuple[int, ...]
  equations: tuple[Equation, ...]
  outputs: tuple[Atom, ...]
  constants: Mapping[int, Array]
  sources: Mapping[int, str] = dataclasses.field(default_factory=dict)

  def walk(self) -> Iterator[Equation]:
    """Yields all equations, those of bodies after the one that calls them."""
    for equation in self.equations:
      yield equation
      for body in equation.bodies:
        yield from body.walk()

  def numbers(self) -> frozenset[int]:
    """Returns the numbers of all values that its own equations make."""
    return frozenset(number for e in self.equations for number in e.outputs)

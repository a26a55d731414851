"""What B-cosification decides for each part of a program, before anything is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import fnmatch
import itertools
from typing import Any

from .. import functional as F
from ..errors import InputError, unknown_name
from .program import Program
from .reading import MAPS, named_kernel
from .values import Equation, Value, ValueKind

SETTINGS = {"b": ("map",), "learn_b": ("map",), "biases": ("bias",), "pool": ("max pooling",)}
"""What `rules` may set, and the parts that it is about."""
BIASES = ("remove", "keep", "decay")
POOLS = ("keep", "average")


@dataclasses.dataclass(frozen=True)
class BcosSettings:
  """How a part is B-cosified; see `bcosify`."""

  b: float = 2.0
  learn_b: bool = False
  biases: str = "remove"
  pool: str = "keep"

  def __post_init__(self):
    F.check_b(self.b)
    if self.biases not in BIASES:
      raise unknown_name("biases", self.biases, BIASES)
    if self.pool not in POOLS:
      raise unknown_name("pool", self.pool, POOLS)


@dataclasses.dataclass(frozen=True)
class Decision:
  """One line of the table.

  Attributes:
    name: Of the variable: the kernel of a map, or a bias; the place of a pooling.
    part: 'map', 'bias', 'max pooling', 'map of weights' (its results weigh signals and are none:
      queries, keys, gates), or 'constant' (what else is added: positions, tokens).
    action: What becomes of it, in words.
    equation: The equation.
    settings: Of the part.
  """

  name: str
  part: str
  action: str
  equation: Equation
  settings: BcosSettings

  @property
  def learned(self) -> bool:
    """Whether B is a variable of its own."""
    return self.part == "map" and self.settings.learn_b

  @property
  def changes(self) -> bool:
    """Whether the equation computes something else than before."""
    return {
      "map": self.settings.b != 1 or self.settings.learn_b,
      "bias": self.settings.biases != "keep",
      "max pooling": self.settings.pool != "keep",
    }.get(self.part, False)


def decide(
  program: Program, settings: BcosSettings, rules: Mapping[str, Mapping[str, Any]]
) -> tuple[Decision, ...]:
  """Returns the decisions for a program, in the order of its equations.

  Raises:
    InputError: A rule that sets something unknown, or is about no part that has such a name.
  """
  _check_rules(rules)
  made, used = [], set()
  for name, part, equation in _parts(program):
    own = settings
    for pattern, fields in rules.items():
      if fnmatch.fnmatchcase(name, pattern):
        used.update(pattern for field in fields if part in SETTINGS[field])
        own = dataclasses.replace(own, **fields)
    made.append(Decision(name, part, _action(part, own), equation, own))
  for pattern in rules.keys() - used:
    raise InputError(
      f"rules[{pattern!r}] matches no part of the network that {_fields(rules[pattern])} is about.",
      f"Names are, for example, {', '.join(sorted({d.name for d in made})[:4])}; '*' is any text.",
    )
  return tuple(made)


def _check_rules(rules: Mapping[str, Mapping[str, Any]]) -> None:
  if not isinstance(rules, Mapping):
    raise InputError(
      f"rules is {rules!r}, expected settings by the name of a part.",
      "For example rules={'*head*': {'b': 1.0}}.",
    )
  for pattern, fields in rules.items():
    if not isinstance(fields, Mapping) or not fields:
      raise InputError(
        f"rules[{pattern!r}] is {fields!r}, expected settings by name.",
        f"For example rules={{{pattern!r}: {{'b': 1.0}}}}.",
      )
    for name in fields:
      if name not in SETTINGS:
        raise unknown_name(f"setting of rules[{pattern!r}]", name, SETTINGS)


def _fields(fields: Mapping[str, Any]) -> str:
  return " or ".join(map(repr, fields))


def placed(decisions: tuple[Decision, ...], whole: Program) -> tuple[Decision, ...]:
  """Returns the decisions of one example at the equations of a program of a batch.

  Raises:
    InputError: The function has other parts for a batch of this size.
  """
  found = tuple(_parts(whole))
  if [name for name, _, _ in found] != [decision.name for decision in decisions]:
    raise InputError(
      f"The function has {len(found)} parts for a batch of this size, {len(decisions)} for one "
      "example: it is not the same network.",
      "Let it compute the same for batches of all sizes.",
    )
  return tuple(
    dataclasses.replace(decision, equation=equation)
    for decision, (_, _, equation) in zip(decisions, found, strict=True)
  )


def _action(part: str, settings: BcosSettings) -> str:
  if part == "map":
    learned = ", learned" if settings.learn_b else ""
    if settings.b == 1 and not learned:
      return "stays linear (B=1)"
    return f"B-cos, B={settings.b:g}{learned}"
  if part == "bias":
    return {"remove": "removed", "keep": "kept", "decay": "multiplied by a variable"}[
      settings.biases
    ]
  if part == "max pooling":
    return {"keep": "kept", "average": "average pooling"}[settings.pool]
  return "stays linear" if part == "map of weights" else "kept"


def _parts(program: Program) -> Iterator[tuple[str, str, Equation]]:
  for equation in program.body.walk():
    live = bool(program.live.intersection(equation.outputs))
    if equation.name in MAPS:
      kernel = named_kernel(program, equation)
      if kernel is not None and equation.operands[0] != equation.operands[1]:
        yield program.paths[kernel], "map" if live else "map of weights", equation
    elif live and equation.name == "reduce_window_max":
      yield equation.place.modules or equation.place.line, "max pooling", equation
    elif live:
      for position, source in equation.sources.items():
        bias = _is_bias(program, equation, position)
        yield source, "bias" if bias else "constant", equation


def _is_bias(program: Program, equation: Equation, position: int) -> bool:
  """Whether what is added is a variable that is the same at all places: no position or token."""
  atom = equation.inputs[position]
  if equation.name not in ("add", "add_any", "sub") or not isinstance(atom, int):
    return False
  added = program.values[atom]
  if not added.leaves or added.kind != ValueKind.CONSTANT:
    return False
  leaf: Value = program.values[program.body.inputs[added.leaves[0]]]
  wide = [length for length in leaf.shape if length > 1]
  return len(wide) <= 1 or added.size < program.values[equation.outputs[0]].size


def table(decisions: tuple[Decision, ...]) -> str:
  """Returns the decisions as lines of columns; equal ones of one name are one line."""
  rows = [(d.name, d.part, d.action) for d in decisions]
  counted = [(*row, len(list(group))) for row, group in itertools.groupby(rows)]
  widths = [max(len(row[i]) for row in rows) for i in range(2)] if rows else [0, 0]
  return "\n".join(
    f"{name:{widths[0]}}  {part:{widths[1]}}  {action}{f' ({times} times)' if times > 1 else ''}"
    for name, part, action, times in counted
  )

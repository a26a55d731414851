"""What each map of a network aims at, read off its traced program rather than guessed by name.

Behind a map come batch norms, multipliers of channels, reshapes and sums with other branches, up to
a gate, another map, or anything else. Along such a chain the value is affine in the map's response,
element by element. A student's map aims at its teacher's value at the end of the chain: with the
sum of a residual block, what the maps before got wrong is mended as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from .traced import MarkedProgram, Operation

_SAME = ("name", "convert_element_type", "copy", "copy_p", "neg", "reduce_precision")
_ADDED = ("add", "sub", "add_any")


@dataclasses.dataclass(frozen=True)
class Chain:
  """What follows a map's response, as far as it is affine in it, element by element.

  Attributes:
    ends: Values along the chain: before the first sum with another branch, behind it, and so on.
    sides: What was added, in order: `ends[i]` depends on the first `i` of them.
    norms: Paths of the batch norms on the way to each end, before any sum.
    gate: Kind of the gate that alone reads the last end; '' for none.
  """

  ends: tuple[int, ...]
  sides: tuple[int, ...]
  norms: tuple[tuple[str, ...], ...]
  gate: str

  def cut(self, ends: int) -> Chain:
    """Returns the chain with its first `ends` ends only."""
    whole = ends >= len(self.ends)
    return Chain(
      self.ends[:ends],
      self.sides[: ends - 1],
      self.norms[:ends],
      self.gate if whole else "",
    )


def chain_of(program: MarkedProgram, path: str) -> Chain:
  """Returns the chain that follows a map."""
  value = program.response(path)
  ends, sides, norms, passed = [], [], [], []
  gate = ""
  while True:
    readers = program.consumers.get(value, ())
    step = readers[0] if len(readers) == 1 else None
    if step is None or not _passes(program, step, value):
      gate = "" if step is None else _gate(program, step)
      break
    side = _side(program, step, value)
    if side is not None:
      ends.append(value)
      norms.append(tuple(passed))
      sides.append(side)
    if not sides:  # Behind a sum a norm scales the other branch as well: it stays as it is.
      passed += [p for p in program.norms if step.outputs[0] == program.response(p)]
    value = step.outputs[0]
  return Chain((*ends, value), tuple(sides), (*norms, tuple(passed)), gate)


def _passes(program: MarkedProgram, step: Operation, value: int) -> bool:
  """Whether an equation is affine in a value element by element, channels staying last."""
  name = step.primitive.name
  if step.mark:
    return not any(step.outputs[0] == program.seen_by(path) for path in program.maps)
  old, new = program.shapes[value], program.shapes[step.outputs[0]]
  if name == "reshape":
    return bool(old) and bool(new) and old[-1] == new[-1] and old[0] == new[0]
  if old != new:
    return False
  fixed = not program.dependent.intersection(v for v in step.reads if v != value)
  if name == "mul" or (name == "div" and step.inputs[0] == value):
    return fixed and step.reads.count(value) == 1
  return name in _SAME or (name in _ADDED and step.reads.count(value) == 1)


def _side(program: MarkedProgram, step: Operation, value: int) -> int | None:
  """Returns what else an equation adds, if it depends on the input."""
  if step.primitive.name not in _ADDED:
    return None
  others = [v for v in step.reads if v != value and v in program.dependent]
  return others[0] if others else None


def _gate(program: MarkedProgram, step: Operation) -> str:
  if step.gate:
    return step.gate
  reader = next((p for p in program.maps if step.outputs[0] == program.seen_by(p)), None)
  return (getattr(program.maps[reader], "gate", None) or "") if reader and step.mark else ""


@dataclasses.dataclass(frozen=True)
class Part:
  """A map of the student and what it aims at.

  Attributes:
    path: The map.
    student: Its chain, up to the aim.
    teacher: The chain of the teacher's map of the same path, likewise.
  """

  path: str
  student: Chain
  teacher: Chain


def parts(
  student: MarkedProgram,
  teacher: MarkedProgram,
  chain: Callable[[MarkedProgram, str], Chain] = chain_of,
  leaf: str = "params/{}/kernel",
) -> Iterator[Part]:
  """Yields the maps of a network in the order in which they can be fitted.

  A map comes after those that it sees, and after those of the branches that are added on the way to
  its aim. Where two branches meet and neither is known, the one with fewer maps aims at its own
  value, and the other one at the sum.

  Args:
    student: The program.
    teacher: Likewise.
    chain: (program, path) -> what follows a map.
    leaf: Path of the kernel of the map at {}: one without is tied.
  """
  behind = _ancestors(student)
  at = {student.response(path): path for path in student.maps}
  done: list[str] = []

  def maps_behind(value: int) -> set[str]:
    return {at[v] for v in behind(value) & at.keys()} - set(done)

  def schedule(path: str, pending: tuple[str, ...]) -> Iterator[Part]:
    if path in done or path in pending:
      return
    for before in sorted(maps_behind(student.seen_by(path)), key=list(student.maps).index):
      yield from schedule(before, (*pending, path))
    mine = chain(student, path)
    ends = len(mine.ends)
    own = len(maps_behind(student.response(path)))
    for i, side in enumerate(mine.sides):
      others = maps_behind(side) - {path}
      if others & set(pending) or len(others) > own:
        ends = min(ends, i + 1)
        break
      for other in sorted(others, key=list(student.maps).index):
        yield from schedule(other, (*pending, path))
    # A tied map has no kernel of its own that could be fitted.
    if path in teacher.maps and leaf.format(path) in student.leaves:
      theirs = chain(teacher, path)
      ends = min(ends, len(theirs.ends))
      yield Part(path, mine.cut(ends), theirs.cut(ends))
    done.append(path)

  for path in student.maps:
    yield from schedule(path, ())


def blocks(student: MarkedProgram, order: Sequence[Part]) -> Iterator[tuple[Part, ...]]:
  """Yields the maps between a fork and the sum that the last of them aims at, where there are more.

  Args:
    student: The program.
    order: Its maps in the order in which they are fitted.
  """
  behind = _ancestors(student)
  since: list[Part] = []
  for part in order:
    since.append(part)
    if not part.student.sides:
      continue
    stream = frozenset.intersection(*(behind(side) for side in part.student.sides))
    before = stream & behind(student.seen_by(part.path))
    block = tuple(each for each in since if student.response(each.path) not in before)
    if len(block) > 1:
      yield block
    since = []


def _ancestors(program: MarkedProgram) -> Callable[[int], frozenset[int]]:
  found: dict[int, frozenset[int]] = {}
  for equation in program.equations:
    above = frozenset().union(*(found.get(value, {value}) for value in equation.reads))
    for value in equation.outputs:
      found[value] = above | {value}
  return lambda value: found.get(value, frozenset({value}))


def rows_per_input(shape: tuple[int, ...]) -> int:
  """Returns how many rows of channels a value [N, ..., C] has for each of N inputs."""
  return int(np.prod(shape[1:-1], dtype=int))

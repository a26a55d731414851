"""Memory and traffic of a program on an accelerator, estimated before it is compiled.

Compilers fuse what is computed element by element into what reads it. So what is written to memory
are the results of products, convolutions, reductions and the like, and of elementwise chains those
values that a product, a convolution or the caller needs as a whole, or that several read and that
would take more to compute again. Each of these is written once and read by every operation that
depends on it, directly or through a chain. A value takes memory
from where it is written to where it is last read.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import jax

WHOLE = frozenset(
  f"stablehlo.{name}"
  for name in (
    "convolution dot_general gather scatter sort select_and_scatter dynamic_update_slice "
    "rng_bit_generator custom_call fft triangular_solve cholesky all_reduce while case if"
  ).split()
)
"""Operations that read arrays from memory; what they read has to be there."""

FUSING = frozenset(f"stablehlo.{name}" for name in ("reduce", "reduce_window"))
"""Operations that write their result, and take in the chains that they read."""

VIEWS = frozenset(
  f"stablehlo.{name}" for name in "reshape transpose reverse optimization_barrier".split()
)
"""Operations that leave arrays where they are: what reads them reads in another order."""


@dataclasses.dataclass(frozen=True)
class Footprint:
  """What a program does to memory.

  Attributes:
    traffic: Bytes read and written.
    temporaries: Bytes of intermediate results, where they are most.
    loops: Number of loops; each counts once, not for every turn.
  """

  traffic: float
  temporaries: float
  loops: int


class _Value:
  """An array of a program.

  Attributes:
    size: Bytes.
    sources: The arrays in memory that it is computed from; itself if it is one.
    begin: When it is written, None for arguments and what is not in memory.
    end: When it is last read.
  """

  __slots__ = ("begin", "end", "size", "sources")

  def __init__(self, size: float, sources: frozenset[_Value] | None = None):
    self.size = size
    self.sources = frozenset((self,)) if sources is None else sources
    self.begin: int | None = None
    self.end = 0


class _Walk:
  """Goes through a program in its order, which is that of tracing: forward, then backward."""

  def __init__(self, module: Any):
    self.functions = {op.attributes["sym_name"].value: op for op in module.body.operations}
    self.traffic, self.loops, self.now = 0.0, 0, 0
    self.written: list[_Value] = []

  def run(self) -> Footprint:
    main = self.functions["main"]
    arguments = [_Value(_size(one.type)) for one in main.regions[0].blocks[0].arguments]
    results = self.block(main.regions[0].blocks[0], arguments)
    for value in results:
      self.store(value)
    # Results take the place of the state that was given.
    kept = {id(value) for value in results}
    return Footprint(self.traffic, self.peak(kept), self.loops)

  def block(self, block: Any, arguments: Sequence[_Value]) -> list[_Value]:
    """Walks through a block, and returns the values that it ends with."""
    known = dict(zip(block.arguments, arguments, strict=True))
    for op in block.operations:
      op = op.operation
      operands = [known[one] for one in op.operands]
      if op.name in ("func.return", "stablehlo.return"):
        return operands
      results = self.operation(op, operands)
      known.update(zip(op.results, results, strict=True))
    raise AssertionError("a block ends with a return")

  def operation(self, op: Any, operands: list[_Value]) -> list[_Value]:
    self.now += 1
    if op.name in ("func.call", "stablehlo.composite"):
      key = "callee" if op.name == "func.call" else "decomposition"
      called = self.functions[op.attributes[key].value]
      return self.block(called.regions[0].blocks[0], operands)
    if op.name in VIEWS:
      return operands
    sizes = [_size(result.type) for result in op.results]
    if op.name in WHOLE:
      for operand in operands:
        self.read(self.store(operand).sources)
      if op.name == "stablehlo.while":
        self.loops += 1
        self.block(op.regions[1].blocks[0], operands)
    elif op.name in FUSING:
      self.read(frozenset().union(*(operand.sources for operand in operands)))
    else:
      # A constant and what is made of constants alone has no sources.
      sources: frozenset[_Value] = frozenset().union(*(operand.sources for operand in operands))
      values = [_Value(size, sources) for size in sizes]
      for value, result in zip(values, op.results, strict=True):
        self.share(value, uses=sum(1 for _ in result.uses))
      return values
    return [self.write(_Value(size)) for size in sizes]

  def store(self, value: _Value) -> _Value:
    """Writes the result of a chain to memory, unless it is there or costs nothing to make."""
    if value.sources and value not in value.sources:
      self.read(value.sources)
      value.sources = frozenset((value,))
      self.write(value)
    return value

  def share(self, value: _Value, uses: int) -> None:
    """Stores a value that many read, if to compute it for each of them would move more bytes."""
    again = (uses - 1) * sum(source.size for source in value.sources)
    if uses > 1 and again > (uses + 1) * value.size:
      self.store(value)

  def write(self, value: _Value) -> _Value:
    self.traffic += value.size
    value.begin = value.end = self.now
    self.written.append(value)
    return value

  def read(self, values: frozenset[_Value]) -> None:
    for value in values:
      self.traffic += value.size
      value.end = self.now

  def peak(self, kept: set[int]) -> float:
    """Returns the most bytes that are needed at once, arguments and results aside."""
    changes: dict[int, float] = {}
    for value in self.written:
      if id(value) not in kept and value.begin is not None:
        changes[value.begin] = changes.get(value.begin, 0) + value.size
        changes[value.end + 1] = changes.get(value.end + 1, 0) - value.size
    now = most = 0.0
    for time in sorted(changes):
      now += changes[time]
      most = max(most, now)
    return most


def footprint(lowered: jax.stages.Lowered) -> Footprint:
  """Estimates what a program for one device does to its memory."""
  module: Any = lowered.compiler_ir("stablehlo")
  return _Walk(module).run()


def _size(kind: Any) -> float:
  """Returns the bytes of an array type."""
  text = str(kind)  # tensor<8x3xbf16>
  if not text.startswith("tensor<"):
    return 0.0
  *sides, dtype = text[len("tensor<") : -1].split(",")[0].split("x")
  bits = {"i1": 8, "index": 64}.get(dtype) or int("".join(filter(str.isdigit, dtype)) or 32)
  return math.prod(int(side) for side in sides) * bits / 8

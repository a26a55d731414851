"""A traced network on batches of inputs, evaluated piece by piece while its parameters change.

Of each batch only the values are kept that later equations need, so that all of a network's maps
together cost one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .shares import Shares
from .store import Store, Stored
from .traced import MarkedProgram, Operation, evaluate


class Execution:
  """A program on batches of inputs, evaluated as far as it was asked for.

  Attributes:
    program: The program.
    variables: Path -> array; may be changed between evaluations.
    known: The values that are kept of each batch.
  """

  def __init__(
    self,
    program: MarkedProgram,
    variables: Mapping[str, Any],
    inputs: Sequence[Any],
    shares: Shares,
    store: Store,
    compiled: dict[str, jax.stages.Compiled],
  ):
    """Starts with the inputs known.

    Args:
      program: Traced with a batch of all processes.
      variables: Path -> array.
      inputs: This process's rows of each batch, trees of arrays.
      shares: How they are split.
      store: Keeps what is evaluated; the inputs belong to the caller.
      compiled: Programs by what they are, which executions share: most of a network's blocks are
        alike.
    """
    self.program = program
    self.variables = {path: variables[path] for path in program.leaves}
    self._shares, self._store, self._compiled = shares, store, compiled
    self._kept: list[dict[int, Stored]] = []
    self.restart(inputs)

  def restart(self, inputs: Sequence[Any]) -> None:
    """Forgets all that was evaluated; only the inputs are known again, see `__init__`."""
    self.release()
    self._inputs = [
      dict(zip(self.program.inputs, jax.tree.leaves(batch), strict=True)) for batch in inputs
    ]
    self._kept = [{} for _ in inputs]
    self.known = frozenset(self.program.inputs)
    self._left = list(self.program.equations)

  def advance(self, targets: Sequence[int]) -> None:
    """Evaluates what makes `targets`, in every batch, and forgets what nothing needs any more."""
    dependent = self.program.dependent
    equations = self.program.needed(targets, self.has)
    done = {id(e) for e in equations if dependent.intersection(e.outputs)}
    self._left = [equation for equation in self._left if id(equation) not in done]
    needed = {value for equation in self._left for value in equation.reads}
    needed.update((self.program.output, *targets))
    made = {value for equation in equations for value in equation.outputs}
    new = sorted(made & dependent & needed)
    known = frozenset(self.known & needed | set(new))
    results = self.per_batch(equations, lambda env: evaluate(equations, env, new)) if new else None
    for inputs, kept in zip(self._inputs, self._kept, strict=True):
      values = next(results) if results else []
      for value in kept.keys() - known:
        self._store.drop(kept.pop(value))
      for value in inputs.keys() - known:
        del inputs[value]
      kept.update(zip(new, map(self._store.put, values), strict=True))
    self.known = known

  def missing(self, target: int, given: int | None = None) -> tuple[Operation, ...]:
    """Returns the equations that make `target` of `given` and of values that are known."""
    return self.program.needed([target], lambda value: value == given or self.has(value))

  def per_batch(
    self,
    equations: Sequence[Operation],
    function: Callable[..., Any],
    *more: Sequence[Any],
    reads: Sequence[int] = (),
  ) -> Iterator[Any]:
    """Yields this process's rows of function(env, ...) of every batch, compiled once.

    Args:
      equations: Those that the function evaluates.
      function: Gets the known values that these equations and `reads` need, by number, and the
        batch's element of each of `more`.
      *more: Further arguments, for each batch an array of this process's rows.
      reads: Values that the function reads besides.
    """
    shares = self._shares
    names, fixed, own = self._read(equations, reads)

    def run(fixed, values, arguments):
      env = dict(zip(names, (*fixed, *values), strict=True))
      return jax.tree.map(shares.constrained, function(env, *arguments))

    program = None
    for i in range(len(self._inputs)):
      arguments = fixed, self._values(i, own), [shares.put(each[i]) for each in more]
      program = program or self._program(run, *arguments)
      yield jax.tree.map(shares.fetched, program(*arguments))

  def summing(
    self,
    equations: Sequence[Operation],
    function: Callable[..., Any],
    *more: Sequence[Any],
    reads: Sequence[int] = (),
  ) -> Callable[[Any], Any]:
    """Returns given -> the sum of function(env, given, ...) over all batches, of all processes.

    Compiled once, for what is known now. `given` is a tree that every device has whole, as is the
    sum; all else is as for `per_batch`.
    """
    shares = self._shares
    names, fixed, own = self._read(equations, reads)
    program = None

    def total(given: Any) -> Any:
      nonlocal program
      leaves, tree = jax.tree.flatten(given)
      leaves, made = [shares.put_whole(leaf) for leaf in leaves], None

      def run(fixed, values, leaves, arguments):
        env = dict(zip(names, (*fixed, *values), strict=True))
        return jax.tree.map(
          shares.whole, function(env, jax.tree.unflatten(tree, leaves), *arguments)
        )

      for i in range(len(self._inputs)):
        arguments = fixed, self._values(i, own), leaves, [shares.put(each[i]) for each in more]
        program = program or self._program(run, *arguments)
        part = program(*arguments)
        made = part if made is None else jax.tree.map(jnp.add, made, part)
      return made

    return total

  def _read(
    self, equations: Sequence[Operation], reads: Sequence[int]
  ) -> tuple[list[int], list[Any], list[int]]:
    """Returns the values that are read, those on the devices, and which ones each batch has."""
    read = {value for equation in equations for value in equation.reads} | set(reads)
    own = sorted(read & self.known)
    leaves = {value: self.variables[path] for path, value in self.program.leaves.items()}
    given = {v: each for v, each in (self.program.constants | leaves).items() if v in read}
    return [*given, *own], [self._shares.put_whole(array) for array in given.values()], own

  def _program(self, run: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Returns a function compiled; blocks alike share what is compiled."""
    lowered = jax.jit(run).lower(*arguments)
    text = lowered.as_text()
    if text not in self._compiled:
      self._compiled[text] = lowered.compile()
    compiled = self._compiled[text]
    return lambda *given: jax.tree.unflatten(lowered.out_tree, jax.tree.leaves(compiled(*given)))

  def _values(self, batch: int, own: Sequence[int]) -> list[Any]:
    shapes = self.program.shapes
    return [self._shares.put_value(self._value(batch, v), shapes[v]) for v in own]

  def value(self, value: int) -> Sequence[np.ndarray]:
    """Returns this process's rows of a known value in every batch, read when they are asked for."""
    return _Batches(functools.partial(self._value, value=value), len(self._inputs))

  def _value(self, batch: int, value: int) -> np.ndarray:
    inputs = self._inputs[batch]
    return inputs[value] if value in inputs else self._store.get(self._kept[batch][value])

  def release(self) -> None:
    """Forgets all that was evaluated."""
    for kept in self._kept:
      for stored in kept.values():
        self._store.drop(stored)
      kept.clear()
    self.known = frozenset()

  def has(self, value: int) -> bool:
    """Whether a value is known, or does not depend on the input."""
    return value in self.known or (value not in self.program.dependent and self._given(value))

  def _given(self, value: int) -> bool:
    return value in self.program.constants or value in self._leaf_values

  @functools.cached_property
  def _leaf_values(self) -> frozenset[int]:
    return frozenset(self.program.leaves.values())


@dataclasses.dataclass(frozen=True)
class _Batches(Sequence[np.ndarray]):
  """What is read batch by batch."""

  read: Callable[[int], np.ndarray]
  batches: int

  def __len__(self) -> int:
    return self.batches

  def __getitem__(self, batch: Any) -> Any:
    return self.read(batch)

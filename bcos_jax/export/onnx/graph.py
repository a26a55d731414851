"""Graphs of ONNX under construction: values that know their sizes and the order of their axes.

Programs of JAX keep channels last and write every broadcast out; ONNX wants channels first and
broadcasts by itself. A `Tensor` therefore says in which order its axes are stored, and keeps length
1 where a broadcast is left open. Axes are turned, and broadcasts made, only for what needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
from typing import Any

import numpy as np

from ...errors import InputError

Dim = Any
"""Length of an axis: an int, or a symbolic dimension of `jax.export`."""

SMALL = 1024
"""Elements below which arrays are stored as often as they are needed in another order."""

DTYPES = ("float32", "int32", "int64", "bool", "uint8")
"""What values may be."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
  """A value of a graph, or an array that is known beforehand.

  Attributes:
    dims: Lengths in the order of the program; 1 where a broadcast is left open.
    dtype: Of its numbers.
    order: The i-th stored axis is axis order[i] of the program.
    name: In the graph; '' for arrays.
    array: What is known, in the order of the program.
  """

  dims: tuple[Dim, ...]
  dtype: str
  order: tuple[int, ...] = ()
  name: str = ""
  array: np.ndarray | None = None

  @property
  def zero(self) -> bool:
    """Whether it is known to be zero all over."""
    return self.array is not None and self.array.size == 1 and not self.array.any()

  @property
  def rank(self) -> int:
    """Number of axes."""
    return len(self.dims)

  def stored_axis(self, axis: int) -> int:
    """Returns where an axis of the program is stored."""
    return self.order.index(axis)


def known(array: Any) -> Tensor:
  """Returns an array as a tensor."""
  array = np.asarray(array)
  return Tensor(array.shape, array.dtype.name, tuple(range(array.ndim)), array=array)


def zero(rank: int, dtype: str) -> Tensor:
  """Returns zeros, all broadcasts left open."""
  return known(np.zeros((1,) * rank, dtype))


@dataclasses.dataclass(frozen=True)
class OnnxNode:
  """One operator of a graph."""

  operator: str
  inputs: tuple[str, ...]
  outputs: tuple[str, ...]
  attributes: Mapping[str, Any]


class OnnxGraph:
  """Collects nodes and initialisers; equal ones are made once.

  Attributes:
    nodes: In the order of computation.
    initialisers: Known arrays by name.
    symbols: A symbolic dimension -> (input, axis) that has it.
  """

  def __init__(self, symbols: Sequence[tuple[Dim, str, int]] = ()):
    self.nodes: list[OnnxNode] = []
    self.initialisers: dict[str, np.ndarray] = {}
    self.symbols = list(symbols)
    self._made: dict[Any, tuple[str, ...]] = {}
    self._turned: dict[str, tuple[str, tuple[int, ...]]] = {}

  def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
    """Adds an operator; returns the name of its output, or those of several."""
    key = (operator, inputs, outputs, tuple(sorted(attributes.items())))
    if key not in self._made:
      count = len(self.nodes)
      names = tuple(f"{operator}_{count}{f'_{i}' if i else ''}" for i in range(outputs))
      self.nodes.append(OnnxNode(operator, inputs, names, attributes))
      self._made[key] = names
    made = self._made[key]
    return made[0] if outputs == 1 else made

  def result(self, name: str, x: Tensor, dims: Sequence[Dim]) -> Tensor:
    """Gives a result its name and its shape, all broadcasts made; returns it."""
    dims = tuple(dims)
    made = self.stored(self.expanded(x, dims))
    self.nodes.append(OnnxNode("Identity", (made,), (name,), {}))
    return Tensor(dims, x.dtype, tuple(range(len(dims))), name)

  def initialiser(self, array: np.ndarray) -> str:
    """Returns the name of a known array."""
    name = self.initialiser_name(array)
    self.initialisers.setdefault(name, np.asarray(array, order="C"))
    return name

  @staticmethod
  def initialiser_name(array: np.ndarray) -> str:
    """Returns the name that an array has if it is in the graph."""
    digest = hashlib.blake2b(array.tobytes(), digest_size=12).hexdigest()
    return f"{array.dtype}_{'x'.join(map(str, array.shape))}_{digest}"

  def integers(self, *numbers: int) -> str:
    """Returns the name of a vector of int64."""
    return self.initialiser(np.array(numbers, np.int64))

  def scalar(self, number: float, dtype: str) -> str:
    """Returns the name of a number."""
    return self.initialiser(np.array(number, dtype))

  # Axes.

  def stored(self, x: Tensor, order: Sequence[int] | None = None) -> str:
    """Returns the name of a tensor whose axes are stored in an order; None for the program's."""
    order = tuple(range(x.rank)) if order is None else tuple(order)
    if x.array is not None and x.array.size < SMALL:
      return self.initialiser(np.transpose(x.array, order))
    if x.array is not None:  # turned when it is loaded: forward and backward passes share weights
      return self.transposed(self.initialiser(x.array), order)
    if x.order == order:
      return x.name
    if [a for a in x.order if x.dims[a] != 1] == [a for a in order if x.dims[a] != 1]:
      return self.node("Reshape", x.name, self.shape([x.dims[a] for a in order], free=True))
    return self.transposed(x.name, [x.order.index(axis) for axis in order])

  def transposed(self, name: str, permutation: Sequence[int]) -> str:
    """Returns the name of a stored array with its axes permuted; turns of turns are one."""
    source, before = self._turned.get(name, (name, tuple(range(len(permutation)))))
    total = tuple(before[i] for i in permutation)
    if total == tuple(range(len(total))):
      return source
    made = self.node("Transpose", source, perm=total)
    self._turned[made] = (source, total)
    return made

  def reshaped(self, name: str, dims: Sequence[Dim]) -> str:
    """Returns the name of a stored array in another shape."""
    return self.node("Reshape", name, self.shape(dims, free=True))

  def expanded(self, x: Tensor, dims: Sequence[Dim]) -> Tensor:
    """Returns a tensor with its open broadcasts made; dims has 1 where they may stay open."""
    dims = tuple(dims)
    if x.dims == dims:
      return x
    if x.array is not None and all(isinstance(dim, int) for dim in dims):
      return known(np.broadcast_to(x.array, dims))
    name = self.stored(x, x.order)
    made = self.node("Expand", name, self.shape([dims[axis] for axis in x.order]))
    return Tensor(dims, x.dtype, x.order, made)

  def shape(self, dims: Sequence[Dim], free: bool = False) -> str:
    """Returns the name of a vector of lengths; `free` lets Reshape find one that is no number."""
    if all(isinstance(dim, int) for dim in dims):
      return self.integers(*dims)
    if free and sum(not isinstance(dim, int) for dim in dims) == 1:
      return self.integers(*(dim if isinstance(dim, int) else -1 for dim in dims))
    return self.node("Concat", *(self.length(dim) for dim in dims), axis=0)

  def length(self, dim: Dim) -> str:
    """Returns the name of a vector of one length."""
    if isinstance(dim, int):
      return self.integers(dim)
    for symbol, name, axis in self.symbols:
      if symbol == dim:
        return self.node("Shape", name, start=axis, end=axis + 1)
    raise InputError(
      f"An axis has the length {dim}, which the graph cannot compute while it is free.",
      "Export for a fixed number of inputs: --batch=1.",
    )


def check_dtype(dtype: Any, where: str) -> str:
  """Returns the name of a dtype that graphs may hold.

  Raises:
    InputError: There is no such precision in the graphs written here.
  """
  name = np.dtype(dtype).name
  if name not in DTYPES:
    raise InputError(
      f"{where} computes in {name}, which cannot be exported to ONNX.",
      f"Known: {', '.join(DTYPES)}; or export it to StableHLO: --to=stablehlo.",
    )
  return name


def pruned(nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> list[OnnxNode]:
  """Returns the nodes that some outputs need."""
  needed, kept = set(outputs), []
  for node in reversed(nodes):
    if needed.intersection(node.outputs):
      kept.append(node)
      needed.update(node.inputs)
  return kept[::-1]

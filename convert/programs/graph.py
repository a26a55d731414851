"""Graphs of operators, from the JSON of an exported program: names, arguments, places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.program import Place

from .archive import dtype_of
from .operators import rule_of, writes


@dataclasses.dataclass(frozen=True)
class Reference:
  """A value by its name."""

  name: str


@dataclasses.dataclass(frozen=True)
class TensorSpec:
  """What a program says of a value.

  Attributes:
    shape: Its shape; None for what depends on the input, such as the batch.
    dtype: Its dtype.
  """

  shape: tuple[int | None, ...]
  dtype: np.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
  """One operator.

  Attributes:
    target: Its name, 'aten.conv2d.default'.
    arguments: Arguments by position: references, lists of them, numbers, dtypes, graphs, None.
    keywords: Arguments by name.
    results: Names of its results; a list of names where it returns a list.
    place: Module and line that it comes from.
  """

  target: str
  arguments: tuple[Any, ...]
  keywords: Mapping[str, Any]
  results: tuple[Any, ...]
  place: Place

  def __str__(self) -> str:
    return f"{self.target} at {self.place}"

  def references(self) -> Iterator[str]:
    """Yields the names of the values that it uses."""
    yield from _references([*self.arguments, *self.keywords.values()])


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
  """Operators in the order of their evaluation.

  Attributes:
    inputs: Names of its arguments.
    nodes: The operators; none of them writes into what another one reads.
    outputs: Its results, references or constants.
    described: What is known of its values.
    written: Arguments that it writes into.
  """

  inputs: tuple[str, ...]
  nodes: tuple[Node, ...]
  outputs: tuple[Any, ...]
  described: Mapping[str, TensorSpec]
  written: frozenset[str]


class Unsupported(InputError):
  """A program that is read only after it was decomposed by PyTorch."""


DECOMPOSE = "Decompose it before it is saved: program.run_decompositions()."


def parse_graph(
  graph: Mapping[str, Any], wanted: Sequence[int] | None = None, inside: bool = False
) -> Graph:
  """Returns a graph of its JSON, without the operators that its results do not need.

  Args:
    graph: The JSON.
    wanted: Which of its results; None for all.
    inside: Whether it is called by another graph, whose values it must not write into.

  Raises:
    Unsupported: An operator has no rule, or writes into what others see.
    InputError: Arguments that arrays cannot have.
  """
  inputs = tuple(getattr(_argument(each), "name", "") for each in graph["inputs"])
  outputs = [_argument(output) for output in graph["outputs"]]
  outputs = outputs if wanted is None else [outputs[i] for i in wanted]
  nodes, outputs, written = _without_writing([_node(node) for node in graph["nodes"]], outputs)
  written = written.intersection(inputs)
  if inside and written:
    raise Unsupported(f"An inner graph writes into its argument {min(written)}.", DECOMPOSE)
  nodes = _needed(nodes, outputs)
  _check_defined(inputs, nodes, outputs)
  _check_rules(nodes)
  _check_shapes(nodes, graph["tensor_values"])
  described = {
    name: TensorSpec(
      tuple(length.get("as_int") for length in meta["sizes"]), dtype_of(meta["dtype"], name)
    )
    for name, meta in graph["tensor_values"].items()
  }
  return Graph(inputs, nodes, tuple(outputs), described, frozenset(written))


def check_graph(graph: Graph) -> None:
  """Checks a graph that was written by this package, and those inside it.

  Raises:
    ValueError: A value is used that nothing makes.
    Unsupported: An operator has no rule.
  """
  _check_defined(graph.inputs, graph.nodes, list(graph.outputs))
  _check_rules(graph.nodes)
  for node in graph.nodes:
    _check_inner([*node.arguments, *node.keywords.values()])


def _check_inner(value: Any) -> None:
  if isinstance(value, Graph):
    check_graph(value)
  elif isinstance(value, list):
    for each in value:
      _check_inner(each)


def _check_defined(inputs: Sequence[str], nodes: Sequence[Node], outputs: list[Any]) -> None:
  known = set(inputs)
  for node in nodes:
    if unknown := set(node.references()) - known:
      raise ValueError(f"{node} uses {min(unknown)}, which nothing makes")
    known.update(flat_names(node.results))
  if unknown := set(_references(outputs)) - known:
    raise ValueError(f"nothing makes the output {min(unknown)}")


def _needed(nodes: Sequence[Node], outputs: list[Any]) -> tuple[Node, ...]:
  """Returns the nodes without which there are no outputs."""
  needed = set(_references(outputs))
  kept = []
  for node in reversed(nodes):
    if needed.intersection(flat_names(node.results)):
      kept.append(node)
      needed.update(node.references())
  return tuple(reversed(kept))


def _node(node: Mapping[str, Any]) -> Node:
  given = [(argument, _argument(argument["arg"])) for argument in node["inputs"]]
  positional = tuple(value for argument, value in given if argument["kind"] == _POSITIONAL)
  keywords = {a["name"]: value for a, value in given if a["kind"] != _POSITIONAL}
  return Node(
    target=node["target"].removeprefix("torch.ops."),
    arguments=positional,
    keywords=keywords,
    results=tuple(_names(_argument(output)) for output in node["outputs"]),
    place=_place(node["metadata"]),
  )


_POSITIONAL = 1


def _names(result: Any) -> Any:
  if isinstance(result, list):
    return [_names(each) for each in result]
  return result.name if isinstance(result, Reference) else None


def _argument(argument: Mapping[str, Any]) -> Any:
  ((kind, value),) = argument.items()
  return _KINDS[kind](value) if kind in _KINDS else _unknown(kind, value)


def _unknown(kind: str, value: Any) -> Any:
  raise InputError(
    f"The program has an argument of the kind {kind.removeprefix('as_')!r}, {str(value)[:60]}.",
    "Export a network of tensors and numbers, without custom objects and complex numbers.",
  )


def _several(read: Callable[[Any], Any]) -> Callable[[Any], list]:
  return lambda values: [read(value) for value in values]


def _reference(value: Mapping[str, str]) -> Reference:
  return Reference(value["name"])


def _symbol(value: Mapping[str, Any]) -> Any:
  ((kind, known),) = value.items()
  return Reference(known) if kind == "as_name" else known


_KINDS: dict[str, Callable[[Any], Any]] = {
  **dict.fromkeys(("as_none", "as_layout", "as_device", "as_memory_format"), lambda _: None),
  **dict.fromkeys(
    ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings", "as_int_lists"),
    lambda value: value,
  ),
  "as_float": float,  # also of 'Infinity'
  "as_floats": _several(float),
  "as_tensor": _reference,
  "as_tensors": _several(_reference),
  "as_optional_tensor": _argument,
  "as_optional_tensors": _several(_argument),
  **dict.fromkeys(("as_sym_int", "as_sym_float", "as_sym_bool"), _symbol),
  **dict.fromkeys(("as_sym_ints", "as_sym_floats", "as_sym_bools"), _several(_symbol)),
  "as_scalar_type": lambda number: dtype_of(number, "An argument"),
  "as_graph": lambda value: parse_graph(value["graph"], inside=True),
}


_SEPARATOR = re.compile(r"[/\\]")
_FRAME = re.compile(r'File "([^"]*)", line (\d+)')


def _place(metadata: Mapping[str, str]) -> Place:
  """Returns the innermost module, and the innermost line that is not PyTorch's own."""
  entries = [entry.split(",", 1)[-1] for entry in metadata.get("nn_module_stack", "").split(";")]
  path = entries[-1].rpartition(",")[0].partition("@")[0]
  frames = _FRAME.findall(metadata.get("stack_trace", ""))
  own = [frame for frame in frames if "/torch/" not in frame[0]] or frames
  line = ":".join((_SEPARATOR.split(own[-1][0])[-1], own[-1][1])) if own else ""
  return Place("" if path.startswith("_empty_nn_module") else path, line)


def _check_rules(nodes: Sequence[Node]) -> None:
  """Raises Unsupported for operators without a rule: all of them, by where they first occur."""
  missing: dict[str, Node] = {}
  for node in nodes:
    if rule_of(node.target) is None:
      missing.setdefault(node.target, node)
  if missing:
    first, *others = missing
    more = f" Nor have {', '.join(others)}." if others else ""
    raise Unsupported(
      f"The operator {first} at {missing[first].place} has no rule.{more}",
      f"Give it one, @bcos_jax.convert.operator({first!r}). Or: {DECOMPOSE}",
    )


_UNBACKED = re.compile(r"\bu\d+\b")  # what torch.export calls lengths that depend on values


def _check_shapes(nodes: Sequence[Node], values: Mapping[str, Any]) -> None:
  """Raises InputError for a tensor whose shape depends on the values of others."""
  for node in nodes:
    for name in flat_names(node.results):
      sizes = values[name]["sizes"] if name in values else ()
      if any(_UNBACKED.search(n["as_expr"]["expr_str"]) for n in sizes if "as_expr" in n):
        raise InputError(
          f"{node} makes a tensor whose shape depends on values.",
          "Programs with such shapes cannot be compiled: select by torch.where, or change the "
          "network there.",
        )


_VIEWS = frozenset(
  f"aten.{name}"
  for name in (
    *("alias", "as_strided", "chunk", "contiguous", "detach", "diagonal", "dropout", "expand"),
    *("expand_as", "flatten", "lift_fresh", "movedim", "narrow", "numpy_T", "permute", "reshape"),
    *("reshape_as", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "t"),
    *("to", "transpose", "type_as", "unbind", "unflatten", "unfold", "unsqueeze", "view"),
    "view_as",
  )
)
"""Operators whose results are, or may be, views of their first argument."""


def _without_writing(
  nodes: Sequence[Node], outputs: list[Any]
) -> tuple[list[Node], list[Any], set[str]]:
  """Returns nodes that make new values where these write into old ones.

  Returns:
    The nodes; the outputs; the names of all tensors of which a part was written.

  Raises:
    Unsupported: What is written into is seen through another view later.
  """
  last = {name: i for i, node in enumerate(nodes) for name in node.references()}
  last |= dict.fromkeys(_references(outputs), len(nodes))
  tensor: dict[str, str] = {}  # name -> that of the same tensor, which was written
  newest: dict[str, Reference] = {}
  storage: dict[str, str] = {}  # name -> that of the first view of its numbers
  made, written = [], set()
  for i, node in enumerate(nodes):
    now = {name: newest[same] for name, same in tensor.items()}
    made.append(
      dataclasses.replace(
        node,
        arguments=tuple(_renamed(list(node.arguments), now)),
        keywords={key: _renamed(value, now) for key, value in node.keywords.items()},
      )
    )
    if not writes(node.target) and node.target.rpartition(".")[0] not in _VIEWS:
      continue
    seen = node.arguments[0].name
    root = storage.setdefault(seen, seen)
    storage.update(dict.fromkeys(flat_names(node.results), root))
    if writes(node.target):
      (result,) = node.results
      same = tensor.setdefault(seen, seen)
      tensor[result] = same
      newest[same] = Reference(result)
      views = [name for name, first in storage.items() if first == root]
      written.update(views)
      for name in views:
        if tensor.get(name) != same and last.get(name, -1) > i:
          raise Unsupported(
            f"{node} writes into a tensor that is read through another view later ({name}).",
            DECOMPOSE,
          )
  return made, _renamed(outputs, {name: newest[same] for name, same in tensor.items()}), written


def _references(value: Any) -> Iterator[str]:
  if isinstance(value, Reference):
    yield value.name
  elif isinstance(value, list):
    for each in value:
      yield from _references(each)


def flat_names(results: Sequence[Any]) -> list[str]:
  """Returns the names of results, those in lists included."""
  return [
    n for each in results for n in (flat_names(each) if isinstance(each, list) else [each]) if n
  ]


def _renamed(value: Any, names: Mapping[str, Reference]) -> Any:
  if isinstance(value, Reference):
    return names.get(value.name, value)
  return [_renamed(each, names) for each in value] if isinstance(value, list) else value

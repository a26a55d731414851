"""From what an archive holds to a function and its variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import json
from typing import Any

import jax.numpy as jnp
import numpy as np

from bcos_jax.errors import InputError

from .archive import IN_MEMORY, ArchiveContents
from .function import TorchFunction
from .graph import Graph, TensorSpec, parse_graph

_STORED = {
  "parameter": "parameter_name",
  "buffer": "buffer_name",
  "tensor_constant": "tensor_constant_name",
}
"""Kinds of the graph's arguments that are stored, and what holds their names."""


def read_function(contents: ArchiveContents) -> tuple[TorchFunction, dict[str, np.ndarray]]:
  """Returns an exported program as a function, and its variables; see `from_torch`.

  Raises:
    InputError: It is incomplete, or not what a pure function of arrays can be.
  """
  try:
    return _function(contents)
  except InputError as error:
    if contents.name == IN_MEMORY:
      raise
    raise type(error)(f"{contents.name}: {error.cause}", error.fix) from error
  except (AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
    raise InputError(
      f"{contents.name} is not a complete exported program: {type(error).__name__} {error}.",
      "Save it again with torch.export.save.",
    ) from error


def _function(contents: ArchiveContents) -> tuple[TorchFunction, dict[str, np.ndarray]]:
  module = contents.program["graph_module"]
  signature = module["signature"]
  kinds = [_only(each) for each in signature["output_specs"]]
  returned = [i for i, (kind, _) in enumerate(kinds) if kind == "user_output"]
  graph = parse_graph(module["graph"], returned)
  inputs = [_only(each) for each in signature["input_specs"]]
  _check_state(graph, inputs, [spec for kind, spec in kinds if kind == "buffer_mutation"])
  names = _first_names(contents)
  stored = {**contents.weights.tensors, **contents.constants.tensors}
  variables = {
    key: array
    for key, array in contents.weights.tensors.items()
    if names[key] == key and jnp.issubdtype(array.dtype, jnp.floating)
  }
  own = {  # argument of the graph -> the module's name
    spec["arg"]["name"]: spec[_STORED[kind]] for kind, spec in inputs if kind in _STORED
  }
  trained = [names[spec["parameter_name"]] for kind, spec in inputs if kind == "parameter"]
  function = TorchFunction(
    graph=graph,
    bound={a: names[name] for a, name in own.items() if names.get(name) in variables},
    constants={a: stored[name] for a, name in own.items() if names.get(name) not in variables},
    arguments=tuple(_tensor_input(spec) for kind, spec in inputs if kind == "user_input"),
    structure=_structure(module, graph),
    state={
      key: names[key] if names[key] in variables else array
      for key, array in contents.weights.tensors.items()
    },
    described={key: TensorSpec(array.shape, array.dtype) for key, array in variables.items()},
    parameters=frozenset(variables.keys() & set(trained)),
  )
  return function, variables


def _only(union: Mapping[str, Any]) -> tuple[str, Any]:
  """Returns kind and value of a union, {kind: value}."""
  ((kind, value),) = union.items()
  return kind, value


def _first_names(contents: ArchiveContents) -> dict[str, str]:
  """Returns the first name of the tensor that each name of the weights stands for."""
  first: dict[Any, str] = {}
  return {key: first.setdefault(place, key) for key, place in contents.weights.places.items()}


def _tensor_input(spec: Mapping[str, Any]) -> str:
  kind, value = _only(spec["arg"])
  if kind != "as_tensor":
    raise InputError(
      f"An input of the network is no tensor but a {kind.removeprefix('as_')}.",
      "Export a module whose inputs are tensors.",
    )
  return value["name"]


def _check_state(graph: Graph, inputs: list[tuple[str, Any]], mutations: list[Any]) -> None:
  """Raises InputError where results depend on state that calls change.

  Norms of training mode update running statistics that their own results do not depend on.
  """
  buffers = {spec["buffer_name"]: spec["arg"]["name"] for k, spec in inputs if k == "buffer"}
  changed = graph.written | {buffers[spec["buffer_name"]] for spec in mutations}
  for node in graph.nodes:
    seen = changed.intersection(node.references(), buffers.values())
    if seen and "batch_norm" not in node.target:
      buffer = next(name for name, argument in buffers.items() if argument in seen)
      raise InputError(
        f"The result depends on the buffer {buffer!r}, which calls change ({node}).",
        "Export the network in evaluation mode, without a cache or counter.",
      )


def _structure(module: Mapping[str, Any], graph: Graph) -> Any:
  """Returns the structure of the outputs, for `function.built`; None for a single array."""
  if len(graph.outputs) == 1:
    return None
  signature = module["module_call_graph"][0]["signature"]
  _, spec = json.loads(signature["out_spec"])
  outputs = iter(graph.outputs)
  return _built(spec, outputs)


def _built(spec: Mapping[str, Any], outputs: Iterator[Any]) -> Any:
  if spec["type"] is None:
    return None if next(outputs) is not None else ()  # what is no tensor is left out
  children = [_built(child, outputs) for child in spec["children_spec"]]
  context = json.loads(spec["context"]) if spec["context"] else None
  if isinstance(context, list) and len(context) == len(children):  # a dict, or an object of fields
    return dict(zip(context, children, strict=True))
  return children if spec["type"] == "builtins.list" else tuple(children)

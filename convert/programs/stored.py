"""Programs as text: what bundles keep of a network of PyTorch, beside its variables.

The text is the graph of operators, by the names of ATen, as compressed JSON. It is data: reading it
evaluates nothing, and only operators that have a rule can be named.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
import dataclasses
import json
from typing import Any
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import DAMAGED
from bcos_jax.program import Place, factory

from .function import TorchFunction
from .graph import Graph, Node, Reference, TensorSpec, check_graph

FACTORY = "bcos_jax.convert:torch_program"
_FORMAT = 1
_MOST_BYTES = 512_000_000
_FUNCTION = "bound", "constants", "arguments", "structure", "state", "described", "parameters"


def packed(function: TorchFunction) -> str:
  """Returns a function as text; its variables are not in it."""
  about = {name: _plain(getattr(function, name)) for name in _FUNCTION}
  about |= {"format": _FORMAT, "graph": _plain(function.graph)}
  text = json.dumps(about, separators=(",", ":"), sort_keys=True)
  return base64.b85encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str) -> TorchFunction:
  """Returns the function of a text.

  Raises:
    InputError: The text is damaged or of a later format, or names an operator without a rule.
  """
  try:
    about = json.loads(_decompressed(base64.b85decode(text)))
    if about.pop("format") != _FORMAT:
      raise InputError("The network's program is of a later format.", "Update bcos_jax.")
    function = TorchFunction(**{name: _read(value) for name, value in about.items()})
    _check(function)
  except InputError:
    raise
  except Exception as error:  # damaged text raises any Python exception
    what = " ".join(str(error).split()) or type(error).__name__
    raise InputError(f"The network's program cannot be read: {what}.", DAMAGED) from error
  return function


def _check(function: TorchFunction) -> None:
  """Raises ValueError, or what damaged values raise, unless all names of a function are known."""
  graph = function.graph
  inputs = {*function.arguments, *function.bound, *function.constants}
  if len(function.arguments) < 1 or not inputs <= {*graph.inputs}:
    raise ValueError("it has arguments that are none of its graph")
  kept = {own for own in function.state.values() if isinstance(own, str)}
  if not {*function.bound.values(), *kept, *function.parameters} <= function.described.keys():
    raise ValueError("it uses variables that are not described")
  for spec in (*graph.described.values(), *function.described.values()):
    if not isinstance(spec, TensorSpec):
      raise ValueError(f"{spec!r:.40} describes no tensor")
  if any(name not in graph.described for name in function.arguments):
    raise ValueError("its inputs are not described")
  check_graph(graph)


def _decompressed(data: bytes) -> bytes:
  reader = zlib.decompressobj()
  found = reader.decompress(data, _MOST_BYTES)
  if not reader.eof:
    raise ValueError(f"it is incomplete, or has more than {_MOST_BYTES} bytes")
  return found


def _plain(value: Any) -> Any:
  """Returns a value as what JSON has; an object is {"@kind": contents}."""
  if isinstance(value, Reference):
    return {"@of": value.name}
  if isinstance(value, np.dtype):
    return {"@dtype": value.name}
  if isinstance(value, np.ndarray):
    numbers = base64.b85encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"@array": [value.dtype.name, list(value.shape), numbers]}
  if isinstance(value, TensorSpec):
    return {"@spec": [value.dtype.name, list(value.shape)]}
  if isinstance(value, Place):
    return {"@place": [value.modules, value.line]}
  if isinstance(value, Graph | Node):
    fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return {f"@{type(value).__name__.lower()}": fields}
  if isinstance(value, tuple | frozenset):
    items = sorted(value) if isinstance(value, frozenset) else value
    return {f"@{type(value).__name__}": [_plain(each) for each in items]}
  if isinstance(value, list):
    return [_plain(each) for each in value]
  if isinstance(value, Mapping):
    return {"@dict": [[key, _plain(each)] for key, each in value.items()]}
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise TypeError(f"{value!r:.60} of the program is a {type(value).__name__}")


def _read(value: Any) -> Any:
  if isinstance(value, list):
    return [_read(each) for each in value]
  if isinstance(value, dict):
    ((kind, contents),) = value.items()
    return _READERS[kind](contents)
  return value


def _fields(contents: Mapping[str, Any]) -> dict[str, Any]:
  return {name: _read(value) for name, value in contents.items()}


_READERS = {
  "@of": Reference,
  "@dtype": jnp.dtype,  # which knows bfloat16
  "@array": lambda of: np.frombuffer(base64.b85decode(of[2]), jnp.dtype(of[0])).reshape(of[1]),
  "@spec": lambda of: TensorSpec(tuple(of[1]), jnp.dtype(of[0])),
  "@place": lambda of: Place(*of),
  "@graph": lambda of: Graph(**_fields(of)),
  "@node": lambda of: Node(**_fields(of)),
  "@tuple": lambda of: tuple(_read(each) for each in of),
  "@frozenset": frozenset,
  "@dict": lambda of: {key: _read(each) for key, each in of},
}


def torch_program(program: str) -> tuple[TorchFunction, dict[str, jax.ShapeDtypeStruct]]:
  """Returns the network of a bundle, and shapes for its variables, which the bundle has."""
  function = unpacked(program)
  described = function.described.items()
  return function, {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in described}


factory(torch_program, name=FACTORY)

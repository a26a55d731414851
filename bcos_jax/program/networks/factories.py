"""Networks that an importable factory builds, without their variables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import functools
import importlib
import json
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from ...errors import InputError
from ..faces import function_of, trained_leaves
from ..program import path_name
from ..rules import is_float

Array = jax.Array

COLLECTIONS = ("params", "batch_stats")
"""Where variables are kept: those that are trained, and other floating-point numbers."""


EXTENSIONS = ("negated", "exponents")
"""Where what B-cosification adds is kept, among the trained ones."""


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
  """What a factory builds, without its variables.

  Attributes:
    function: (variables, inputs) -> outputs.
    structure: Of the variables.
    shapes: Of their leaves.
    paths: Names of the leaves, collections of Linen left out.
    trained: Of each leaf, whether it is trained.
    fixed: Position -> leaf that is no floating-point number.
  """

  function: Callable[[Any, Array], Any]
  structure: Any
  shapes: tuple[jax.ShapeDtypeStruct, ...]
  paths: tuple[str, ...]
  trained: tuple[bool, ...]
  fixed: Mapping[int, Any]

  def check(self, tree: Any) -> None:
    """Raises InputError unless variables have the structure and shapes of those that are built."""
    if jax.tree.structure(tree) != self.structure:
      raise InputError(
        f"The variables have the structure {jax.tree.structure(tree)!s:.120}, expected "
        f"{self.structure!s:.120}.",
        "Pass variables as the factory returns them.",
      )
    for path, wanted, leaf in zip(self.paths, self.shapes, jax.tree.leaves(tree), strict=True):
      if jnp.shape(leaf) != wanted.shape:
        raise InputError(
          f"{path} has shape {jnp.shape(leaf)}, expected {wanted.shape}.",
          "Pass variables of the network that the factory builds.",
        )

  def tops(self) -> dict[str, list[str]]:
    """Returns the first parts of the names of trained and of other variables."""
    return {c: sorted({path.split("/")[0] for path in self._names(c)}) for c in COLLECTIONS}

  def _names(self, collection: str) -> list[str]:
    wanted = collection == "params"
    pairs = enumerate(zip(self.paths, self.trained, strict=True))
    return [path for i, (path, trained) in pairs if trained == wanted and i not in self.fixed]

  def split(self, tree: Any) -> dict[str, dict[str, Any]]:
    """Returns trained and other variables by path."""
    leaves = dict(zip(self.paths, jax.tree.leaves(tree), strict=True))
    return {c: {path: leaves[path] for path in self._names(c)} for c in COLLECTIONS}

  def joined(self, flat: Mapping[str, Any]) -> Any:
    """Returns the tree of leaves by path."""
    leaves = [self.fixed.get(i, flat.get(path)) for i, path in enumerate(self.paths)]
    return self.structure.unflatten(leaves)


@runtime_checkable
class Recorded(Protocol):
  """A function that says how it is built again, such as those of `convert.from_torch`."""

  @property
  def example(self) -> tuple[int | None, ...]:
    """Shape of one input, without the batch; None for a length that is free."""
    ...

  @property
  def dtype(self) -> Any:
    """Of the inputs."""
    ...

  @property
  def channel_axis(self) -> int:
    """Axis of the channels of inputs [N, ...]."""
    ...

  @property
  def parameters(self) -> Collection[str]:
    """Names of the variables that are trained."""
    ...

  def recipe(self) -> tuple[str, dict[str, Any]]:
    """Returns the name of the factory that builds it, and its arguments."""
    ...

  def with_classes(self, count: int, example: tuple[int, ...]) -> Recorded:
    """Returns the function with a head of so many classes, for inputs [N, *example]."""
    ...


Factory = Callable[..., Any]
_FACTORIES: dict[str, Factory] = {}
OWN_MODULES = ("bcos_jax.convert",)
"""Modules of this package that have factories."""


def factory(function: Factory, *, name: str = "") -> Factory:
  """Makes a function known as one that builds networks: bundles call no other.

  A decorator. The function has plain arguments, and returns a network that has its variables
  inside; or (network, variables); or (network, variables, arguments of the call). Variables may be
  shapes, `jax.ShapeDtypeStruct`, where they come from elsewhere, such as a bundle. Its name in
  `as_network` and in bundles is 'module:function', or the name that is given.
  """
  _FACTORIES[name or f"{function.__module__}:{function.__qualname__}"] = function
  return function


def known_factory(name: str) -> Factory:
  """Returns a factory by name; this package's own modules are imported for it.

  Raises:
    InputError: None of that name is known.
  """
  module, _, function = name.partition(":")
  if name not in _FACTORIES and module in OWN_MODULES:
    importlib.import_module(module)
  if name not in _FACTORIES:
    raise InputError(
      f"The network is built by {name!r}, which is not known: {function or 'it'!r} is not imported "
      "from there, or not marked as a factory.",
      f"Mark it with @bcos_jax.program.factory, and import {module!r} first; commands take "
      f"--import={module}.",
    )
  return _FACTORIES[name]


def called(name: str, arguments: str) -> tuple[Callable, Any]:
  """Returns a new network as a function, and its variables."""
  return _called(known_factory(name), arguments)


def _called(function: Factory, arguments: str) -> tuple[Callable, Any]:
  try:
    made = function(**json.loads(arguments))
  except TypeError as error:  # arguments that the factory does not take
    raise InputError(
      f"{function.__qualname__}({arguments:.80}) cannot be built: {error}.",
      "Give the arguments that it takes, as a dict of plain values.",
    ) from error
  model, variables, options = (*made, {})[:3] if isinstance(made, tuple) else (made, None, {})
  return function_of(model, variables, **options)


def built_by(name: str, arguments: str) -> Built:
  """Returns what a factory builds, from memory if it was asked before."""
  return _built(known_factory(name), arguments)


@functools.lru_cache(maxsize=16)
def _built(factory: Factory, arguments: str) -> Built:
  with jax.ensure_compile_time_eval():
    function, tree = _called(factory, arguments)
  found, structure = jax.tree_util.tree_flatten_with_path(tree)
  shapes = jax.ShapeDtypeStruct
  leaves = [leaf if isinstance(leaf, shapes) else jnp.asarray(leaf) for _, leaf in found]
  paths = tuple(path_name(path) for path, _ in found)
  recorded = isinstance(function, Recorded)
  if not recorded and isinstance(tree, Mapping) and "params" in tree:
    paths = tuple(path.partition("/")[2] for path in paths)
  floats = [is_float(leaf.dtype) for leaf in leaves]
  kinds = _trained(function, tree, paths)
  _check_paths(factory.__qualname__, paths)
  return Built(
    function,
    structure,
    tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves),
    paths,
    tuple(kind and is_float for kind, is_float in zip(kinds, floats, strict=True)),
    {i: leaf for i, leaf in enumerate(leaves) if not floats[i]},
  )


def _trained(function: Any, tree: Any, paths: Sequence[str]) -> list[bool]:
  if isinstance(function, Recorded):
    return [path in function.parameters for path in paths]
  return trained_leaves(tree)


def _check_paths(factory: str, paths: tuple[str, ...]) -> None:
  if taken := sorted({path.split("/")[0] for path in paths} & {*EXTENSIONS}):
    raise InputError(
      f"The network of {factory!r} has a variable {taken[0]!r}.",
      "Give it another name: this one is of what B-cosification adds.",
    )
  whole = set(paths)
  clash = next((p for p in paths if any(p.startswith(f"{o}/") for o in whole)), None)
  if len(whole) < len(paths) or clash:
    raise InputError(
      f"The network of {factory!r} has variables of one name: {clash or 'some'} is twice there.",
      "Give each variable a name of its own.",
    )

"""Exported networks as pure functions of variables and inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.errors import InputError

from .graph import Graph, Node, Reference, TensorSpec
from .operators import operator, rule_of

Variables = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class TorchFunction:
  """A network of PyTorch: `function(variables, *inputs)`, a pure function of JAX.

  Attributes:
    graph: Its operators.
    bound: Argument of the graph -> name of the variable.
    constants: Argument of the graph -> what it always is: integer tensors, buffers that are not
      saved, constants.
    arguments: Arguments of the graph that are inputs, in the order of the call.
    structure: Of the outputs, see `built`.
    state: Name in the state dict -> name of the variable, or the tensor itself where it is none.
    described: Name of each variable -> its shape and dtype.
    parameters: Names of the variables that the module trains; the others are buffers.
  """

  graph: Graph
  bound: Mapping[str, str]
  constants: Mapping[str, np.ndarray]
  arguments: tuple[str, ...]
  structure: Any
  state: Mapping[str, str | np.ndarray]
  described: Mapping[str, TensorSpec]
  parameters: frozenset[str]

  def __call__(self, variables: Variables, *inputs: Any) -> Any:
    """Returns the outputs, as the network returns them; a single array by itself.

    Args:
      variables: Name of the parameter or buffer -> array.
      *inputs: Arrays [N, ...] in PyTorch's layouts, pictures [N, C, H, W].

    Raises:
      InputError: Variables or inputs that do not fit, or an operator that needs to know their
        values beforehand.
    """
    inputs = tuple(map(jnp.asarray, inputs))
    self._check(variables, inputs)
    inputs = tuple(map(self._cast, self.arguments, inputs))
    if not self.alone:
      return built(self.structure, iter(self._run(variables, inputs)))

    def one(*each: Any) -> list[Any]:
      return [jnp.asarray(leaf)[0] for leaf in self._run(variables, [x[None] for x in each])]

    return built(self.structure, iter(jax.vmap(one)(*inputs)))

  @property
  def channel_axis(self) -> int:
    """The axis of the input that has its channels: 1 for pictures [N, C, H, W], else the last."""
    return 1 if len(self.graph.described[self.arguments[0]].shape) >= 4 else -1

  @property
  def alone(self) -> bool:
    """Whether the network was exported for a batch of one: larger ones are mapped over."""
    return self.graph.described[self.arguments[0]].shape[:1] == (1,)

  @property
  def dtype(self) -> np.dtype:
    """Of the first input, as it was exported."""
    return self.graph.described[self.arguments[0]].dtype

  @property
  def example(self) -> tuple[int | None, ...]:
    """Shape of one input, without the batch; None for lengths that are free."""
    return self.graph.described[self.arguments[0]].shape[1:]

  def recipe(self) -> tuple[str, dict[str, str]]:
    """Returns the factory and its arguments by which bundles build the function again."""
    from .stored import FACTORY, packed

    return FACTORY, {"program": packed(self)}

  def with_classes(self, count: int, example: tuple[int, ...]) -> TorchFunction:
    """Returns the function with a head of so many classes; see `heads.with_classes`."""
    from .heads import with_classes

    return with_classes(self, count, example)

  def state_dict(self, variables: Variables) -> dict[str, np.ndarray]:
    """Returns variables as the module's state dict, with all its names and dtypes.

    Raises:
      InputError: They are not those of the network, or have other shapes.
    """
    self._check_variables(variables)
    for name, described in self.described.items():
      if np.shape(variables[name]) != described.shape:
        raise InputError(
          f"{name} has shape {np.shape(variables[name])}, the module's has {described.shape}.",
          "A state dict can be written only where shapes are unchanged.",
        )
    made = {}
    for key, own in self.state.items():
      if isinstance(own, str):
        own = np.asarray(variables[own]).astype(self.described[own].dtype, copy=False)
      made[key] = np.array(own)
    return made

  def _cast(self, name: str, x: Any) -> Any:
    """Returns an input in the precision that the network computes in."""
    wanted = jax.dtypes.canonicalize_dtype(self.graph.described[name].dtype)
    floats = all(jnp.issubdtype(dtype, jnp.floating) for dtype in (wanted, x.dtype))
    return x.astype(wanted) if floats else x

  def _run(self, variables: Variables, inputs: Sequence[Any]) -> list[Any]:
    given = {
      **{argument: jnp.asarray(variables[name]) for argument, name in self.bound.items()},
      **self.constants,
      **dict(zip(self.arguments, inputs, strict=True)),
    }
    return evaluate(self.graph, [given.get(name) for name in self.graph.inputs])

  def _check(self, variables: Variables, inputs: Sequence[Any]) -> None:
    self._check_variables(variables)
    if len(inputs) != len(self.arguments):
      raise InputError(
        f"{len(inputs)} inputs are given, expected {len(self.arguments)}: "
        f"{', '.join(self.arguments)}.",
        "Pass them in this order.",
      )
    for name, x in zip(self.arguments, inputs, strict=True):
      shape = self.graph.described[name].shape
      free = (None, *shape[1:]) if self.alone else shape
      if not fits(x.shape, free):
        wanted = ", ".join("any" if length is None else str(length) for length in free)
        raise InputError(
          f"{name} has shape {x.shape}, expected ({wanted}).",
          "The network was exported for these lengths."
          + ("" if free[0] is None else " For any batch, export it for a batch of one."),
        )

  def _check_variables(self, variables: Variables) -> None:
    if not isinstance(variables, Mapping):
      what = f"are a {type(variables).__name__}, expected a dict by name"
    elif missing := self.described.keys() - variables.keys():
      what = f"lack {min(missing)!r}"
    else:
      return
    raise InputError(f"The variables {what}.", "Pass those that `from_torch` returned.")

  def __repr__(self) -> str:
    return f"TorchFunction({len(self.graph.nodes)} operators, {len(self.described)} variables)"


def fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
  """Whether a shape is what was stated; None stands for any length."""
  pairs = zip(shape, wanted, strict=False)
  return len(shape) == len(wanted) and all(own == length for own, length in pairs if length)


def built(structure: Any, leaves: Iterator[Any]) -> Any:
  """Returns arrays in a structure: a dict, list or tuple of structures; None is the next array."""
  if isinstance(structure, dict):
    return {key: built(each, leaves) for key, each in structure.items()}
  if isinstance(structure, list | tuple):
    return type(structure)(built(each, leaves) for each in structure)
  return next(leaves)


def evaluate(graph: Graph, arguments: Sequence[Any]) -> list[Any]:
  """Returns the results of a graph, each operator evaluated by its rule.

  Raises:
    InputError: Naming the operator that cannot be evaluated, and its place.
  """
  known: dict[str, Any] = dict(zip(graph.inputs, arguments, strict=True))

  def read(value: Any) -> Any:
    if isinstance(value, Reference):
      return known[value.name]
    if isinstance(value, np.dtype):
      return jax.dtypes.canonicalize_dtype(value)
    return [read(each) for each in value] if isinstance(value, list) else value

  def remember(names: Any, made: Any, node: Node) -> None:
    if isinstance(names, str):
      if names in graph.described and not fits(np.shape(made), graph.described[names].shape):
        raise InputError(
          f"{node} makes the shape {np.shape(made)}, the program states "
          f"{graph.described[names].shape}.",
          "Correct its rule, or pass inputs and variables of the shapes that were exported.",
        )
      known[names] = made
    elif names is not None:
      for name, each in zip(names, made, strict=False):  # rules leave out what nothing can use
        remember(name, each, node)

  for node in graph.nodes:
    with jax.named_scope(node.place.scope or node.target):
      made = _applied(node, read)
    remember(node.results[0] if len(node.results) == 1 else node.results, made, node)
  return [read(output) for output in graph.outputs]


def _applied(node: Node, read: Any) -> Any:
  rule = rule_of(node.target)
  assert rule is not None  # as was checked when the graph was parsed
  try:
    return rule(*map(read, node.arguments), **{k: read(v) for k, v in node.keywords.items()})
  except InputError as error:
    raise InputError(f"{node}: {error.cause}", error.fix) from error
  except jax.errors.ConcretizationTypeError as error:
    raise InputError(
      f"{node} needs to know values of its arguments beforehand, such as for a shape.",
      "Programs whose shapes depend on data cannot be compiled; change the network there.",
    ) from error
  except (TypeError, ValueError, IndexError, NotImplementedError) as error:
    what = " ".join(str(error).split())[:200]
    raise InputError(
      f"{node} cannot be evaluated by its rule: {what}",
      f"Pass inputs as exported, or give it another rule, @convert.operator({node.target!r}).",
    ) from error


@operator("higher_order.wrap_with_set_grad_enabled")
def _set_grad_enabled(enabled, graph, *arguments):
  return _called(graph, arguments)


def _called(graph: Graph, arguments: Sequence[Any]) -> Any:
  results = evaluate(graph, arguments)
  return results[0] if len(results) == 1 else results


@operator("higher_order.wrap_with_autocast")
def _autocast(device, dtype, enabled, cached, graph, *arguments):
  if enabled:
    raise InputError(
      f"It computes in {dtype}, as autocast asks.", "Export the network without autocast."
    )
  return _called(graph, arguments)

"""Heads of exported networks for another number of classes."""

from __future__ import annotations

import dataclasses

import jax

from bcos_jax.errors import InputError

from .function import TorchFunction
from .graph import Node, TensorSpec, flat_names


def with_classes(function: TorchFunction, count: int, example: tuple[int, ...]) -> TorchFunction:
  """Returns a function with a head of so many classes, whose variables have other shapes.

  The head is the last operator that reads a kernel, with what is added behind it.

  Args:
    function: A classifier that returns logits [N, classes].
    count: At least 1.
    example: Shape of one input, without the batch.

  Raises:
    InputError: The outputs are no logits, or something behind the head has a size of its own.
  """
  graph, (*_, classes) = function.graph, _logits(function, example)
  kernels = [i for i, node in enumerate(graph.nodes) if _reads_kernel(function, node)]
  behind = graph.nodes[kernels[-1] if kernels else 0 :]
  read = {name for node in behind for name in _variables(function, node)}
  head = {name for name in read if function.described[name].shape[:1] == (classes,)}
  made = {name for node in behind for name in flat_names(node.results)}
  new = dataclasses.replace(
    function,
    # What the program states of results is of the old number.
    graph=dataclasses.replace(
      graph, described={k: spec for k, spec in graph.described.items() if k not in made}
    ),
    described={
      name: TensorSpec((count, *spec.shape[1:]), spec.dtype) if name in head else spec
      for name, spec in function.described.items()
    },
  )
  found = _outputs_for_one(new, example)
  # An axis of one would be spread over any number of classes.
  if found != (1, count) or classes == 1:
    raise InputError(
      f"The network's head cannot be replaced: with another number of outputs of "
      f"{', '.join(sorted(head)) or 'no variable'} in place of {classes}, what is behind it does "
      "not fit.",
      "Export the network with the number of classes of the data, its head as the last map.",
    )
  return new


def _logits(function: TorchFunction, example: tuple[int, ...]) -> tuple[int | None, ...]:
  outputs = function.graph.outputs
  output = getattr(outputs[0], "name", "") if len(outputs) == 1 else ""
  found = function.graph.described.get(output)
  shape = _outputs_for_one(function, example) if found is None else found.shape
  if shape is None or len(shape) != 2 or shape[1] is None:
    raise InputError(f"{function!r} returns no logits [N, classes].", "Export the classifier.")
  return shape


def _variables(function: TorchFunction, node: Node) -> list[str]:
  return [function.bound[name] for name in node.references() if name in function.bound]


def _reads_kernel(function: TorchFunction, node: Node) -> bool:
  return any(len(function.described[name].shape) > 1 for name in _variables(function, node))


def _outputs_for_one(function: TorchFunction, example: tuple[int, ...]) -> tuple[int, ...] | None:
  """Returns the shape of the outputs for one input; None if they cannot be computed."""
  variables = {
    name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in function.described.items()
  }
  picture = jax.ShapeDtypeStruct((1, *example), function.dtype)
  try:
    return getattr(jax.eval_shape(function, variables, picture), "shape", None)
  except InputError:
    return None

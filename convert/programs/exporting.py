"""From modules of PyTorch, exported programs and `.pt2` files to functions of JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import io
import os
from typing import Any

import numpy as np

from bcos_jax.errors import InputError

from .archive import read_archive
from .function import TorchFunction
from .graph import Unsupported
from .operators import rule_of
from .reading import read_function


def from_torch(source: Any, example: Any = None) -> tuple[TorchFunction, dict[str, np.ndarray]]:
  """Reads a network of PyTorch as a function of JAX and its variables.

      function, variables = convert.from_torch(module, np.zeros((1, 3, 224, 224), np.float32))
      outputs = function(variables, pictures)  # [N, 3, 224, 224], as PyTorch's; any N
      bcos_jax.explain(function, variables, pictures)
      module.load_state_dict(...)  # of function.state_dict(variables)

  A module is exported by `torch.export`, for a batch of any size where it lets; or else for one
  example, over which batches are then mapped. A file is read without PyTorch, and runs nothing.

  Args:
    source: A module in evaluation mode; a `torch.export.ExportedProgram`; or the path of a `.pt2`
      file, from `torch.export.save`.
    example: Of a module, inputs [N, ...] to export it with, arrays or tensors: one, a tuple, or a
      dict by the names of `forward`.

  Returns:
    The function (variables, *inputs) -> outputs, and the variables: name of each floating-point
    parameter and buffer of the module -> array. Tensors that share memory are one variable, by
    their first name. Integer tensors, and buffers that are not saved, are constants of the
    function.

  Raises:
    InputError: A module in training mode or one that `torch.export` does not take, an operator
      without a rule, dropout that is active, state that calls change, dtypes that are not
      supported, a damaged file or one of another version.
  """
  if isinstance(source, str | os.PathLike):
    if example is not None:
      raise InputError(
        f"An example is given with the file {os.fspath(source)!r}, which has been exported.",
        "Omit the example.",
      )
    return read_function(read_archive(source))
  program = _exported(source, example)
  try:
    return _of_program(program)
  except Unsupported:
    import torch

    kept = torch.export.default_decompositions()
    for known in [each for each in kept if rule_of(str(each)) is not None]:
      kept.pop(known)
    return _of_program(program.run_decompositions(kept))


def _of_program(program: Any) -> tuple[TorchFunction, dict[str, np.ndarray]]:
  import torch

  file = io.BytesIO()
  torch.export.save(program, file)
  return read_function(read_archive(file))


def _exported(source: Any, example: Any) -> Any:
  """Returns the exported program of a module, for any batch if possible."""
  names = {f"{base.__module__}.{base.__qualname__}" for base in type(source).__mro__}
  if "torch.export.exported_program.ExportedProgram" in names:
    return source
  if "torch.nn.modules.module.Module" not in names:
    raise InputError(
      f"The source is a {type(source).__name__}, expected a module of PyTorch, an exported program "
      "or the path of a .pt2 file.",
      "For weights alone use convert.from_pretrained.",
    )
  if source.training:
    raise InputError(f"The {type(source).__name__} is in training mode.", "Call .eval() first.")
  if example is None:
    raise InputError(
      "A module is exported with an example of its inputs, there is none.",
      "For example from_torch(module, np.zeros((1, 3, 224, 224), np.float32)).",
    )
  return _export(source, *_examples(example))


def _examples(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
  import torch

  def tensor(value: Any) -> Any:
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))

  if isinstance(example, Mapping):
    return (), {name: tensor(value) for name, value in example.items()}
  given = example if isinstance(example, tuple) else (example,)
  return tuple(map(tensor, given)), {}


def _export(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
  import torch

  def examples(rows: Sequence[int]) -> tuple[Any, Any]:
    return tuple(x[rows] for x in arguments), {name: x[rows] for name, x in named.items()}

  def export(rows: Sequence[int], free: bool) -> Any:
    each, by_name = examples(rows)
    shapes = torch.export.ShapesCollection()
    for x in (*each, *by_name.values()):
      shapes[x] = {0: torch.export.Dim.AUTO}
    dynamic = shapes.dynamic_shapes(module, each, by_name) if free else None
    with torch.no_grad():
      return torch.export.export(module, each, by_name, dynamic_shapes=dynamic, strict=False)

  with contextlib.suppress(Exception):  # whatever is raised where a length is not a number
    program = export([0, 0], free=True)  # a length of 1 would be taken literally
    if _takes_any_batch(program):
      return program
  try:
    return export([0], free=False)
  except Exception as error:
    what = " ".join(str(error).split())[:300]
    _check_called(module, *examples([0]))
    raise InputError(
      f"torch.export does not take the {type(module).__name__}: {what}",
      "Its control flow must not depend on values of tensors: change it there, or export the part "
      "that is needed.",
    ) from error


def _check_called(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
  """Raises InputError if a module cannot be called with its example at all."""
  import torch

  try:
    with torch.no_grad():
      module(*arguments, **named)
  except Exception as error:
    what = " ".join(str(error).split())[:300]
    raise InputError(
      f"The {type(module).__name__} cannot be called with the example: {what}",
      "Give inputs as its `forward` takes them, [N, ...].",
    ) from error


def _takes_any_batch(program: Any) -> bool:
  inputs = set(program.graph_signature.user_inputs)
  lengths = [node.meta["val"].shape[0] for node in program.graph.nodes if node.name in inputs]
  return bool(lengths) and not any(isinstance(length, int) for length in lengths)

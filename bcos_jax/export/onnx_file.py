"""Programs as ONNX: one file that onnxruntime runs, in Python, C, C#, Java and in browsers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..errors import requires
from . import onnx
from .programs import ExportProgram, blaming_batch

FILE = "explanation.onnx"


def written(program: ExportProgram, notes: Mapping[str, str]) -> tuple[bytes, dict[str, Any]]:
  """Returns a program as a file, and what the manifest says of it.

  Args:
    program: The program.
    notes: Plain text about it, kept in the file.

  Raises:
    InputError: A primitive or precision without a form in ONNX; a file that is too large.
  """
  requires("onnx", "Files of ONNX")
  with blaming_batch():
    closed = jax.jit(program.function).trace(*program.inputs.values()).jaxpr
  graph, outputs = onnx.graph_of(closed, program.inputs, program.outputs)
  inputs = [
    onnx.Tensor(tuple(spec.shape), np.dtype(spec.dtype).name, name=name)
    for name, spec in program.inputs.items()
  ]
  return onnx.model_of(graph, inputs, outputs, notes), {"opset": onnx.OPSET}


def reader(content: bytes) -> Callable[..., dict[str, Any]]:
  """Returns the function that a file holds, run on the CPU.

  Raises:
    InputError: It cannot be read, or onnxruntime is not installed.
  """
  session = onnx.session(content)
  inputs = [each.name for each in session.get_inputs()]
  outputs = [each.name for each in session.get_outputs()]

  def run(*arrays: Any) -> dict[str, Any]:
    given = {name: np.asarray(array) for name, array in zip(inputs, arrays, strict=True)}
    return dict(zip(outputs, session.run(outputs, given), strict=True))

  return run

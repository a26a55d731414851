"""Graphs as files of ONNX, and what runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError, requires
from .graph import Dim, OnnxGraph, Tensor, pruned

OPSET = 18
_IR_VERSION = 8  # that of the first release with this opset
_MOST_BYTES = 2**31 - 2**20  # of a file of protocol buffers


def model_of(
  graph: OnnxGraph, inputs: Sequence[Tensor], outputs: Sequence[Tensor], notes: Mapping[str, str]
) -> bytes:
  """Returns a graph as the content of a file.

  Args:
    graph: What it computes.
    inputs: Its inputs.
    outputs: Its results.
    notes: Plain text about it, kept in the file.

  Raises:
    InputError: It would be larger than such files can be; or `onnx` is not installed.
  """
  requires("onnx", "Files of ONNX")
  import onnx
  from onnx import helper, numpy_helper

  nodes = pruned(graph.nodes, [x.name for x in outputs])
  used = {name for node in nodes for name in node.inputs}
  kept = {name: array for name, array in graph.initialisers.items() if name in used}
  size = sum(array.nbytes for array in kept.values())
  if size > _MOST_BYTES:
    raise InputError(
      f"The network's weights have {size:,} bytes, an ONNX file holds at most {_MOST_BYTES:,}.",
      "Export it to StableHLO: --to=stablehlo.",
    )
  made = helper.make_graph(
    [
      helper.make_node(
        node.operator,
        node.inputs,
        node.outputs,
        **{name: _attribute(value) for name, value in node.attributes.items()},
      )
      for node in nodes
    ],
    "explanation",
    [_described(x) for x in inputs],
    [_described(x) for x in outputs],
    [numpy_helper.from_array(array, name) for name, array in kept.items()],
  )
  model = helper.make_model(
    made,
    opset_imports=[helper.make_opsetid("", OPSET)],
    ir_version=_IR_VERSION,
    producer_name="bcos_jax",
  )
  helper.set_model_props(model, dict(notes))
  onnx.checker.check_model(model)
  return model.SerializeToString()


def _attribute(value: Any) -> Any:
  from onnx import helper

  return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value


def _described(x: Tensor) -> Any:
  from onnx import helper

  dims: list[Dim] = [dim if isinstance(dim, int) else str(dim) for dim in x.dims]
  return helper.make_tensor_value_info(
    x.name, helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype)), dims
  )


def session(content: bytes) -> Any:
  """Returns what runs the content of a file, on the CPU.

  Raises:
    InputError: `onnxruntime` is not installed, or refuses the file.
  """
  requires("onnx", "Files of ONNX")
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  try:
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
  except Exception as error:  # of many kinds, by the library's own classes
    raise InputError(
      f"onnxruntime cannot read the graph: {' '.join(str(error).split())}.",
      "Export the network again.",
    ) from error

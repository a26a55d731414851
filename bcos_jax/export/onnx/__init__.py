"""Programs of JAX written as ONNX graphs, by one rule for each primitive."""

from .graph import OnnxGraph, Tensor
from .model import OPSET, model_of, session
from .rules import RULES, UnwrittenEquation, rule
from .walk import graph_of

__all__ = [
  "OPSET",
  "RULES",
  "OnnxGraph",
  "Tensor",
  "UnwrittenEquation",
  "graph_of",
  "model_of",
  "rule",
  "session",
]

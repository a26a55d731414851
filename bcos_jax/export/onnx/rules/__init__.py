"""How each primitive of JAX is written in ONNX: one rule each, in the table `RULES`."""

from . import elementwise, indexing, layout, products, reductions, windows
from .table import RULES, UnwrittenEquation, rule

__all__ = [
  "RULES",
  "UnwrittenEquation",
  "elementwise",
  "indexing",
  "layout",
  "products",
  "reductions",
  "rule",
  "windows",
]

"""PyTorch programs as functions of JAX: a reader of `torch.export`, a rule for each operator."""

from . import rules as rules
from .exporting import from_torch as from_torch
from .function import TorchFunction as TorchFunction
from .operators import operator as operator

"""PyTorch programs as functions of JAX: a reader of `torch.export`, a rule for each operator."""

from . import attention as attention
from . import convolutions as convolutions
from . import creation as creation
from . import elementwise as elementwise
from . import indexing as indexing
from . import norms as norms
from . import pools as pools
from . import products as products
from . import reductions as reductions
from . import resampling as resampling
from . import shapes as shapes
from .exporting import from_torch as from_torch
from .function import TorchFunction as TorchFunction
from .operators import operator as operator

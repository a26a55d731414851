"""Weights from PyTorch and back, exactly: every key accounted for in both directions."""

from .plan import from_pretrained as from_pretrained
from .programs import TorchFunction as TorchFunction
from .programs import from_torch as from_torch
from .programs import operator as operator
from .programs.networks import SUFFIX as SUFFIX
from .programs.networks import from_exported as from_exported
from .programs.stored import torch_program as torch_program
from .readers.hf_config import ConfigReader as ConfigReader
from .state_dict import from_state_dict as from_state_dict
from .state_dict import to_state_dict as to_state_dict
from .tables import axes as axes
from .tables import parts as parts
from .tables.keys import Keys as Keys
from .tables.rules import Rule as Rule
from .tables.rules import Skip as Skip

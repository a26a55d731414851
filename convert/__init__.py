"""Conversion of PyTorch weights, exact in both directions, with every key accounted for."""

from . import layouts as layouts
from . import parts as parts
from .convert import from_pretrained as from_pretrained
from .keys import Keys as Keys
from .readers.hf_config import ConfigReader as ConfigReader
from .rules import Rule as Rule
from .rules import Skip as Skip
from .state_dict import from_state_dict as from_state_dict
from .state_dict import to_state_dict as to_state_dict

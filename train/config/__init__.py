"""Recipes: loading by name, overrides from the command line, and checks of every key."""

from .load import load_config as load_config
from .load import names as names
from .load import variants as variants
from .settle import PREFIX as PREFIX
from .settle import TAUGHT as TAUGHT
from .settle import TEXT_OBJECTIVES as TEXT_OBJECTIVES
from .settle import as_steps as as_steps
from .settle import check_values as check_values
from .settle import flatten as flatten
from .settle import format_config as format_config
from .settle import in_steps as in_steps
from .settle import read_keys as read_keys
from .settle import settle as settle
from .settle import settled_values as settled_values

"""Typed sections of recipes: keys with their defaults, types, ranges, and what reads them."""

from .conditions import MOST_STEPS as MOST_STEPS
from .declared import KEYS as KEYS
from .keys import Key as Key
from .keys import nested as nested

"""Convolutions and dense maps, their gradients of any order as the platform runs them fastest."""

from .plain import DENSE as DENSE
from .plain import Geometry as Geometry
from .primitives import convolve as convolve
from .primitives import expanded as expanded
from .primitives import window_sum as window_sum

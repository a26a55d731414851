"""Convolutions whose gradients, of any order, are computed as the platform runs them fastest."""

from .plain import Geometry as Geometry
from .primitives import convolve as convolve
from .primitives import expanded as expanded

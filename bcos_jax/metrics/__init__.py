"""Measures of explanations, each beside what knowing nothing and knowing all would score."""

from .grids import Selection, make_grid, sample_grids, select
from .pointing_game import (
  GridPointingResult,
  attribute_with,
  grid_pointing_game,
  grid_share,
  input_x_gradient,
)

__all__ = [
  "GridPointingResult",
  "Selection",
  "attribute_with",
  "grid_pointing_game",
  "grid_share",
  "input_x_gradient",
  "make_grid",
  "sample_grids",
  "select",
]

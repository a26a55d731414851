"""Measures of explanations, each beside what knowing nothing and knowing all would score."""

from .axioms import CompletenessScores, StabilityScores, completeness, stability
from .grid_pointing import (
  GridPointingResult,
  attribute_with,
  for_grids,
  grid_pointing_game,
  grid_share,
)
from .grids import Selection, make_grid, random_grids, sample_grids, select
from .localisation import box_masks, energy_pointing_game, pointing_game
from .perturbation import (
  CurveScores,
  Perturbation,
  comprehensiveness,
  deletion,
  insertion,
  sufficiency,
)
from .randomization import (
  RandomizationScores,
  class_randomization,
  label_randomization,
  layers_of,
  parameter_randomization,
  randomized,
)
from .scores import Scores, logits_of
from .similarities import similarity
from .windows import strided, windowed

__all__ = [
  "CompletenessScores",
  "CurveScores",
  "GridPointingResult",
  "Perturbation",
  "RandomizationScores",
  "Scores",
  "Selection",
  "StabilityScores",
  "attribute_with",
  "box_masks",
  "class_randomization",
  "completeness",
  "comprehensiveness",
  "deletion",
  "energy_pointing_game",
  "for_grids",
  "grid_pointing_game",
  "grid_share",
  "insertion",
  "label_randomization",
  "layers_of",
  "logits_of",
  "make_grid",
  "parameter_randomization",
  "pointing_game",
  "random_grids",
  "randomized",
  "sample_grids",
  "select",
  "similarity",
  "stability",
  "strided",
  "sufficiency",
  "windowed",
]

"""Measures of explanations, each beside what knowing nothing and knowing all would score.

Also attacks and corruptions, to see what predictions and explanations withstand, and adapters for
the metrics of Captum and Quantus.
"""

from .adapters import captum_explainer, quantus_explainer, to_captum, torch_module
from .attacks import fgsm, pgd
from .axioms import CompletenessScores, StabilityScores, completeness, stability
from .corruptions import CORRUPTIONS, corrupt
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
from .robustness import RobustnessScores, robustness
from .scores import Scores, logits_of
from .similarities import similarity
from .windows import strided, windowed

__all__ = [
  "CORRUPTIONS",
  "CompletenessScores",
  "CurveScores",
  "GridPointingResult",
  "Perturbation",
  "RandomizationScores",
  "RobustnessScores",
  "Scores",
  "Selection",
  "StabilityScores",
  "attribute_with",
  "box_masks",
  "captum_explainer",
  "class_randomization",
  "completeness",
  "comprehensiveness",
  "corrupt",
  "deletion",
  "energy_pointing_game",
  "fgsm",
  "for_grids",
  "grid_pointing_game",
  "grid_share",
  "insertion",
  "label_randomization",
  "layers_of",
  "logits_of",
  "make_grid",
  "parameter_randomization",
  "pgd",
  "pointing_game",
  "quantus_explainer",
  "random_grids",
  "randomized",
  "robustness",
  "sample_grids",
  "select",
  "similarity",
  "stability",
  "strided",
  "sufficiency",
  "to_captum",
  "torch_module",
  "windowed",
]

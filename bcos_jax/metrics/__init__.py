"""Metrics of explanations, each reported with random and oracle baselines.

Also attacks and corruptions, to see what predictions and explanations withstand, how far
probabilities can be believed, and adapters for the metrics of Captum and Quantus.
"""

from .adapters import captum_explainer, quantus_explainer, to_captum, torch_module
from .attacks import (
  WorstCase,
  adapted_attacks,
  apgd,
  fgsm,
  manipulate,
  pgd,
  random_change,
  square_attack,
  worst_case,
)
from .axioms import CompletenessScores, StabilityScores, completeness, stability, token_completeness
from .confidence import brier_scores, expected_calibration_error
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
from .scores import Scores, TextScores, logits_of
from .similarities import similarity
from .text.contrastive import contrastive_ranks, probability_gap
from .text.perturbation import (
  TokenCurves,
  TokenPerturbation,
  token_comprehensiveness,
  token_sufficiency,
)
from .text.randomization import other_targets, token_randomization
from .text.rationales import rationale_auprc, rationale_iou_f1, rationale_token_f1
from .text.sequence_pointing import (
  SequencePointingScores,
  TextPairs,
  sequence_pointing_game,
  text_pairs,
)
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
  "SequencePointingScores",
  "StabilityScores",
  "TextPairs",
  "TextScores",
  "TokenCurves",
  "TokenPerturbation",
  "WorstCase",
  "adapted_attacks",
  "apgd",
  "attribute_with",
  "box_masks",
  "brier_scores",
  "captum_explainer",
  "class_randomization",
  "completeness",
  "comprehensiveness",
  "contrastive_ranks",
  "corrupt",
  "deletion",
  "energy_pointing_game",
  "expected_calibration_error",
  "fgsm",
  "for_grids",
  "grid_pointing_game",
  "grid_share",
  "insertion",
  "label_randomization",
  "layers_of",
  "logits_of",
  "make_grid",
  "manipulate",
  "other_targets",
  "parameter_randomization",
  "pgd",
  "pointing_game",
  "probability_gap",
  "quantus_explainer",
  "random_change",
  "random_grids",
  "randomized",
  "rationale_auprc",
  "rationale_iou_f1",
  "rationale_token_f1",
  "robustness",
  "sample_grids",
  "select",
  "sequence_pointing_game",
  "similarity",
  "square_attack",
  "stability",
  "strided",
  "sufficiency",
  "text_pairs",
  "to_captum",
  "token_completeness",
  "token_comprehensiveness",
  "token_randomization",
  "token_sufficiency",
  "torch_module",
  "windowed",
  "worst_case",
]

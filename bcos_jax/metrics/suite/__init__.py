"""Benchmarks that can fail an explanation, for any number of methods at once.

Each is prepared once, which measures all that does not depend on the explanations, and then scores
the maps of any method: `benchmark.compare({"B-cos": maps, "Grad-CAM": others})`. Every score comes
with those of random maps and of an oracle.
"""

from .benchmark import Benchmark
from .cut_grids import DisconnectedGrids, disconnected, disconnected_grids
from .effects import Effects, infidelity, measure_effects, sensitivity_n, single_deletion
from .entropy import complexity, complexity_of
from .imputation import impute, road
from .in_domain import Planted, plant_trigger, stamp, without_cells
from .part_scenes import PartScenes
from .parts import PartScores, measure_parts, oracle_explainer, part_scores, random_explainer
from .superpixel_removal import irof
from .tuning import Tuning, tuned

__all__ = [
  "Benchmark",
  "DisconnectedGrids",
  "Effects",
  "PartScenes",
  "PartScores",
  "Planted",
  "Tuning",
  "complexity",
  "complexity_of",
  "disconnected",
  "disconnected_grids",
  "impute",
  "infidelity",
  "irof",
  "measure_effects",
  "measure_parts",
  "oracle_explainer",
  "part_scores",
  "plant_trigger",
  "random_explainer",
  "road",
  "sensitivity_n",
  "single_deletion",
  "stamp",
  "tuned",
  "without_cells",
]

"""What a training step costs on hardware that is not there."""

from ml_collections import ConfigDict

from . import gpus, pod
from .chips import check_topology as check_topology
from .chips import is_gpu as is_gpu
from .pod import IMAGENET_TRAIN, Cost
from .report import report as report


def of_recipe(config: ConfigDict, topology: str, examples: int = IMAGENET_TRAIN) -> Cost:
  """Returns the costs of a recipe's step; see `pod.compile_recipe` and `gpus.estimate_recipe`."""
  of = gpus.estimate_recipe if is_gpu(topology) else pod.compile_recipe
  return of(config, topology, examples)

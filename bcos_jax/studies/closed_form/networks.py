"""Networks in closed form, made once, and the pictures that they are fitted to."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import bcos_jax

from ... import calibration
from ...inputs import of_pictures
from ...ops import BcosOps
from ...train.config import load_config
from ...train.data import open_dataset, pipeline
from ...train.loop import TrainResult
from ..lab import Lab

Network = tuple[Any, Any]


def recipe(lab: Lab) -> tuple[int, int]:
  """Returns pictures and rounds of the second sweep of the data set's recipe of matching."""
  config = load_config(f"{lab.dataset}:match", [])
  return (32, 0) if lab.short else (config.calibrate, config.calibrate_blocks)


def by_recipe(lab: Lab, conventional: TrainResult) -> Network:
  """Returns the B-cos twin (B=2, no biases) in closed form, with the recipe's settings."""
  count, rounds = recipe(lab)
  given = conventional.model, jax.device_get(conventional.variables)
  pictures = training_pictures(lab, conventional, count)
  return in_closed_form(lab, given, "closed", pictures, rounds=rounds)


def training_pictures(lab: Lab, conventional: TrainResult, count: int) -> np.ndarray:
  """Returns training pictures [N, H, W, colors] in [0, 1], none of them held out.

  Args:
    lab: With the data set.
    conventional: The network that reads them.
    count: Of pictures; fewer if there are fewer.
  """
  first = lab.setting.validation
  last = min(first + count, len(open_dataset(lab.dataset, "train").source))
  dataset = open_dataset(lab.dataset, f"train[{first}:{last}]")
  prepare = of_pictures(conventional.preprocess)
  return pipeline.to_arrays(pipeline.Examples(dataset, prepare))[0]


def in_closed_form(
  lab: Lab,
  given: Network,
  name: str,
  pictures: np.ndarray,
  *,
  b: float = 2.0,
  head: str = "log_odds",
  rounds: int = 0,
) -> Network:
  """Returns a network in closed form, from the lab's folder if it has been made there.

  Args:
    lab: With the folder and the seed.
    given: The conventional network.
    name: Of the result's folder, beside the settings.
    pictures: [N, H, W, colors] in [0, 1].
    b: Exponent.
    head: What the head aims at, see `calibration.Calibration`.
    rounds: Of the second sweep.
  """
  folder = lab.workdir / f"{name}-{head}-{len(pictures)}-{b:g}-{rounds}.bundle"
  if not folder.exists():
    lab.say(f"In closed form from {len(pictures)} pictures: {folder.stem}")
    twin = bcos_jax.bcosify(*given, ops=BcosOps(b=b))
    settings = calibration.Calibration(
      head=head, effort=calibration.Effort(block_rounds=rounds), seed=lab.seed
    )
    made, report = calibration.calibrate(*given, *twin, pictures, settings)
    lab.say(str(report))
    bcos_jax.save(folder, twin[0], made)
  bundle = bcos_jax.load(folder)
  return bundle.model, bundle.variables

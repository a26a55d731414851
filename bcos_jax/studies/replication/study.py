"""What B-cosification claims, over several seeds: a study (arXiv 2411.00715, tables 1 to 3).

Accuracy, the steps that a pretrained start saves, and localisation, of one network as a
conventional and as a B-cos network: in closed form, fine-tuned, and from random weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ... import render
from ..lab import Lab
from ..seeds import Mean, curve
from ..study import Findings
from ..tables import Cell, Table
from . import claims
from .claims import Seeds
from .networks import (
  BOTH,
  CLOSED,
  CONVENTIONAL,
  EXPLAINED,
  METHODS,
  PUBLISHED,
  SCRATCH,
  NetworkScores,
  has_positions,
  of_seed,
)

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_DRAWN = 4


def study(*labs: Lab) -> Findings:
  """Measures accuracy, steps and localisation of conventional, B-cosified and B-cos networks.

  Args:
    *labs: One for each seed.
  """
  lab = labs[0]
  seeds = [of_seed(one) for one in labs]
  words = (lab.dataset, lab.network, f"{len(labs)} seeds" if len(labs) > 1 else "")
  return Findings(
    title=f"The claims of B-cosification, {', '.join(filter(None, words))}",
    question=_question(labs),
    table=Table(
      {
        "network": "",
        "steps": "d",
        "accuracy": ".1%",
        "accuracy ±": ".1%",
        "first step at the scratch accuracy": ".0f",
        "grid pointing": ".3f",
        "grid ±": ".3f",
        "energy pointing": ".3f",
        "energy ±": ".3f",
        "completeness error": ".0e",
      },
      [_row(lab, seeds, name) for name in seeds[0]],
    ),
    answer=(
      *claims.accuracies(seeds),
      claims.speed_up(seeds, lab.setting.finetune),
      *claims.localisation(seeds),
      claims.completeness(seeds),
    ),
    plots={
      "replication": ("Accuracy on the test set while training", _curves(seeds)),
      "replication-maps": ("Test pictures explained, first seed", _maps(lab, seeds[0])),
    },
  )


def _question(labs: Sequence[Lab]) -> str:
  lab, setting = labs[0], labs[0].setting
  named = (
    ""
    if lab.pictures.regions is None
    else f", and energy pointing game: {lab.places} of {setting.num_images} pictures"
  )
  windows = (
    ", explained through windows of a picture's size at half of it, as published for transformers"
    if has_positions(lab.conventional().model, lab.pictures.images.shape[1])
    else ""
  )
  return (
    f"{len(labs)} conventional network{'s are' if len(labs) > 1 else ' is'} trained for "
    f"{setting.pretrain} steps and B-cosified (B=2, no biases): in closed form, without labels; "
    f"by {setting.finetune} steps of fine-tuning, as published; and by as many from the closed "
    "form. The same B-cos network is trained from random weights for equally long. Each training "
    f"has the recipe of `configs/{lab.dataset}.py`; test accuracy is evaluated every "
    f"{setting.eval_every} steps. Grid pointing game: {setting.grid}x{setting.grid}, at most "
    f"{setting.num_grids} grids of the test pictures that a network classifies rightly, the "
    f"surest first{windows}{named}; maps are averaged over {setting.smooth}x{setting.smooth} "
    "pixels. B-cos "
    "networks explain themselves; the conventional one is explained by "
    f"{', '.join(name.replace('_', ' ') for name in METHODS)}, and the best counts in each game. "
    f"Completeness error: the largest of {EXPLAINED} pictures, relative. ± is the standard error "
    "over seeds."
  )


def _row(lab: Lab, seeds: Seeds, name: str) -> tuple[Cell, ...]:
  steps = {CONVENTIONAL: lab.setting.pretrain, CLOSED: 0}.get(name, lab.setting.finetune)
  first = claims.mean_of(seeds, lambda found: found[name].first_step(found[SCRATCH].accuracy))
  return (
    name,
    steps,
    *_cells(claims.mean_of(seeds, lambda found: found[name].accuracy)),
    None if first is None else first.value,
    *_cells(claims.mean_of(seeds, lambda found: found[name].best_grids)),
    *_cells(claims.mean_of(seeds, lambda found: found[name].best_energy)),
    max(found[name].incomplete for found in seeds),
  )


def _cells(mean: Mean | None) -> tuple[Cell, Cell]:
  return (None, None) if mean is None else (mean.value, mean.error)


def _curves(seeds: Seeds) -> Figure:
  lines = {
    name: curve(
      (at[0][0], Mean.of([accuracy for _, accuracy in at]))
      for at in zip(*(found[name].history for found in seeds), strict=True)
    )
    for name in (BOTH, PUBLISHED, SCRATCH)
  }
  levels = {
    name: float(np.mean([found[name].accuracy for found in seeds]))
    for name in (CONVENTIONAL, CLOSED)
  }
  return render.curves(
    [render.Panel(curves=lines, x="steps", y="accuracy", percent=True, levels=levels)]
  )


def _maps(lab: Lab, found: Mapping[str, NetworkScores]) -> Figure:
  """Draws a few pictures, and the map of the labelled class by each network."""
  some = lab.pictures.some(_DRAWN)
  maps = {}
  for name, one in found.items():
    best = max(one.explainers, key=lambda how: one.grids.get(how, 0.0))
    maps[best if name == CONVENTIONAL else name] = one.explainers[best](some.images, some.labels)
  return render.comparison(
    some.images,
    maps,
    [some.names[label] for label in some.labels],
    columns=len(found) + 1,
    exact=[name for name in found if name != CONVENTIONAL],
  )

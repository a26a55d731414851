"""B-cosification in closed form, and what few labelled steps reach: a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import bcos_jax

from ... import calibration, render
from ...inputs import of_pictures
from ...ops import BcosOps
from ...train.data import open_dataset, pipeline
from ...train.loop import TrainResult
from ..lab import Lab
from ..study import Findings
from ..tables import Table
from . import races
from .races import Entrant, Start

if TYPE_CHECKING:
  from matplotlib.figure import Figure

PUBLISHED, SCRATCH, TEACHER = "as published", "from scratch", "conventional"
CLOSED, LOGITS = "in closed form", "in closed form, head on logits"
PICTURES = 512
"""Training pictures, without labels, of the closed form."""


def study(lab: Lab) -> Findings:
  """Compares the closed form with few labelled steps, from published starts and from scratch."""
  conventional = lab.conventional()
  given = conventional.model, jax.device_get(conventional.variables)
  teacher = races.measured(lab, TEACHER, *given)
  lengths = (5, 10) if lab.short else races.LENGTHS
  pictures = training_pictures(lab, conventional, 32 if lab.short else PICTURES)
  starts = _starts(lab, given, pictures, lengths)
  entrants = [teacher, *(entrant for start in starts for entrant in races.race(lab, start))]
  chosen = [entrant for entrant in entrants if entrant.chosen]
  words = (lab.dataset, lab.network)
  return Findings(
    title=f"Closed form and short fine-tuning, {', '.join(filter(None, words))}",
    question="A conventional network is B-cosified in closed form (B=2, no biases) from "
    f"{len(pictures)} unlabelled training pictures, with the head on log odds and on "
    "logits, and as published. The first and the last are fine-tuned for "
    f"{', '.join(map(str, lengths))} steps of {races.BATCH} labelled pictures. Every length "
    "is a run of its own, with its cosine schedule and its learning rate: the best of "
    f"{', '.join(f'{rate:g}' for rate in races.RATES)} on {lab.setting.validation} training "
    f"pictures that are held out (of the longest, the best {races.SHORTLIST} of the length "
    "before). The same network from random weights is trained for the longest length, at the "
    f"best of {' and '.join(f'{rate:g}' for rate in races.RATES[2:])}. Test "
    "accuracy and grid pointing are of the chosen runs alone. Grid pointing game: "
    f"{lab.setting.grid}x{lab.setting.grid}, at most {lab.setting.num_grids} grids of the pictures "
    "that a network classifies rightly, the most confident first; maps are the contributions of "
    "pixels.",
    table=Table(
      {
        "network": "",
        "steps": "d",
        "learning rate": "g",
        "held-out accuracy": ".1%",
        "accuracy": ".1%",
        "grid pointing": ".3f",
        "±": ".3f",
      },
      [
        (e.start, e.steps, e.rate, e.validation, e.accuracy, e.pointing, e.pointing_error)
        for e in entrants
      ],
    ),
    answer=_answer(teacher, chosen),
    plots={"closed-form": ("Accuracy and localisation by length", _plot(teacher, chosen))},
  )


def _starts(
  lab: Lab, given: tuple[Any, Any], pictures: np.ndarray, lengths: tuple[int, ...]
) -> tuple[Start, ...]:
  """Returns what is fine-tuned, and what is only measured."""
  return (
    Start(
      name=LOGITS,
      recipe="bcosify",
      network=_in_closed_form(lab, given, pictures, "logits"),
      lengths=(),
    ),
    Start(
      name=CLOSED,
      recipe="bcosify",
      network=_in_closed_form(lab, given, pictures, "log_odds"),
      lengths=lengths,
    ),
    Start(
      name=PUBLISHED,
      recipe="bcosify",
      network=bcos_jax.bcosify(*given, ops=BcosOps(b=2.0)),
      lengths=lengths,
    ),
    Start(
      name=SCRATCH, recipe="scratch", network=None, lengths=lengths[-1:], rates=races.RATES[2:]
    ),
  )


def training_pictures(lab: Lab, conventional: TrainResult, count: int) -> np.ndarray:
  """Returns training pictures [count, H, W, colors] in [0, 1], none of them held out.

  Args:
    lab: With the data set.
    conventional: The network that reads them.
    count: Of pictures.
  """
  first = lab.setting.validation
  dataset = open_dataset(lab.dataset, f"train[{first}:{first + count}]")
  prepare = of_pictures(conventional.preprocess)
  return pipeline.to_arrays(pipeline.Examples(dataset, prepare))[0]


def _in_closed_form(
  lab: Lab, given: tuple[Any, Any], pictures: np.ndarray, head: str
) -> tuple[Any, Any]:
  """Returns the network in closed form, which is made once."""
  folder = lab.workdir / f"closed-form-{head}-{len(pictures)}.bundle"
  if not folder.exists():
    lab.say(f"B-cosifying in closed form from {len(pictures)} pictures, head on {head}")
    twin = bcos_jax.bcosify(*given, ops=BcosOps(b=2.0))
    settings = calibration.Calibration(head=head)
    made, report = calibration.calibrate(*given, *twin, pictures, settings)
    lab.say(str(report))
    bcos_jax.save(folder, twin[0], made)
  bundle = bcos_jax.load(folder)
  return bundle.model, bundle.variables


def _answer(teacher: Entrant, chosen: list[Entrant]) -> tuple[str, ...]:
  said = [f"Conventional: accuracy {teacher.accuracy:.1%}{_points(teacher)}."]
  said += [
    f"B-cosified {e.start}, no training: accuracy {e.accuracy:.1%}{_points(e)}."
    for e in chosen
    if not e.steps and e.start != TEACHER
  ]
  said += [
    f"{e.start.capitalize()}, {e.steps} steps at the rate {e.rate:g}: accuracy "
    f"{e.accuracy:.1%}{_points(e)}."
    for e in chosen
    if e.steps
  ]
  return tuple(said)


def _points(entrant: Entrant) -> str:
  if entrant.pointing is None:
    return ""
  return f", grid pointing {entrant.pointing:.3f} ± {entrant.pointing_error:.3f}"


def _plot(teacher: Entrant, chosen: list[Entrant]) -> Figure:
  by_start = {
    name: [e for e in chosen if e.start == name]
    for name in dict.fromkeys(e.start for e in chosen)
    if name != TEACHER
  }
  accuracy = {
    name: ([e.steps for e in own], [e.accuracy for e in own]) for name, own in by_start.items()
  }
  played = {
    name: [(e.steps, e.pointing, e.pointing_error) for e in own if e.pointing is not None]
    for name, own in by_start.items()
  }
  panels = [
    render.Panel(
      curves=accuracy,
      x="steps",
      y="accuracy",
      percent=True,
      levels={TEACHER: teacher.accuracy or 0.0},
      factors=True,
    )
  ]
  if any(played.values()):
    panels.append(
      render.Panel(
        curves={name: tuple(zip(*rows, strict=True)) for name, rows in played.items() if rows},
        x="steps",
        y="grid pointing score",
        levels={} if teacher.pointing is None else {TEACHER: teacher.pointing},
        factors=True,
      )
    )
  return render.curves(panels)

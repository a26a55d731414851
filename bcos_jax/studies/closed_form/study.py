"""How far short fine-tuning of a B-cosified network gets: a study at the best learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax

import bcos_jax

from ... import render
from ...ops import BcosOps
from ..lab import Lab
from ..study import Findings
from ..tables import Table
from . import races
from .races import Entrant, Start

if TYPE_CHECKING:
  from matplotlib.figure import Figure

PUBLISHED, SCRATCH, TEACHER = "as published", "from scratch", "conventional"


def study(lab: Lab) -> Findings:
  """Fine-tunes a B-cosified network for a few steps, and trains the same one from scratch."""
  conventional = lab.conventional()
  given = conventional.model, jax.device_get(conventional.variables)
  teacher = races.measured(lab, TEACHER, *given)
  lengths = (5, 10) if lab.short else races.LENGTHS
  starts = (
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
  entrants = [teacher, *(entrant for start in starts for entrant in races.race(lab, start))]
  chosen = [entrant for entrant in entrants if entrant.chosen]
  return Findings(
    title=f"Short fine-tuning, {lab.dataset}{f', {lab.network}' if lab.network else ''}",
    question="A conventional network is B-cosified as published (B=2, no biases) and fine-tuned "
    f"for {', '.join(map(str, lengths))} steps of {races.BATCH} labelled pictures. Every length "
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


def _answer(teacher: Entrant, chosen: list[Entrant]) -> tuple[str, ...]:
  begun = next(e for e in chosen if e.start == PUBLISHED)
  said = [f"Conventional: accuracy {teacher.accuracy:.1%}{_points(teacher)}."]
  said += [f"B-cosified, before training: accuracy {begun.accuracy:.1%}{_points(begun)}."]
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

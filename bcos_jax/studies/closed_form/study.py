"""B-cosification in closed form, and what few steps with and without labels reach: a study."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax

import bcos_jax

from ... import render
from ...ops import BcosOps
from ...train.loop import TrainResult
from ..lab import Lab
from ..seeds import curve
from ..study import Findings
from ..tables import Table
from . import races, summary
from .networks import in_closed_form, recipe, training_pictures
from .races import Entrant, Start
from .summary import Outcome

if TYPE_CHECKING:
  from matplotlib.figure import Figure

PUBLISHED, SCRATCH, TEACHER = "as published", "from scratch", "conventional"
CLOSED, LOGITS = "in closed form", "in closed form, head on logits"
MATCHED = "in closed form, then without labels"
MATCHING_RATES = (1e-3,)
"""The recipe's own; on Fashion-MNIST it was chosen among three by the test pictures of one seed."""
ENOUGH = 0.99
"""Share of the conventional network's accuracy that a training has to reach."""


def study(*labs: Lab) -> Findings:
  """Compares the closed form with few steps, from there, from published starts and from scratch.

  Args:
    *labs: One for each seed.
  """
  lab = labs[0]
  lengths = (5, 10) if lab.short else races.LENGTHS
  found = summary.rows([_entrants(of_seed, lengths) for of_seed in labs])
  words = (lab.dataset, lab.network, f"{len(labs)} seeds" if len(labs) > 1 else "")
  return Findings(
    title=f"Closed form and short fine-tuning, {', '.join(filter(None, words))}",
    question=_question(labs, lengths),
    table=Table(
      {
        "network": "",
        "steps": "d",
        "learning rates": "",
        "accuracy": ".1%",
        "accuracy ±": ".1%",
        "grid pointing": ".3f",
        "pointing ±": ".3f",
      },
      [
        (row.start, row.steps, ", ".join(f"{rate:g}" for rate in row.rates), *summary.cells(row))
        for row in found
      ],
    ),
    answer=_answer(found),
    plots={"closed-form": ("Accuracy and localisation by length", _plot(found))},
  )


def _entrants(lab: Lab, lengths: tuple[int, ...]) -> list[Entrant]:
  conventional = lab.conventional()
  given = conventional.model, jax.device_get(conventional.variables)
  entrants = [races.measured(lab, TEACHER, *given)]
  for start in _starts(lab, given, conventional, lengths):
    entrants += races.race(lab, start)
  return entrants


def _question(labs: tuple[Lab, ...], lengths: tuple[int, ...]) -> str:
  lab, (count, rounds) = labs[0], recipe(labs[0])
  networks = "A conventional network is" if len(labs) == 1 else f"{len(labs)} networks are"
  sweep = f", with {rounds} rounds of the second sweep," if rounds else ""
  return (
    f"{networks} B-cosified in closed form (B=2, no biases) from {count} unlabelled training "
    f"pictures{sweep} with the head on log odds and on logits, and as published. From there, runs "
    f"of {', '.join(map(str, lengths))} steps of {races.BATCH} pictures: labelled ones from the "
    "closed form and from the published start, and ones that match the conventional network's "
    "predictions and read no labels, from the closed form. Every length is a run of its own, with "
    "its cosine schedule and its learning rate: with labels the best of "
    f"{', '.join(f'{rate:g}' for rate in races.RATES)} on {lab.setting.validation} training "
    f"pictures that are held out (of the longest, the best {races.SHORTLIST} of the length "
    f"before), without labels {' or '.join(f'{rate:g}' for rate in MATCHING_RATES)}. The same "
    "network from random weights is trained for the longest length, at the best of "
    f"{' and '.join(f'{rate:g}' for rate in races.RATES[2:])}. Test accuracy and grid pointing are "
    f"of the chosen runs alone. Grid pointing game: {lab.setting.grid}x{lab.setting.grid}, at most "
    f"{lab.setting.num_grids} grids of the pictures that a network classifies rightly, the most "
    "confident first; maps are the contributions of pixels."
  )


def _starts(
  lab: Lab, given: tuple[Any, Any], conventional: TrainResult, lengths: tuple[int, ...]
) -> tuple[Start, ...]:
  """Returns what is fine-tuned, and what is only measured."""
  count, rounds = recipe(lab)
  pictures = training_pictures(lab, conventional, count)
  closed = Start(
    name=CLOSED,
    recipe="bcosify",
    network=in_closed_form(lab, given, "closed", pictures, rounds=rounds),
    lengths=lengths,
  )
  return (
    Start(
      name=LOGITS,
      recipe="bcosify",
      network=in_closed_form(lab, given, "closed", pictures, head="logits", rounds=rounds),
      lengths=(),
    ),
    closed,
    dataclasses.replace(
      closed,
      name=MATCHED,
      recipe="match",
      rates=MATCHING_RATES,
      teacher=lab.bundle("conventional", conventional),
      measure_start=False,
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


def _answer(found: list[Outcome]) -> tuple[str, ...]:
  teacher, *others = found
  said = [f"Conventional: accuracy {_scores(teacher)}."]
  said += [
    f"B-cosified {row.start}, no training: accuracy {_scores(row)}."
    for row in others
    if not row.steps
  ]
  longest = max(row.steps for row in others)
  said += [
    f"{row.start.capitalize()}, {row.steps} steps: accuracy {_scores(row)}."
    for row in others
    if row.steps == longest
  ]
  return (*said, _race_to_enough(found, teacher))


def _race_to_enough(found: list[Outcome], teacher: Outcome) -> str:
  """Says how many steps bring each start to `ENOUGH` of the conventional accuracy."""
  wanted = ENOUGH * teacher.accuracy.value
  steps = {
    name: summary.reached(found, name, wanted) for name in (CLOSED, MATCHED, PUBLISHED, SCRATCH)
  }
  # The start of matching is the closed form itself, which the table lists once.
  if steps[CLOSED] == 0:
    steps[MATCHED] = 0
  told = "; ".join(
    f"{name}: {'not in these lengths' if count is None else f'{count} steps'}"
    for name, count in steps.items()
  )
  return f"Shortest run to {ENOUGH:.0%} of the conventional accuracy, {wanted:.1%}: {told}."


def _scores(row: Outcome) -> str:
  pointing = "" if row.pointing is None else f", grid pointing {row.pointing.written('.3f')}"
  return row.accuracy.written(".1%") + pointing


def _plot(found: list[Outcome]) -> Figure:
  teacher, *others = found
  by_start = {
    name: [row for row in others if row.start == name]
    for name in dict.fromkeys(row.start for row in others)
  }
  panels = [
    render.Panel(
      curves={name: curve((r.steps, r.accuracy) for r in own) for name, own in by_start.items()},
      x="steps",
      y="accuracy",
      percent=True,
      levels={TEACHER: teacher.accuracy.value},
      factors=True,
    )
  ]
  played = {
    name: [(row.steps, row.pointing) for row in own if row.pointing is not None]
    for name, own in by_start.items()
  }
  if any(played.values()):
    panels.append(
      render.Panel(
        curves={name: curve(points) for name, points in played.items() if points},
        x="steps",
        y="grid pointing score",
        levels={} if teacher.pointing is None else {TEACHER: teacher.pointing.value},
        factors=True,
      )
    )
  return render.curves(panels)

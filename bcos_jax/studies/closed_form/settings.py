"""What the closed form depends on: number and kind of pictures, and B. A study."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from ... import render
from ..lab import Lab
from ..seeds import curve
from ..study import Findings
from ..tables import Table
from . import races, summary
from .networks import Network, in_closed_form, training_pictures
from .summary import Outcome

if TYPE_CHECKING:
  from matplotlib.figure import Figure

COUNTS = (32, 128, 512, 2048, 8192)
EXPONENTS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
USUAL_COUNT, USUAL_B = 512, 2.0
OWN, MIXED, PHOTOGRAPHS, NOISE = "training pictures", "half of each", "photographs", "noise"


@dataclasses.dataclass(frozen=True)
class Variation:
  """One closed form: from what, how many and which B; B=2 and 512 unless that is varied."""

  kind: str = OWN
  count: int = USUAL_COUNT
  b: float = USUAL_B

  def __str__(self) -> str:
    return f"{self.count} {self.kind}, B={self.b:g}"


def study(*labs: Lab) -> Findings:
  """Fits one network from other numbers and kinds of pictures and with other exponents.

  Args:
    *labs: One for each seed.
  """
  lab = labs[0]
  measured = [_measured(of_seed) for of_seed in labs]
  teacher, *found = summary.rows([[teacher, *own.values()] for teacher, own in measured])
  outcomes = dict(zip(measured[0][1], found, strict=True))
  words = (lab.dataset, lab.network, f"{len(labs)} seeds" if len(labs) > 1 else "")
  return Findings(
    title=f"What the closed form depends on, {', '.join(filter(None, words))}",
    question="Conventional networks, one per seed, are B-cosified in closed form, without labels "
    "and without training, with one setting changed at a time: the number of training pictures, "
    "the exponent B, or what pictures they are. Half of each: training pictures and crops of "
    "photographs. Photographs: crops of two of scikit-learn's, of random size and place, as grey "
    "as the data set. Noise: each pixel on its own, uniform. Test accuracy; grid pointing game as "
    "in the study closed-form.",
    table=Table(
      {
        "pictures": "",
        "number": "d",
        "B": "g",
        "accuracy": ".1%",
        "accuracy ±": ".1%",
        "grid pointing": ".3f",
        "pointing ±": ".3f",
      },
      [
        ("conventional", None, None, *summary.cells(teacher)),
        *(
          (one.kind, one.count, one.b, *summary.cells(outcome)) for one, outcome in outcomes.items()
        ),
      ],
    ),
    answer=_answer(teacher, outcomes),
    plots={"calibration": ("Accuracy and localisation by setting", _plot(teacher, outcomes))},
  )


def variations(there: int, short: bool) -> list[Variation]:
  """Returns what is fitted, of as many training pictures as there are."""
  if short:
    return [
      Variation(count=32),
      Variation(count=64),
      Variation(NOISE, count=32),
      Variation(count=32, b=1.5),
    ]
  counts = [Variation(count=count) for count in COUNTS if count <= there]
  kinds = [Variation(kind) for kind in (MIXED, PHOTOGRAPHS, NOISE)]
  exponents = [Variation(b=b) for b in EXPONENTS if b != USUAL_B]
  return [*counts, *kinds, *exponents]


def _measured(lab: Lab) -> tuple[races.Entrant, dict[Variation, races.Entrant]]:
  """Returns the conventional network's and every variation's figures."""
  conventional = lab.conventional()
  given = conventional.model, jax.device_get(conventional.variables)
  own = training_pictures(lab, conventional, max(COUNTS))
  rng = np.random.default_rng(lab.seed)
  found = {}
  for one in variations(len(own), lab.short):
    network = _fitted(lab, given, one, _pictures(one, own, rng))
    found[one] = races.measured(lab, str(one), *network)
    lab.say(f"  {one}: accuracy {found[one].accuracy:.1%}")
  return races.measured(lab, "conventional", *given), found


def _fitted(lab: Lab, given: Network, one: Variation, pictures: np.ndarray) -> Network:
  return in_closed_form(lab, given, one.kind.replace(" ", "-"), pictures, b=one.b)


def _pictures(one: Variation, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  count, shape = one.count, own.shape[1:]
  if one.kind == OWN:
    return own[:count]
  if one.kind == NOISE:
    return rng.random((count, *shape), np.float32)
  if one.kind == PHOTOGRAPHS:
    return crops(count, shape, rng)
  half = count // 2
  return rng.permutation(np.concatenate([own[:half], crops(count - half, shape, rng)]))


def crops(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
  """Returns crops [count, H, W, colors] in [0, 1] of scikit-learn's two photographs.

  Args:
    count: Of crops.
    shape: (H, W, colors), where colors is 3, or 1 for grey.
    rng: Chooses photograph, place and size, from the given one to the whole height.
  """
  from PIL import Image
  from sklearn import datasets  # Slow to import.

  height, width, colors = shape
  photographs = [Image.fromarray(picture) for picture in datasets.load_sample_images().images]
  made = np.empty((count, *shape), np.float32)
  for i in range(count):
    picture = photographs[rng.integers(len(photographs))]
    factor = rng.uniform(1, min(picture.height / height, picture.width / width))
    size = int(width * factor), int(height * factor)
    left, top = (int(rng.integers(a - b + 1)) for a, b in zip(picture.size, size, strict=True))
    crop = picture.resize((width, height), box=(left, top, left + size[0], top + size[1]))
    made[i] = np.asarray(crop.convert("L" if colors == 1 else "RGB")).reshape(shape) / 255
  return made


def _answer(teacher: Outcome, outcomes: dict[Variation, Outcome]) -> tuple[str, ...]:
  usual = outcomes.get(Variation())
  said = [f"Conventional: accuracy {teacher.accuracy.written('.1%')}."]
  if usual:
    said.append(f"{Variation()}: accuracy {usual.accuracy.written('.1%')}.")
  accurate = max(outcomes, key=lambda one: outcomes[one].accuracy.value)
  said.append(f"Most accurate: {accurate} ({outcomes[accurate].accuracy.written('.1%')}).")
  pointing = {c: o.pointing for c, o in outcomes.items() if o.pointing is not None}
  if pointing:
    best = max(pointing, key=lambda one: pointing[one].value)
    said.append(f"Best grid pointing: {best} ({pointing[best].written('.3f')}).")
  foreign = {one: o for one, o in outcomes.items() if one.kind != OWN}
  told = (f"{one.kind} {o.accuracy.written('.1%')}" for one, o in foreign.items())
  return (*said, f"From other pictures: {', '.join(told)}.")


def _plot(teacher: Outcome, outcomes: dict[Variation, Outcome]) -> Figure:
  own = {one: outcome for one, outcome in outcomes.items() if one.kind == OWN}
  by_count = {c.count: o for c, o in own.items() if c.b == USUAL_B}
  usual = min(by_count, key=lambda count: abs(count - USUAL_COUNT))
  by_b = dict(sorted((c.b, o) for c, o in own.items() if c.count == usual))
  panels = []
  for label, found, factors in (("pictures", by_count, True), ("B", by_b, False)):
    points = [(at, o.pointing) for at, o in found.items() if o.pointing is not None]
    curves = {"accuracy": curve((at, o.accuracy) for at, o in found.items())}
    if points:
      curves["grid pointing"] = curve(points)
    levels = {"accuracy, conventional": teacher.accuracy.value}
    panels.append(
      render.Panel(curves=curves, x=label, y="accuracy and score", levels=levels, factors=factors)
    )
  return render.curves(panels)

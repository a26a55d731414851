"""The exponent B from 1 to 3: a study of accuracy against localisation."""

from __future__ import annotations

from .. import render
from .lab import Lab, Measures
from .study import Findings
from .tables import Table

BS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
_SHORT = (1.0, 2.0)


def study(lab: Lab) -> Findings:
  """B-cosifies one pretrained network with several B and fine-tunes each alike."""
  values = _SHORT if lab.short else BS
  found: dict[float, Measures] = {}
  for b in values:
    published = b == 2  # As the recipe has it, so that studies share the network.
    result = lab.bcosified(*([] if published else [f"--config.ops.b={b}"]))
    found[b] = lab.measures(result)
    lab.say(f"  B={b:g}: accuracy {found[b].accuracy:.1%}")
  accurate = max(found, key=lambda b: found[b].accuracy)
  answer = [f"Most accurate: B={accurate:g} ({found[accurate].accuracy:.1%})."]
  pointing = {b: m.grid_pointing for b, m in found.items() if m.grid_pointing is not None}
  if pointing:
    best = max(pointing, key=lambda name: pointing[name])
    answer.append(
      f"Best grid pointing score: B={best:g} ({pointing[best]:.3f}); at B={values[0]:g} it is "
      f"{_written(pointing.get(values[0]))}, a uniform map scores {1 / lab.setting.grid**2:.3f}."
    )
  return Findings(
    title=f"B from {values[0]:g} to {values[-1]:g}, {lab.dataset}",
    question="One pretrained conventional network is B-cosified with several exponents B, no "
    f"biases, and fine-tuned for {lab.setting.finetune} steps each. Grid pointing game: "
    f"{lab.setting.grid}x{lab.setting.grid}, at most {lab.setting.num_grids} grids; energy "
    f"pointing game: {lab.setting.num_images} pictures with masks.",
    table=Table(
      {"B": "g", "accuracy": ".1%", "grid pointing": ".3f", "±": ".3f", "energy pointing": ".3f"},
      [
        (b, m.accuracy, m.grid_pointing, m.grid_pointing_error, m.energy_pointing)
        for b, m in found.items()
      ],
    ),
    answer=tuple(answer),
    plots={"b-sweep": ("Accuracy and localisation by B", _plot(lab, found))},
  )


def _plot(lab: Lab, found: dict[float, Measures]):
  accuracy = render.Panel(
    curves={"accuracy": (list(found), [m.accuracy for m in found.values()])},
    x="B",
    y="accuracy",
    percent=True,
    levels={"conventional": lab.conventional().metrics["accuracy"]},
  )
  scores = {}
  pointing = {b: m for b, m in found.items() if m.grid_pointing is not None}
  if pointing:
    scores["grid pointing"] = (
      list(pointing),
      [m.grid_pointing for m in pointing.values()],
      [m.grid_pointing_error for m in pointing.values()],
    )
  if all(m.energy_pointing is not None for m in found.values()):
    scores["energy pointing"] = (list(found), [m.energy_pointing for m in found.values()])
  if not scores:
    return render.curves([accuracy])
  level = {"uniform map, grid": 1 / lab.setting.grid**2}
  return render.curves(
    [accuracy, render.Panel(curves=scores, x="B", y="localisation score", levels=level)]
  )


def _written(score: float | None) -> str:
  return "not known" if score is None else f"{score:.3f}"

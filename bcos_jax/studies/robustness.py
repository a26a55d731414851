"""Robustness to attacks and corruptions: a study (left open in arXiv 2411.00715)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import jax
import numpy as np

from .. import attribution, metrics, render
from ..train.loop import TrainResult
from .lab import Lab, StudyPictures
from .study import Findings
from .tables import Table

RADII = (1 / 255, 2 / 255, 4 / 255)
LENGTHS = (0.25, 0.5, 1.0)
SEVERITIES = (1, 3, 5)
_STEPS = 10
_NETWORKS = ("conventional", "B-cosified")
# Both kinds of networks, whatever they were trained with: a saturated loss hides its gradient.
_LOSS = "margin"

Change = Callable[[TrainResult, StudyPictures], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Row:
  change: str
  strength: str
  scores: tuple[metrics.RobustnessScores, ...]  # By network, in the order of `_NETWORKS`.


def study(lab: Lab) -> Findings:
  """Attacks and corrupts pictures, and compares a conventional network with its B-cosified twin."""
  networks = (lab.conventional(), lab.bcosified())
  explainers = (_input_x_gradient(networks[0]), _own(networks[1]))
  some, rows = lab.pictures.some(lab.setting.num_images), []
  for name, strength, change in _changes(lab.seed):
    scores = tuple(
      metrics.robustness(
        result.model,
        jax.device_get(result.variables),
        some.images,
        change(result, some),
        some.labels,
        explainer,
        batch_size=50,
      )
      for result, explainer in zip(networks, explainers, strict=True)
    )
    rows.append(_Row(name, strength, scores))
    lab.say(f"  {name} {strength}: " + ", ".join(f"{s.changed_accuracy:.1%}" for s in scores))
  return Findings(
    title=f"Robustness: conventional and B-cosified, {lab.dataset}",
    question=f"{len(some.images)} test pictures are attacked, each network with its own "
    f"gradients (margin loss, PGD of {_STEPS} steps from a random start), or corrupted, both "
    "networks alike. Radii are in colour values from 0 to 1; of l2 over the whole picture. The "
    "similarity is Spearman's rank correlation of the explanation of the true class before and "
    "after: the B-cosified network's own, and input x gradient of the conventional network; "
    f"with noise it would be {rows[0].scores[0].random:.2f}.",
    table=_table(rows),
    answer=_answer(rows),
    plots={"robustness": ("Accuracy and explanations under attack", _plot(rows))},
  )


def _changes(seed: int) -> Iterator[tuple[str, str, Change]]:
  """Yields name, strength, and the function that changes pictures."""
  yield "none", "", lambda result, pictures: pictures.images
  for epsilon in RADII:
    yield "FGSM", _radius(epsilon), _attack(metrics.fgsm, epsilon=epsilon)
  for epsilon in RADII:
    yield "PGD linf", _radius(epsilon), _pgd("linf", epsilon, seed)
  for epsilon in LENGTHS:
    yield "PGD l2", f"{epsilon:g}", _pgd("l2", epsilon, seed)
  for name in metrics.CORRUPTIONS:
    for severity in SEVERITIES:
      yield name.replace("_", " "), f"severity {severity}", _corruption(name, severity, seed)


def _radius(epsilon: float) -> str:
  return f"{epsilon * 255:g}/255"


def _pgd(norm: str, epsilon: float, seed: int) -> Change:
  return _attack(metrics.pgd, norm=norm, epsilon=epsilon, steps=_STEPS, seed=seed)


def _attack(attack: Callable, **settings) -> Change:
  def change(result: TrainResult, pictures: StudyPictures) -> np.ndarray:
    variables = jax.device_get(result.variables)
    return attack(
      result.model,
      variables,
      pictures.images,
      pictures.labels,
      loss=_LOSS,
      batch_size=50,
      **settings,
    )

  return change


def _corruption(name: str, severity: int, seed: int) -> Change:
  return lambda result, pictures: metrics.corrupt(pictures.images, name, severity, seed)


def _own(result: TrainResult) -> Callable:
  return metrics.attribute_with(result.model, jax.device_get(result.variables))


def _input_x_gradient(result: TrainResult) -> Callable:
  variables = jax.device_get(result.variables)
  return attribution.attribute_with("input_x_gradient", result.model, variables)


def _table(rows: list[_Row]) -> Table:
  columns = {"change": "", "strength": ""}
  columns |= {f"accuracy, {name}": ".1%" for name in _NETWORKS}
  columns |= {f"similarity, {name}": ".2f" for name in _NETWORKS}
  return Table(
    columns,
    [
      (
        row.change,
        row.strength,
        *(s.changed_accuracy for s in row.scores),
        *(s.mean for s in row.scores),
      )
      for row in rows
    ],
  )


def _answer(rows: list[_Row]) -> tuple[str, ...]:
  attacks = ("FGSM", "PGD linf", "PGD l2")
  lines = []
  for kind, chosen in (
    ("attacks", [row for row in rows if row.change in attacks]),
    ("corruptions", [row for row in rows if row.change not in (*attacks, "none")]),
  ):
    accuracy, similarity = (
      [np.mean([read(row.scores[i]) for row in chosen]) for i in range(len(_NETWORKS))]
      for read in (lambda s: s.changed_accuracy, lambda s: s.mean)
    )
    lines.append(
      f"Mean over {kind}: accuracy {accuracy[1]:.1%} B-cosified and {accuracy[0]:.1%} "
      f"conventional; similarity of explanations {similarity[1]:.2f} and {similarity[0]:.2f}."
    )
  return tuple(lines)


def _plot(rows: list[_Row]):
  clean = next(row for row in rows if row.change == "none")

  def curves(change: str, strengths: tuple[float, ...], read: Callable) -> dict:
    chosen = [clean, *(row for row in rows if row.change == change)]
    return {
      name: ([0.0, *strengths], [read(row.scores[i]) for row in chosen])
      for i, name in enumerate(_NETWORKS)
    }

  def accuracy(s: metrics.RobustnessScores) -> float:
    return s.changed_accuracy

  def similarity(s: metrics.RobustnessScores) -> float:
    return s.mean

  radii = tuple(epsilon * 255 for epsilon in RADII)
  by_radius: dict[str, Any] = {"title": "PGD, largest change", "x": "radius, in 255ths"}
  return render.curves(
    [
      render.Panel(
        curves=curves("PGD linf", radii, accuracy), y="accuracy", percent=True, **by_radius
      ),
      render.Panel(
        curves=curves("PGD l2", LENGTHS, accuracy),
        title="PGD, length of the change",
        x="radius",
        y="accuracy",
        percent=True,
      ),
      render.Panel(
        curves=curves("PGD linf", radii, similarity), y="similarity of explanations", **by_radius
      ),
    ]
  )

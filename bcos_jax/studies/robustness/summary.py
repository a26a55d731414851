"""What the study answers, in words and in curves, from its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ... import render
from ..tables import Table
from .adapted import MANIPULATED, RANDOM, UNBOUNDED, WORST, Radius
from .plain import ATTACKS, LENGTHS, in_255ths
from .rows import NAMES, ChangeRow, chosen

_SURE = 2  # standard errors that a difference has to be away from 0


def table(rows: list[ChangeRow]) -> Table:
  columns = {"change": "", "strength": ""}
  columns |= {f"accuracy, {name}": ".1%" for name in NAMES}
  columns |= {f"similarity, {name}": ".2f" for name in NAMES}
  return Table(columns, [row.cells() for row in rows])


def answer(
  rows: list[ChangeRow], adapted: Sequence[Radius], corruptions: tuple[str, ...]
) -> tuple[str, ...]:
  return (
    verdict(adapted),
    *(_worst(radius) for radius in adapted),
    _checks(rows, adapted),
    _manipulations(rows),
    *(
      _mean(kind, chosen(rows, *names))
      for kind, names in (("plain attacks", ATTACKS), ("corruptions", corruptions))
    ),
  )


def verdict(adapted: Sequence[Radius]) -> str:
  """Says whether the B-cosified network withstands attacks better, in the worst case."""
  better, worse, level = [], [], []
  for radius in adapted:
    lead, error = radius.lead()
    sides = better if lead > _SURE * error else worse if lead < -_SURE * error else level
    sides.append(in_255ths(radius.epsilon))
  claim = "That the B-cosified network withstands attacks better than the conventional one is"
  if better and not (worse or level):
    return f"{claim} supported: it does at every radius, in the worst case of all attacks."
  parts = [
    f"{words} at {' and '.join(where)}"
    for words, where in (
      ("it withstands more", better),
      ("it withstands less", worse),
      (f"the two differ by less than {_SURE} standard errors", level),
    )
    if where
  ]
  kind = "supported only in part" if better else "not supported"
  return f"{claim} {kind}: in the worst case of all attacks {', '.join(parts)}."


def _worst(radius: Radius) -> str:
  first, second = radius.accuracies()
  lead, error = radius.lead()
  turned = [found.success for found in radius.worst]
  return (
    f"Worst case at {in_255ths(radius.epsilon)}: accuracy {second:.1%} B-cosified and {first:.1%} "
    f"conventional, a difference of {100 * lead:+.1f} ± {100 * error:.1f} points (standard error, "
    f"same pictures); of those classified correctly before, {turned[1]:.1%} and {turned[0]:.1%} "
    "were turned."
  )


def _checks(rows: list[ChangeRow], adapted: Sequence[Radius]) -> str:
  missed, searched = (
    np.sum([read(radius) for radius in adapted], axis=0)
    for read in (Radius.missed, Radius.found_without_gradient)
  )
  (free,) = chosen(rows, UNBOUNDED)
  falling = all(
    list(column) == sorted(column, reverse=True)
    for column in zip(*(radius.accuracies() for radius in adapted), strict=True)
  )
  first, second = free.accuracies
  return (
    "Checks of the attacks: what PGD and Auto-PGD with the network's own gradient missed and an "
    f"adapted attack, transfer or the search found are {missed[1]} pictures B-cosified and "
    f"{missed[0]} conventional, over all radii; what only the search found, and so gradients hid, "
    f"{searched[1]} and {searched[0]}; accuracy {'never rises' if falling else 'RISES'} with the "
    f"radius; unbounded, Auto-PGD leaves {second:.1%} and {first:.1%}."
  )


def _manipulations(rows: list[ChangeRow]) -> str:
  parts = [
    f"{after.strength} {after.similarities[1]:.2f} and {after.similarities[0]:.2f} (random signs "
    f"{noisy.similarities[1]:.2f} and {noisy.similarities[0]:.2f})"
    for after, noisy in zip(chosen(rows, MANIPULATED), chosen(rows, RANDOM), strict=True)
  ]
  return (
    "Manipulated while the prediction stays, the similarity of explanations B-cosified and "
    f"conventional is at {'; at '.join(parts)}."
  )


def _mean(kind: str, rows: list[ChangeRow]) -> str:
  accuracy, similarity = (
    np.mean([read(row) for row in rows], axis=0)
    for read in (lambda row: row.accuracies, lambda row: row.similarities)
  )
  return (
    f"Mean over {kind}: accuracy {accuracy[1]:.1%} B-cosified and {accuracy[0]:.1%} "
    f"conventional; similarity of explanations {similarity[1]:.2f} and {similarity[0]:.2f}."
  )


def plot(rows: list[ChangeRow], radii: Sequence[float]):
  (clean,) = chosen(rows, "none")
  distances = tuple(epsilon * 255 for epsilon in radii)

  def curves(change: str, strengths: Sequence[float], read: Callable, suffix: str = "") -> dict:
    points = [clean, *chosen(rows, change)]
    return {
      name + suffix: ([0.0, *strengths], [read(row)[i] for row in points])
      for i, name in enumerate(NAMES)
    }

  def accuracy(row: ChangeRow) -> tuple:
    return row.accuracies

  def similarity(row: ChangeRow) -> tuple:
    return row.similarities

  plain, worst, random = ", PGD alone", ", worst case", ", random signs"
  return render.curves(
    [
      render.Panel(
        curves=curves("PGD linf", distances, accuracy, plain)
        | curves(WORST, distances, accuracy, worst),
        title="Largest change",
        x="radius, in 255ths",
        y="accuracy",
        percent=True,
      ),
      render.Panel(
        curves=curves("PGD l2", LENGTHS, accuracy, plain),
        title="Length of the change",
        x="radius",
        y="accuracy",
        percent=True,
      ),
      render.Panel(
        curves=curves(MANIPULATED, distances, similarity, ", manipulated")
        | curves(RANDOM, distances, similarity, random),
        title="Explanations, prediction kept",
        x="radius, in 255ths",
        y="similarity",
      ),
    ]
  )

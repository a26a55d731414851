"""Races of several seeds in one table."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

from ..seeds import Mean
from ..tables import Cell
from .races import Entrant


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """The chosen runs of one start and length, of all seeds.

  Attributes:
    start: Its name.
    steps: Of training.
    rates: The learning rates that were chosen, one per seed; empty for the start itself.
    accuracy: On the test pictures.
    pointing: Score of the grid pointing game; None unless every seed's network could play.
  """

  start: str
  steps: int
  rates: tuple[float, ...]
  accuracy: Mean
  pointing: Mean | None


def rows(seeds: Sequence[Sequence[Entrant]]) -> list[Outcome]:
  """Returns the chosen entrants of all seeds, in the order of the first."""
  chosen = [{(e.start, e.steps): e for e in entrants if e.chosen} for entrants in seeds]
  return [_row([of_seed[key] for of_seed in chosen]) for key in chosen[0]]


def _row(entrants: Sequence[Entrant]) -> Outcome:
  pointing = [e.pointing for e in entrants if e.pointing is not None]
  return Outcome(
    start=entrants[0].start,
    steps=entrants[0].steps,
    rates=tuple(e.rate for e in entrants if e.rate is not None),
    accuracy=Mean.of([e.accuracy or 0.0 for e in entrants]),
    pointing=Mean.of(pointing) if len(pointing) == len(entrants) else None,
  )


def reached(found: Sequence[Outcome], start: str, accuracy: float) -> int | None:
  """Returns the fewest steps after which a start's mean accuracy is so high; None if never."""
  return min(
    (row.steps for row in found if row.start == start and row.accuracy.value >= accuracy),
    default=None,
  )


def cells(outcome: Outcome) -> tuple[Cell, ...]:
  """Returns accuracy, its error, grid pointing and its error, for a table."""
  pointing = outcome.pointing
  return (
    outcome.accuracy.value,
    outcome.accuracy.error,
    None if pointing is None else pointing.value,
    None if pointing is None else pointing.error,
  )

"""Races of several seeds in one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np

from ..tables import Cell
from .races import Entrant


@dataclasses.dataclass(frozen=True)
class Mean:
  """Mean over seeds, and its standard error; that is None for a single seed."""

  value: float
  error: float | None

  @classmethod
  def of(cls, values: Sequence[float]) -> Mean:
    count = len(values)
    error = float(np.std(values, ddof=1) / count**0.5) if count > 1 else None
    return cls(float(np.mean(values)), error)

  def written(self, form: str) -> str:
    """Returns value and error as text, both by the format `form`."""
    return format(self.value, form) + (f" ± {self.error:{form}}" if self.error is not None else "")


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


def curve(points: Iterable[tuple[float, Mean]]) -> tuple[list[float], ...]:
  """Returns places, values and, of several seeds, errors, for a plot."""
  points = list(points)
  at, values = [x for x, _ in points], [mean.value for _, mean in points]
  errors = [mean.error for _, mean in points if mean.error is not None]
  return (at, values, errors) if len(errors) == len(points) else (at, values)

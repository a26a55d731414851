"""Curves of the output as the parts that a ranking puts first are removed, of images and texts.

Three rankings are measured on the same inputs: that of the explanation; a random one; and, as
oracle, that by the measured effect of removing each part alone. Where effects add up, as in a
linear model, no ranking is better than that oracle's; elsewhere an explanation may beat it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, TypeVar

import numpy as np

from ..attribution.running import Maker, removed_values
from ..attribution.task import Task
from ..errors import InputError
from .scores import Scored, assembled

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
CurveResult = TypeVar("CurveResult", bound="Curves")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves(Scored):
  """Scores that come from curves.

  Attributes:
    fractions: [F], the share of the parts that is removed or kept.
    start: [M], the output for the target of whole inputs.
    curves: [M, F], the output for the target at each fraction.
    random_curves: [M, F], with a random ranking.
    oracle_curves: [M, F], with the oracle's; None if not requested.
  """

  fractions: np.ndarray
  start: np.ndarray
  curves: np.ndarray
  random_curves: np.ndarray
  oracle_curves: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
  """Parts of inputs that are removed or kept: blocks of pixels, or tokens.

  Attributes:
    task: One target per input, and what a removal is.
    free: Which of an input's G parts are ranked, bool [N, G].
    movable: Which are removed where only the first of a ranking are kept, bool [N, G].
    make: From which parts remain, bool [B, G], to what a removal takes; see `removed_values`.
    own: Tree of arrays [N, ...] that it takes of each input.
  """

  task: Task
  free: np.ndarray
  movable: np.ndarray
  make: Maker | None = None
  own: Any = ()

  def start_and_effects(self, effects: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the output of whole inputs [N], and what it loses without each part [N, G]."""
    count, number = self.free.shape
    rows, places = np.nonzero(self.free) if effects else np.zeros((2, 0), int)
    jobs = np.concatenate([np.arange(count), rows])
    alone = np.concatenate([np.full(count, -1), places])  # a place that no part has
    values = self._values(jobs, lambda some: np.arange(number) != alone[some, None])
    if not effects:
      return values, None
    found = np.zeros(self.free.shape)
    found[rows, places] = values[rows] - values[count:]
    return values[:count], found

  def curve(self, ranks: np.ndarray, numbers: np.ndarray, keep: bool) -> np.ndarray:
    """Returns the output where the first parts of a ranking are removed, or alone are kept.

    Args:
      ranks: Each part's place in the ranking, int [N, G]; see `ranks_of`.
      numbers: How many parts are the first, int [N, F].
      keep: Whether the first are kept, and all other movable parts removed.

    Returns:
      [N, F].
    """
    count, steps = numbers.shape

    def remains(jobs: np.ndarray) -> np.ndarray:
      rows, which = np.divmod(jobs, steps)
      first = ranks[rows] < numbers[rows, which][:, None]
      return ~self.movable[rows] | first if keep else ~(self.free[rows] & first)

    return self._values(np.repeat(np.arange(count), steps), remains).reshape(count, steps)

  def losses(self, sets: np.ndarray) -> np.ndarray:
    """Returns what the output loses without each of S sets of parts, bool [S, G]: [N, S]."""
    count, number = len(self.free), len(sets)
    start = self.start_and_effects(effects=False)[0]
    rows = np.repeat(np.arange(count), number)
    values = self._values(rows, lambda jobs: ~sets[jobs % number])
    return start[:, None] - values.reshape(count, number)

  def _values(self, rows: np.ndarray, remains: Callable) -> np.ndarray:
    return removed_values(self.task, rows, remains, self.make, own=self.own)[:, 0]


def scored_curves(
  result: type[CurveResult],
  parts: Parts,
  measure: Measure,
  importance: np.ndarray,
  noise: np.ndarray,
  numbers: np.ndarray,
  *,
  keep: bool,
  oracle: bool,
  seed: int,
  reasons: Callable[[np.ndarray], Mapping[str, Any]],
  **whole: Any,
) -> CurveResult:
  """Measures the curves of three rankings, and scores them.

  Args:
    result: The class of the scores.
    parts: What is removed.
    measure: (curves [N, F], outputs of whole inputs [N]) -> scores [N].
    importance: Of the explanation, float [N, G].
    noise: The random ranking's, float [N, G].
    numbers: How many parts each fraction takes, int [N, F].
    keep: As for `Parts.curve`.
    oracle: Whether to measure the oracle's ranking: one output more for every part.
    seed: Of the order among equal parts.
    reasons: Outputs of whole inputs [N] -> as for `usable`.
    **whole: Further fields, as for `assembled`: `fractions` and `higher_is_better`.

  Raises:
    InputError: Every input is excluded.
  """
  start, effects = parts.start_and_effects(oracle)
  rankings = {"": importance, "random_": noise, "oracle_": effects}
  rows: dict[str, np.ndarray | None] = {"start": start}
  for name, ranking in rankings.items():
    curves = scores = None
    if ranking is not None:
      curves = parts.curve(ranks_of(ranking, parts.free, seed), numbers, keep)
      scores = measure(curves, start)
    rows |= {f"{name}curves": curves, f"{name}scores": scores}
  return assembled(result, reasons(start), rows, **whole)


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
  """Returns rising fractions as an array, or raises InputError."""
  array = np.asarray(fractions, np.float64)
  rising = array.ndim == 1 and len(array) > 1 and (np.diff(array) > 0).all()
  if not (rising and array[0] >= 0 and array[-1] <= 1):
    raise InputError(
      f"fractions={list(fractions)}, expected two or more rising numbers in [0, 1].",
      "For example: np.linspace(0, 0.8, 11).",
    )
  return array


def ranks_of(scores: np.ndarray, free: np.ndarray, seed: int) -> np.ndarray:
  """Returns each free part's place by falling score, from 0; others come after all of these.

  Args:
    scores: [N, G].
    free: bool [N, G].
    seed: Of the order among equal scores, an input's own by its number.
  """
  length = scores.shape[1]
  ties = np.stack(
    [np.random.default_rng((seed, i)).permutation(length) for i in range(len(scores))]
  )
  order = np.lexsort((ties, -scores, ~free))
  return np.argsort(order, axis=1)

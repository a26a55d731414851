"""What a benchmark of explanations is: a score that is prepared once, for any number of methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np

from ..scores import Scores, assembled, check_maps, random_maps, usable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
  """A score of maps of certain images; all that does not depend on the maps is measured already.

  Attributes:
    measure: Maps [N, H, W] -> scores [N], NaN where the score is not defined for a map.
    oracle: The best score, one or [N]; or the best maps known, [N, H, W].
    reasons: Why images cannot be scored, as for `scores.usable`.
    higher_is_better: Whether the oracle scores high.
    side: Height and width of the maps.
  """

  measure: Callable[[np.ndarray], np.ndarray]
  oracle: float | np.ndarray
  reasons: Mapping[str, np.ndarray]
  higher_is_better: bool
  side: tuple[int, int]

  @property
  def count(self) -> int:
    return len(next(iter(self.reasons.values())))

  def score(
    self, maps: np.ndarray, seed: int = 0, limits: tuple[np.ndarray, Any] | None = None
  ) -> Scores:
    """Scores the maps of one method.

    Args:
      maps: Float [N, H, W].
      seed: Of the random maps.
      limits: What `limits` returns, where it is known.

    Returns:
      Scores. Excluded are images that a reason excludes, and maps, such as flat ones, that the
      score is not defined for.

    Raises:
      InputError: Maps of another shape or with NaN, or nothing that can be scored.
    """
    check_maps(maps, (self.count, *self.side))
    noise, best = limits or self.limits(seed)
    scores = self._measured(maps)
    undefined = ~(np.isfinite(scores) & np.isfinite(noise))
    return assembled(
      Scores,
      {**self.reasons, "a map that the score is not defined for": undefined},
      {"scores": scores, "random_scores": noise, "oracle_scores": best},
      higher_is_better=self.higher_is_better,
    )

  def compare(self, maps: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Scores]:
    """Scores the maps of several methods, by name; random maps and the oracle's are scored once.

    Arguments, result and errors as for `score`.
    """
    limits = self.limits(seed)
    return {name: self.score(given, limits=limits) for name, given in maps.items()}

  def limits(self, seed: int = 0) -> tuple[np.ndarray, Any]:
    """Returns the scores of random maps, [N], and of the oracle, one or [N].

    Raises:
      InputError: Every image is excluded.
    """
    usable(self.reasons)
    noise = self._measured(random_maps(seed, range(self.count), self.side))
    known = np.ndim(self.oracle) == 3
    return noise, self._measured(np.asarray(self.oracle)) if known else self.oracle

  def _measured(self, maps: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
      return self.measure(np.asarray(maps))


def nothing_excluded(count: int) -> dict[str, np.ndarray]:
  """Returns the reasons of a benchmark that scores all of N images."""
  return {"no reason": np.zeros(count, bool)}

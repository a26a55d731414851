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

  def score(self, maps: np.ndarray, seed: int = 0) -> Scores:
    """Scores the maps of one method, float [N, H, W]; see `compare`."""
    return self.compare({"": maps}, seed)[""]

  def compare(self, maps: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Scores]:
    """Scores the maps of several methods, by name; random maps and the oracle's are scored once.

    Args:
      maps: Float [N, H, W] of each method.
      seed: Of the random maps.

    Returns:
      Scores by name. Excluded are images that a reason excludes, and maps, such as flat ones, that
      the score is not defined for.

    Raises:
      InputError: Maps of another shape or with NaN, or nothing that can be scored.
    """
    usable(self.reasons)
    for given in maps.values():
      check_maps(given, (self.count, *self.side))
    noise = self._measured(random_maps(seed, range(self.count), self.side))
    best = self.oracle
    if np.ndim(best) == 3:
      best = self._measured(np.asarray(best))
    return {name: self._scored(self._measured(given), noise, best) for name, given in maps.items()}

  def _measured(self, maps: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
      return self.measure(np.asarray(maps))

  def _scored(self, scores: np.ndarray, noise: np.ndarray, best: Any) -> Scores:
    undefined = ~(np.isfinite(scores) & np.isfinite(noise))
    return assembled(
      Scores,
      {**self.reasons, "a map that the score is not defined for": undefined},
      {"scores": scores, "random_scores": noise, "oracle_scores": best},
      higher_is_better=self.higher_is_better,
    )


def nothing_excluded(count: int) -> dict[str, np.ndarray]:
  """Returns the reasons of a benchmark that scores all of N images."""
  return {"no reason": np.zeros(count, bool)}

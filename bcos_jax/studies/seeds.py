"""Means over the seeds of a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np


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


def curve(points: Iterable[tuple[float, Mean]]) -> tuple[list[float], ...]:
  """Returns places, values and, of several seeds, errors, for a plot."""
  points = list(points)
  at, values = [x for x, _ in points], [mean.value for _, mean in points]
  errors = [mean.error for _, mean in points if mean.error is not None]
  return (at, values, errors) if len(errors) == len(points) else (at, values)

"""What the study measures on two networks, row by row of its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from ... import attribution, metrics
from ...train.loop import TrainResult
from ..lab import StudyPictures

NAMES = ("conventional", "B-cosified")
BATCH = 50


@dataclasses.dataclass(frozen=True)
class ChangeRow:
  """A change of the pictures, and what it did to each network, in the order of `NAMES`.

  Attributes:
    change: Its name.
    strength: In words.
    accuracies: None where the change is none of this network.
    similarities: Of explanations; None where they were not compared.
  """

  change: str
  strength: str
  accuracies: tuple[float | None, ...]
  similarities: tuple[float | None, ...] = (None, None)

  def cells(self) -> tuple:
    return (self.change, self.strength, *self.accuracies, *self.similarities)


@dataclasses.dataclass(frozen=True)
class Rival:
  """One of the two networks, with the explanations that it is judged by.

  Attributes:
    model: The network.
    variables: Its variables.
    explanation: A name of `metrics.attacks.MAPS`.
    explainer: The same explanation, (images, targets) -> maps [N, H, W].
  """

  model: Any
  variables: Mapping[str, Any]
  explanation: str
  explainer: Callable[[np.ndarray, np.ndarray], np.ndarray]

  @functools.cached_property
  def given(self) -> tuple[Any, Mapping[str, Any]]:
    return self.model, self.variables

  def compared(
    self, images: np.ndarray, changed: np.ndarray, targets: np.ndarray
  ) -> metrics.RobustnessScores:
    return metrics.robustness(
      *self.given, images, changed, targets, self.explainer, batch_size=BATCH
    )


def rivals(conventional: TrainResult, bcosified: TrainResult) -> tuple[Rival, Rival]:
  """Returns both networks: input x gradient explains the first, its own maps the second."""
  first, second = (
    (result.model, jax.device_get(result.variables)) for result in (conventional, bcosified)
  )
  return (
    Rival(*first, "input_x_gradient", attribution.attribute_with("input_x_gradient", *first)),
    Rival(*second, "own", metrics.attribute_with(*second)),
  )


Change = Callable[[Rival, StudyPictures], np.ndarray]


def changed_row(
  change: str,
  strength: str,
  function: Change,
  networks: tuple[Rival, Rival],
  pictures: StudyPictures,
) -> ChangeRow:
  """Measures both networks on pictures that a function changes for each."""
  scores = [
    rival.compared(pictures.images, function(rival, pictures), pictures.labels)
    for rival in networks
  ]
  accuracies = tuple(s.changed_accuracy for s in scores)
  return ChangeRow(change, strength, accuracies, tuple(s.mean for s in scores))


def chosen(rows: list[ChangeRow], *changes: str) -> list[ChangeRow]:
  """Returns the rows of some changes."""
  return [row for row in rows if row.change in changes]

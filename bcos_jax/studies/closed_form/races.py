"""Races: short trainings from one start, of several lengths and learning rates.

Every length has a run of its own, whose learning rate falls to 0 at its end. Which rate is best is
decided on training pictures that are held out; the test pictures are seen by the chosen run alone.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from ... import metrics
from ...errors import InputError
from ...train.loop import TrainResult
from ..lab import Lab, standard_error

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
LENGTHS = (10, 30, 100, 300)
BATCH = 128
SHORTLIST = 2
"""Rates that are tried for the longest runs: the best of the next shorter ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """What the runs of a race begin from.

  Attributes:
    name: In tables.
    recipe: Variant of the data set's recipe: "bcosify", "match" or "scratch".
    network: Model and variables; None for random ones.
    lengths: Of its runs, in steps.
    rates: Learning rates that are tried.
    teacher: Bundle of the network that "match" learns from; such runs read no labels, and their
      rates are judged by how often they agree with it.
    measure_start: Whether the start itself is an entrant.
  """

  name: str
  recipe: str
  network: tuple[Any, Any] | None
  lengths: tuple[int, ...] = LENGTHS
  rates: tuple[float, ...] = RATES
  teacher: pathlib.Path | None = None
  measure_start: bool = True

  @property
  def judge(self) -> str:
    """Name of the measure on held-out training pictures that chooses a rate."""
    return "agreement" if self.teacher else "accuracy"

  def overrides(self, steps: int) -> dict[str, Any]:
    """Returns what its runs change in the recipe, beyond data and learning rate."""
    if self.teacher is None:
      return {"optimizer.warmup_steps": 0}
    return {
      "objective.teacher": self.teacher,
      "optimizer.warmup_steps": min(10, steps // 2),
      "calibrate": 0,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrant:
  """One network of a race.

  Attributes:
    start: Name of what it began from.
    steps: Of training; 0 for the start itself.
    rate: Largest learning rate; None for the start itself.
    validation: The start's judge on the held-out training pictures; None for the start itself.
    accuracy: On the test pictures; None for a rate that was not chosen.
    pointing: Mean score of the grid pointing game; None likewise, or if the network classifies too
      few pictures rightly to play.
    pointing_error: Its standard error; None likewise.
  """

  start: str
  steps: int
  rate: float | None
  validation: float | None
  accuracy: float | None = None
  pointing: float | None = None
  pointing_error: float | None = None

  @property
  def chosen(self) -> bool:
    """Whether its rate was the best of its length."""
    return self.accuracy is not None


def race(lab: Lab, start: Start) -> list[Entrant]:
  """Trains from a start for every length; the best rate of each is tested."""
  entrants = []
  if start.network is not None and start.measure_start:
    entrants.append(measured(lab, start.name, *start.network))
  rates: Iterable[float] = start.rates[:2] if lab.short else start.rates
  for steps in start.lengths:
    if steps == max(start.lengths) and len(start.lengths) > 1:
      rates = sorted(best_first(entrants, entrants[-1].steps)[:SHORTLIST])
    runs = {rate: _trained(lab, start, steps, rate) for rate in rates}
    judged = {rate: result.metrics[start.judge] for rate, result in runs.items()}
    best = max(judged, key=lambda rate: judged[rate])
    for rate, result in runs.items():
      entrant = Entrant(start=start.name, steps=steps, rate=rate, validation=judged[rate])
      if rate == best:
        tested = measured(lab, start.name, result.model, jax.device_get(result.variables))
        entrant = dataclasses.replace(tested, steps=steps, rate=rate, validation=entrant.validation)
        lab.say(f"  {start.name}, {steps} steps: accuracy {tested.accuracy:.1%} at rate {rate:g}")
      entrants.append(entrant)
  return entrants


def best_first(entrants: Iterable[Entrant], steps: int) -> list[float]:
  """Returns the learning rates that were tried for a length, the best first."""
  tried = [e for e in entrants if e.steps == steps and e.rate is not None]
  return [e.rate for e in sorted(tried, key=lambda e: -(e.validation or 0)) if e.rate is not None]


def measured(lab: Lab, name: str, model: Any, variables: Any) -> Entrant:
  """Measures a network that is not trained further, on the test pictures."""
  logits = metrics.logits_of(model, variables, lab.pictures.images)
  accuracy = float(np.mean(logits.argmax(-1) == lab.pictures.labels))
  pointing = error = None
  try:
    game = lab.play(metrics.attribute_with(model, variables), logits)
    pointing, error = game.mean, standard_error(game)
  except InputError as few:
    lab.say(f"  {name}: no grid pointing game: {few.cause}")
  return Entrant(
    start=name,
    steps=0,
    rate=None,
    validation=None,
    accuracy=accuracy,
    pointing=pointing,
    pointing_error=error,
  )


def _trained(lab: Lab, start: Start, steps: int, rate: float) -> TrainResult:
  held_out = lab.setting.validation
  folder = f"{start.name.replace(' ', '-')}-{steps}-{rate:g}"
  overrides = {
    "data.train_split": f"train[{held_out}:]",
    "data.test_split": f"train[:{held_out}]",
    "data.batch_size": BATCH,
    "optimizer.lr": rate,
    "eval_every": 0,
    **start.overrides(steps),
  }
  return lab.trained(
    folder,
    f"{lab.dataset}:{start.recipe}",
    steps,
    *(f"--config.{key}={value}" for key, value in overrides.items()),
    init=start.network,
  )

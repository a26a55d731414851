"""The claims of B-cosification in sentences, whose numbers are paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..seeds import Mean
from .networks import BOTH, CLOSED, CONVENTIONAL, PUBLISHED, SCRATCH, NetworkScores

Seeds = Sequence[Mapping[str, NetworkScores]]

_ERRORS = 2
"""How many standard errors a difference has to be from 0 to be told."""


def mean_of(seeds: Seeds, of: Callable[[Mapping[str, NetworkScores]], float | None]) -> Mean | None:
  """Returns the mean over seeds; None unless every seed has a value."""
  values = [value for found in seeds if (value := of(found)) is not None]
  return Mean.of(values) if len(values) == len(seeds) else None


def accuracies(seeds: Seeds) -> list[str]:
  """Tells how far B-cosified networks are from others, in points."""
  pairs = [(BOTH, SCRATCH), (PUBLISHED, SCRATCH), (BOTH, PUBLISHED)]
  pairs += [(name, CONVENTIONAL) for name in (PUBLISHED, BOTH, CLOSED)]
  said = []
  for one, other in pairs:
    points = Mean.of([100 * (found[one].accuracy - found[other].accuracy) for found in seeds])
    said.append(f"Accuracy, {one}, less {other}: {points.written('.1f')} points{_verdict(points)}.")
  return said


def _verdict(difference: Mean) -> str:
  if difference.error is None or abs(difference.value) > _ERRORS * difference.error:
    return ""
  return f", within {_ERRORS} standard errors of none"


def speed_up(seeds: Seeds, steps: int) -> str:
  """Tells how much earlier than from scratch, in so many steps, that accuracy is reached."""
  parts = []
  for name in (PUBLISHED, BOTH):
    first = [found[name].first_step(found[SCRATCH].accuracy) for found in seeds]
    ratios = [steps / at for at in first if at]
    whole = len(ratios) == len(first)
    parts.append(f"{name}: {Mean.of(ratios).written('.1f') + ' times' if whole else 'not reached'}")
  return f"Speed-up to the accuracy from scratch after {steps} steps: {'; '.join(parts)}."


def localisation(seeds: Seeds) -> list[str]:
  """Tells how much better B-cos networks point than others."""
  return [
    *_game("Grid pointing", seeds, lambda one: one.grids),
    *_game("Energy pointing", seeds, lambda one: one.energy),
  ]


def _game(
  title: str, seeds: Seeds, scores: Callable[[NetworkScores], Mapping[str, float]]
) -> list[str]:
  """Compares, paired by seed, the best score of each B-cos network with others."""
  said = []
  for name in (CLOSED, PUBLISHED, BOTH):
    for other in (SCRATCH, CONVENTIONAL):
      pairs = [(scores(found[name]), scores(found[other])) for found in seeds]
      if all(own and others for own, others in pairs):
        mean = Mean.of([max(own.values()) - max(others.values()) for own, others in pairs])
        than = "the best post-hoc method" if other == CONVENTIONAL else other
        said.append(f"{title}, {name}, less {than}: {mean.written('.3f')}{_verdict(mean)}.")
  by_method = [scores(found[CONVENTIONAL]) for found in seeds]
  common = [name for name in by_method[0] if all(name in one for one in by_method)]
  if common:
    told = (f"{name} {Mean.of([one[name] for one in by_method]).written('.3f')}" for name in common)
    said.append(f"{title}, post-hoc methods of the conventional network: {', '.join(told)}.")
  return said


def completeness(seeds: Seeds) -> str:
  """Tells the largest error of all explanations."""
  worst = max(one.incomplete for found in seeds for one in found.values())
  return f"Explanations are complete: the largest error, relative, is {worst:.0e}."

"""Attacks adapted to B-cos networks, the worst case of all, and manipulated explanations."""

from __future__ import annotations

import dataclasses

import numpy as np

from ... import metrics
from ..lab import StudyPictures
from .plain import in_255ths
from .rows import BATCH, ChangeRow, Rival

WORST, UNBOUNDED = "worst case of the adapted", "APGD, unbounded"
MANIPULATED, RANDOM = "explanation manipulated", "random signs"
_PREFIX = "adapted: "
# What an attacker needs no B-cos network for; the rest was adapted to one, or needs no gradient.
_USUAL = ("PGD, margin", "APGD, cross-entropy", "APGD, ratio")


@dataclasses.dataclass(frozen=True)
class AttackLength:
  """How long attacks go on: gradients of an ascent, and queries of the search."""

  steps: int = 50
  queries: int = 300


@dataclasses.dataclass(frozen=True)
class Radius:
  """What all attacks of one radius did, by network, in the order of `NAMES`.

  Attributes:
    epsilon: The radius, in colour values from 0 to 1.
    worst: Of each network.
  """

  epsilon: float
  worst: tuple[metrics.WorstCase, metrics.WorstCase]

  def accuracies(self) -> tuple[float, float]:
    return self.worst[0].accuracy, self.worst[1].accuracy

  def lead(self) -> tuple[float, float]:
    """By how much more of the same pictures the B-cosified one withstands; its standard error."""
    first, second = (found.all_withstood.astype(float) for found in self.worst)
    difference = second - first
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)

  def missed(self) -> tuple[int, ...]:
    """Pictures that the usual gradient attacks did not turn, and another attack did."""
    return tuple(
      int((_withstood(found, _USUAL) & ~found.all_withstood).sum()) for found in self.worst
    )

  def found_without_gradient(self) -> tuple[int, ...]:
    """Pictures that the search turned, and no attack with this network's gradients did."""
    counts = []
    for found in self.worst:
      climbed = [n for n in found.withstood if n != "Square" and not n.startswith("transfer")]
      counts.append(int((_withstood(found, climbed) & ~found.withstood["Square"]).sum()))
    return tuple(counts)


def _withstood(found: metrics.WorstCase, names) -> np.ndarray:
  return np.logical_and.reduce([found.clean, *(found.withstood[name] for name in names)])


def attacked(
  networks: tuple[Rival, Rival],
  pictures: StudyPictures,
  epsilon: float,
  length: AttackLength,
  seed: int,
) -> tuple[Radius, list[ChangeRow]]:
  """Attacks both networks in every way; returns the worst cases, and a row per attack."""
  worst = []
  for rival, other in (networks, networks[::-1]):
    changed = metrics.adapted_attacks(
      *rival.given,
      pictures.images,
      pictures.labels,
      epsilon=epsilon,
      steps=length.steps,
      queries=length.queries,
      others={"the other network": other.given},
      batch_size=BATCH,
      seed=seed,
    )
    worst.append(metrics.worst_case(*rival.given, pictures.images, pictures.labels, changed))
  radius, strength = Radius(epsilon, (worst[0], worst[1])), in_255ths(epsilon)
  singles = [found.accuracies() for found in worst]
  rows = [
    ChangeRow(_PREFIX + name, strength, tuple(single.get(name) for single in singles))
    for name in dict.fromkeys([name for single in reversed(singles) for name in single])
  ]
  alike = (
    rival.compared(pictures.images, found.images, pictures.labels).mean
    for rival, found in zip(networks, worst, strict=True)
  )
  rows.append(ChangeRow(WORST, strength, radius.accuracies(), tuple(alike)))
  return radius, rows


def unbounded(
  networks: tuple[Rival, Rival], pictures: StudyPictures, length: AttackLength, seed: int
) -> ChangeRow:
  """Any attack that works turns every picture once every picture is allowed."""
  accuracies = []
  for rival in networks:
    changed = metrics.apgd(
      *rival.given,
      pictures.images,
      pictures.labels,
      epsilon=1.0,
      loss="margin",
      steps=length.steps,
      batch_size=BATCH,
      seed=seed,
    )
    found = metrics.worst_case(*rival.given, pictures.images, pictures.labels, {"apgd": changed})
    accuracies.append(found.accuracy)
  return ChangeRow(UNBOUNDED, in_255ths(1.0), tuple(accuracies))


def manipulated(
  networks: tuple[Rival, Rival],
  pictures: StudyPictures,
  epsilon: float,
  length: AttackLength,
  seed: int,
) -> list[ChangeRow]:
  """Explanations after manipulation, and after random changes; of the class predicted before."""
  images = pictures.images
  by_change: dict[str, list[metrics.RobustnessScores]] = {MANIPULATED: [], RANDOM: []}
  for rival in networks:
    predictions = metrics.logits_of(*rival.given, images).argmax(axis=1)
    changed = metrics.manipulate(
      *rival.given,
      images,
      explanation=rival.explanation,
      epsilon=epsilon,
      steps=length.steps,
      batch_size=BATCH,
      seed=seed,
    )
    noisy = metrics.random_change(images, epsilon, seed=seed)
    for name, after in ((MANIPULATED, changed), (RANDOM, noisy)):
      by_change[name].append(rival.compared(images, after, predictions))
  return [
    ChangeRow(
      name,
      in_255ths(epsilon),
      tuple(float(np.mean(s.changed_predictions == pictures.labels)) for s in scores),
      tuple(s.mean for s in scores),
    )
    for name, scores in by_change.items()
  ]

"""Plain attacks, each network with its own gradients, and corruptions of both alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ... import metrics
from ..lab import StudyPictures
from .rows import BATCH, Change, Rival

RADII = {"digits": (2 / 255, 4 / 255, 8 / 255)}
"""Of attacks by data set, where they are not `_RADII`: grey digits withstand more."""

_RADII = (1 / 255, 2 / 255, 4 / 255)
LENGTHS = (0.25, 0.5, 1.0)
SEVERITIES = (1, 3, 5)
STEPS = 10
ATTACKS = ("FGSM", "PGD linf", "PGD l2")
# Both kinds of networks, whatever they were trained with: a saturated loss hides its gradient.
_LOSS = "margin"


def radii(dataset: str) -> tuple[float, ...]:
  """Returns the radii of attacks on a data set, in colour values from 0 to 1."""
  return RADII.get(dataset, _RADII)


def in_255ths(epsilon: float) -> str:
  """Writes a radius for reading."""
  return f"{epsilon * 255:g}/255"


def changes(dataset: str, colors: int, seed: int) -> Iterator[tuple[str, str, Change]]:
  """Yields name, strength, and the function that changes pictures."""
  yield "none", "", lambda rival, pictures: pictures.images
  for epsilon in radii(dataset):
    yield "FGSM", in_255ths(epsilon), _attack(metrics.fgsm, epsilon=epsilon)
  for epsilon in radii(dataset):
    yield "PGD linf", in_255ths(epsilon), _pgd("linf", epsilon, seed)
  for epsilon in LENGTHS:
    yield "PGD l2", f"{epsilon:g}", _pgd("l2", epsilon, seed)
  for name in corruptions(colors):
    for severity in SEVERITIES:
      yield spoken(name), f"severity {severity}", _corruption(name, severity, seed)


def corruptions(colors: int) -> tuple[str, ...]:
  """Returns the corruptions that pictures of so many colours have: grey ones no saturation."""
  return tuple(name for name in metrics.CORRUPTIONS if colors == 3 or name != "saturate")


def spoken(name: str) -> str:
  """Returns a corruption's name in words."""
  return name.replace("_", " ")


def _pgd(norm: str, epsilon: float, seed: int) -> Change:
  return _attack(metrics.pgd, norm=norm, epsilon=epsilon, steps=STEPS, seed=seed)


def _attack(attack: Callable, **settings) -> Change:
  def change(rival: Rival, pictures: StudyPictures) -> np.ndarray:
    return attack(
      *rival.given, pictures.images, pictures.labels, loss=_LOSS, batch_size=BATCH, **settings
    )

  return change


def _corruption(name: str, severity: int, seed: int) -> Change:
  return lambda rival, pictures: metrics.corrupt(pictures.images, name, severity, seed)

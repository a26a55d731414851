"""Example pictures, generated or shipped with a package: nothing is downloaded."""

from __future__ import annotations

from typing import Any

from PIL import Image

from .networks import ServedNetwork

_DIGITS = tuple(map(str, range(10)))


def examples(network: ServedNetwork, count: int = 6) -> tuple[tuple[str, Image.Image], ...]:
  """Returns (name, picture) of a few pictures that suit a network.

  Digits for a network of ten classes that reads grey pictures or names its classes so, else
  drawn scenes. The network need not have seen the like; its answer is as honest for them.
  """
  if network.labels == _DIGITS and (network.bundle.labels or network.preprocess.colors == 1):
    return _digits(count)
  return _scenes(count, max(64, min(224, network.preprocess.size[0])))


def _digits(count: int) -> tuple[tuple[str, Image.Image], ...]:
  from sklearn import datasets

  from ..train.data import digits

  bunch: Any = datasets.load_digits()
  tests = digits.test_mask(bunch.target)
  found = []
  for i in tests.nonzero()[0]:
    name = f"digit {bunch.target[i]}"
    if len(found) < count and name not in dict(found):
      found.append((name, Image.fromarray((bunch.images[i] * (255 / 16)).round().astype("uint8"))))
  return tuple(found)


def _scenes(count: int, side: int) -> tuple[tuple[str, Image.Image], ...]:
  from ..train.data import shape_scenes, shapes

  # Scene i of the data set shows class i modulo their number: five apart, all differ.
  numbers = [5 * i for i in range(count)]
  return tuple(
    (
      shapes.CLASSES[number % len(shapes.CLASSES)],
      Image.fromarray(shape_scenes.drawn("test", number, side).image),
    )
    for number in numbers
  )

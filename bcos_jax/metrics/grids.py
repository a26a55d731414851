"""Grids for the grid pointing game: selection of pictures, and their arrangement.

The rules are those published with B-cos networks (arXiv 2205.10268, section 5; B-cos v2,
arXiv 2306.10898), kept to the letter down to the random numbers, so that the same network gives
the same grids. Cells are numbered column by column: cell k is in row k % g and column k // g.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import math

import jax
import numpy as np
from scipy import special

from ..errors import InputError, unknown_name


@dataclasses.dataclass(frozen=True)
class Selection:
  """The pictures that may enter grids.

  Attributes:
    images: Class to its eligible images (indices), the most confident first.
    num_images: Number of images looked at.
    num_correct: Number of these that are classified correctly.
  """

  images: dict[int, np.ndarray]
  num_images: int
  num_correct: int

  @property
  def num_eligible(self) -> int:
    """Number of images that are correct and confident."""
    return sum(map(len, self.images.values()))


def select(
  logits: np.ndarray, labels: np.ndarray, confidence: float = 0.5, probability: str = "sigmoid"
) -> Selection:
  """Finds the images that are classified correctly and with confidence.

  Args:
    logits: [N, C] floats, with the logit bias that the network adds.
    labels: [N] ints.
    confidence: Least probability of the largest logit, exceeded strictly; 0 admits all correct
      ones (the published variant without a threshold).
    probability: "sigmoid" of each logit, as published, or "softmax" over them.

  Raises:
    InputError: Shapes, labels or logits that make no sense, or a confidence outside [0, 1).
  """
  logits, labels = np.asarray(logits), np.asarray(labels)
  _check_classified(logits, labels)
  if not 0 <= confidence < 1:
    raise InputError(
      f"confidence={confidence}, expected at least 0 and below 1.", "The published value is 0.5."
    )
  if probability not in ("sigmoid", "softmax"):
    raise unknown_name("probability", probability, ("sigmoid", "softmax"))
  threshold = math.log(confidence / (1 - confidence)) if confidence else -math.inf
  best = logits.max(axis=1)
  if probability == "softmax":  # As the logit of the probability: log p / (1 - p).
    others = np.where(np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None], -np.inf, logits)
    best = best - special.logsumexp(others, axis=1)
  correct = logits.argmax(axis=1) == labels
  images = {}
  for label in np.unique(labels).tolist():
    own = np.flatnonzero(correct & (labels == label) & (best > threshold))
    if len(own):
      images[label] = own[np.argsort(-best[own], kind="stable")]
  return Selection(images, len(labels), int(correct.sum()))


def sample_grids(
  selection: Selection, grid: int, num_grids: int, *, seed: int = 42, skip: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses the pictures of each grid exactly as published.

  First a sequence of pictures: while more than n = grid**2 classes have pictures left, draw n of
  them without replacement (NumPy's legacy generator) and append the most confident unused picture
  of each, in the order of the draw. Then the grids: each takes the next n pictures of distinct
  classes from that sequence, passing over others.

  The published loader then moves one picture too far, so that one is lost after every grid and
  all grids but the first straddle two draws. `skip=1` keeps this, and with it the published
  grids; `skip=0` uses every picture.

  Args:
    selection: From `select`.
    grid: Pictures per side.
    num_grids: Most grids to make; there are fewer when pictures run out.
    seed: Of `np.random.RandomState`.
    skip: Pictures left out after each grid.

  Returns:
    (indices of images [G, n], their classes [G, n]), cells numbered column by column.

  Raises:
    InputError: If there is not a single grid, with the counts that explain it.
  """
  cells = grid * grid
  _check_grid(grid, num_grids, skip)
  sequence = _draw(selection, cells, seed)
  grids = list(itertools.islice(_distinct(sequence, cells, skip), num_grids))
  if not grids:
    raise _too_few(selection, grid, f"more than {cells} classes are")
  indices, classes = np.array(grids).transpose(2, 0, 1)
  return indices, classes


def random_grids(
  selection: Selection, grid: int, num_grids: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Chooses pictures as the game of ALOE does: random classes, and of each a random picture.

  Classes are distinct within a grid; a picture may be in several grids. ALOE draws among all
  pictures and drops a grid with any that is wrong or not confident; here such pictures are not
  drawn, so that every grid counts, and each class is as likely as another.

  Args:
    selection: From `select`.
    grid: Pictures per side.
    num_grids: Number of grids.
    seed: Of `np.random.default_rng`.

  Returns:
    (indices of images [G, n], their classes [G, n]), cells numbered column by column.

  Raises:
    InputError: Fewer classes than cells, with the counts that explain it.
  """
  _check_grid(grid, num_grids, 0)
  if len(selection.images) < grid * grid:
    raise _too_few(selection, grid, f"at least {grid * grid} classes are")
  random, known = np.random.default_rng(seed), sorted(selection.images)
  classes = np.stack([random.choice(known, grid * grid, replace=False) for _ in range(num_grids)])
  indices = [[random.choice(selection.images[k]) for k in row] for row in classes.tolist()]
  return np.array(indices), classes


def _check_grid(grid: int, num_grids: int, skip: int) -> None:
  if grid < 2 or num_grids < 1 or skip < 0:
    raise InputError(
      f"grid={grid}, num_grids={num_grids}, skip={skip}; expected a grid of at "
      "least 2, one grid or more, and no negative skip.",
      "For example: grid=2.",
    )


def _too_few(selection: Selection, grid: int, needed: str) -> InputError:
  return InputError(
    f"No {grid} x {grid} grid can be made: of {selection.num_images} images, "
    f"{selection.num_correct} are classified correctly and {selection.num_eligible} also "
    f"with confidence, in {len(selection.images)} classes; {needed} needed.",
    "Use a smaller grid, a lower confidence, more images or a better network.",
  )


def _draw(selection: Selection, cells: int, seed: int) -> list[tuple[int, int]]:
  """The published sequence of (image, class)."""
  random = np.random.RandomState(seed)
  queues = {label: iter(images.tolist()) for label, images in sorted(selection.images.items())}
  left = {label: len(selection.images[label]) for label in queues}
  sequence = []
  while len(eligible := [label for label in queues if left[label]]) > cells:
    for label in random.choice(eligible, cells, replace=False).tolist():
      sequence.append((next(queues[label]), label))
      left[label] -= 1
  return sequence


def _distinct(
  sequence: Sequence[tuple[int, int]], cells: int, skip: int
) -> Iterator[list[tuple[int, int]]]:
  """Cuts a sequence of (image, class) into runs of `cells` distinct classes."""
  position = 0
  while True:
    chosen: dict[int, int] = {}
    while len(chosen) < cells:
      if position >= len(sequence):
        return
      image, label = sequence[position]
      chosen.setdefault(label, image)
      position += 1
    yield [(image, label) for label, image in chosen.items()]
    position += skip


def make_grid(images: np.ndarray, grid: int, rescale: bool = False) -> np.ndarray:
  """Tiles pictures into a grid, column by column: picture k in row k % grid, column k // grid.

  Args:
    images: [..., grid * grid, H, W, C] floats.
    grid: Pictures per side.
    rescale: Whether to shrink each picture to H // grid x W // grid first (bilinear with
      anti-aliasing), for networks with a fixed input size.

  Returns:
    [..., H * grid, W * grid, C]; with `rescale`, [..., (H // grid) * grid, (W // grid) * grid, C].
  """
  images = np.asarray(images)
  *lead, count, height, width, channels = images.shape
  if count != grid * grid:
    raise InputError(
      f"{count} pictures for a {grid} x {grid} grid, expected {grid * grid}.",
      "Give one picture per cell.",
    )
  if rescale:
    height, width = height // grid, width // grid
    small = jax.image.resize(images, (*lead, count, height, width, channels), "bilinear")
    images = np.clip(np.asarray(small), images.min(), images.max())
  tiles = images.reshape(*lead, grid, grid, height, width, channels)  # (column, row)
  axes = (*range(len(lead)), *(len(lead) + axis for axis in (1, 2, 0, 3, 4)))
  return tiles.transpose(axes).reshape(*lead, grid * height, grid * width, channels)


def _check_classified(logits: np.ndarray, labels: np.ndarray) -> None:
  if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
    raise InputError(
      f"logits {logits.shape} and labels {labels.shape}, expected [N, C] and [N].",
      "Give one row of logits and one label per image.",
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise InputError(
      f"labels have dtype {labels.dtype}, expected integers.",
      "Give the number of each image's class, from 0.",
    )
  if labels.min() < 0 or labels.max() >= logits.shape[1]:
    raise InputError(
      f"labels span {labels.min()} to {labels.max()}, expected 0 to {logits.shape[1] - 1}.",
      "Count classes from 0, as the logits do.",
    )
  if not np.isfinite(logits).all():
    raise InputError(
      "logits contain NaN or infinite values.", "Look for NaN among the network's weights."
    )

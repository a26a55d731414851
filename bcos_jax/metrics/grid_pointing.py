"""The grid pointing game: localisation of each class in a grid of pictures.

Pictures of distinct classes, each classified rightly and confidently on its own, form a g x g
grid. Every class in the grid is explained in turn, and its score is the share of the positive
attribution that falls on its own picture: 1 is perfect, 1 / g**2 is blind.

Published with B-cos networks (arXiv 2205.10268, section 5; B-cos v2, arXiv 2306.10898). `grids`
has the rules that choose and place the pictures.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any, Protocol

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..batches import Progress, in_batches
from ..errors import InputError, unknown_name
from ..explain.conventions import as_published
from ..explain.images import Variables, explain
from ..render.color import box_average, check_window
from .grids import Selection, make_grid, random_grids, sample_grids, select
from .scores import Explainer, check_count, check_maps, random_maps

Attribute = Callable[[np.ndarray, np.ndarray], np.ndarray]
Logits = np.ndarray | Callable[[np.ndarray], np.ndarray]
_SAMPLINGS = {"published": sample_grids, "random": random_grids}


@dataclasses.dataclass(frozen=True)
class GridPointingResult:
  """Scores of a grid pointing game, with those of random and uniform maps.

  Attributes:
    scores: [G, g * g] floats in [0, 1]: for each grid, the score of each cell's class.
    random_scores: [G, g * g], the scores of Gaussian noise as attribution, on the same grids.
    requested: Number of grids requested; there are fewer where images ran out.
    selection: The images that could be used, and how many could not.
    num_empty: Attributions without any positive part; they score 0, as published.
  """

  scores: np.ndarray
  random_scores: np.ndarray
  requested: int
  selection: Selection
  num_empty: int

  @property
  def num_grids(self) -> int:
    return len(self.scores)

  @property
  def mean(self) -> float:
    return float(self.scores.mean())

  @property
  def percentiles(self) -> dict[int, float]:
    """The quartiles and the maximum that are published, by percent."""
    return {p: float(np.percentile(self.scores, p)) for p in (25, 50, 75, 100)}

  @property
  def uniform(self) -> float:
    """The score of the same attribution everywhere."""
    return 1.0 / self.scores.shape[1]

  @property
  def random(self) -> float:
    """The mean score of random attributions, measured on these grids."""
    return float(self.random_scores.mean())

  @property
  def oracle(self) -> float:
    """The score of an attribution inside the right cell only."""
    return 1.0

  def summary(self) -> dict[str, float]:
    """The results of the game, as plain numbers."""
    return {
      "mean": self.mean,
      **{f"percentile_{p}": v for p, v in self.percentiles.items()},
      "uniform": self.uniform,
      "random": self.random,
      "oracle": self.oracle,
      "num_grids": self.num_grids,
      "requested": self.requested,
      "num_images": self.selection.num_images,
      "num_correct": self.selection.num_correct,
      "num_eligible": self.selection.num_eligible,
      "num_empty": self.num_empty,
    }


class PictureSource(Protocol):
  """Pictures [H, W, C] by number, such as an array [N, H, W, C] or a list."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: Any, /) -> np.ndarray: ...


def grid_share(attributions: jax.Array, grid: int, smooth: int = 0) -> jax.Array:
  """The share of positive attribution that each cell of a grid holds. Jittable.

  Args:
    attributions: [..., H, W] floats, signed; height and width divisible by `grid`.
    grid: Cells per side.
    smooth: Odd width of an averaging window (stride 1, zeros outside counted), 0 for none. It
      comes before negative values are dropped, as published.

  Returns:
    [..., grid * grid] floats that sum to 1, or all 0 where nothing is positive. NaN stays NaN.

  Raises:
    InputError: A size not divisible by `grid`, or an even window.
  """
  height, width = attributions.shape[-2:]
  if grid < 1 or height % grid or width % grid:
    raise InputError(
      f"A map of {height} x {width} pixels has no {grid} x {grid} equal cells.",
      "Pass maps of the grid's size.",
    )
  positive = jnp.maximum(box_average(jnp.asarray(attributions), smooth), 0)
  cells = positive.reshape(*positive.shape[:-2], grid, height // grid, grid, width // grid)
  mass = jnp.sum(cells, axis=(-3, -1)).swapaxes(-1, -2)  # column by column
  mass = mass.reshape(*mass.shape[:-2], grid * grid)
  total = jnp.sum(mass, axis=-1, keepdims=True)
  return jnp.where(mass <= 0, 0.0, mass / jnp.where(total == 0, 1.0, total))


def grid_pointing_game(
  attribute: Attribute | np.ndarray,
  logits: Logits,
  images: PictureSource,
  labels: np.ndarray,
  *,
  grid: int = 3,
  num_grids: int = 250,
  smooth: int = 15,
  confidence: float = 0.5,
  probability: str = "sigmoid",
  sampling: str = "published",
  rescale: bool = False,
  batch_size: int = 8,
  seed: int = 42,
  progress: Progress = iter,
) -> GridPointingResult:
  """Plays the grid pointing game.

  The defaults are those of B-cos networks. The game of ALOE takes grid=2, confidence=0.95,
  sampling="random", smooth=0, explains with `windowed`, and takes probability="softmax" where a
  network was trained with cross-entropy. Networks with a fixed input size, such as ViTs, explain
  with `strided`, or play with `rescale`.

  Args:
    attribute: Called as `attribute(grids [B, H, W, C], targets [B, n])`, returns signed maps
      [B, n, H, W]; see `attribute_with` (here and in `attribution`), `for_grids`, `strided` and
      `windowed`. B is always `batch_size`. Or precomputed maps [G, n, H, W], of the grids that
      `sample_grids` (or `random_grids`) and `make_grid` give for the same arguments.
    logits: [N, C] of the single images, or a function from images [B, H, W, C] to [B, C].
    images: [N, H, W, C] in [0, 1], or a sequence of N such pictures, read when needed.
    labels: [N] ints.
    grid, num_grids: Pictures per side; most grids to play. Published: 250 or 500.
    smooth: Odd width of the averaging window, 0 for none. Published: 15, for 224-pixel pictures.
    confidence, probability, rescale: See `select` and `make_grid`.
    sampling: "published", see `sample_grids`, or "random", see `random_grids`.
    batch_size, progress: Grids explained at once; what wraps the loop, e.g. `tqdm.tqdm`.
    seed: Of the sampling, and of the random maps.

  Raises:
    InputError: Too few usable images (see `sample_grids`), or maps of a wrong shape or with NaN.
  """
  check_window(smooth)
  check_count("batch_size", batch_size)
  if sampling not in _SAMPLINGS:
    raise unknown_name("sampling", sampling, _SAMPLINGS)
  logits = _logits(logits, images, batch_size * grid * grid)
  selection = select(logits, labels, confidence, probability)
  indices, classes = _SAMPLINGS[sampling](selection, grid, num_grids, seed=seed)
  if not callable(attribute):
    _check_count_of(attribute, len(indices))

  def play(rows: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    tiles = np.stack([_stacked(images, line) for line in indices[rows]])
    return _played(attribute, make_grid(tiles, grid, rescale), classes, rows, smooth, seed)

  scores, empty, noise = in_batches(
    play, np.arange(len(indices)), batch_size, progress, exact=True, precision=None
  )
  return GridPointingResult(scores, noise, num_grids, selection, int(empty.sum()))


def _played(
  attribute: Attribute | np.ndarray,
  grids: np.ndarray,
  classes: np.ndarray,
  rows: np.ndarray,
  smooth: int,
  seed: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns scores [B, n], which maps are empty [B, n], and the scores of random maps [B, n]."""
  cells = classes.shape[1]
  maps = attribute(grids, classes[rows]) if callable(attribute) else np.asarray(attribute)[rows]
  check_maps(maps, (len(rows), cells, *grids.shape[1:3]))
  side = math.isqrt(cells)
  noise = random_maps(seed, rows, maps.shape[1:])
  return *_own_share(maps, side, smooth), _own_share(noise, side, smooth)[0]


def attribute_with(model: nn.Module, variables: Variables, *, published: bool = False) -> Attribute:
  """The contributions of `explain`: one forward and n backward passes per grid of n classes.

  With one target per image it is an explainer for every other metric as well.

  Args:
    model, variables: The network.
    published: Whether contributions are those of the authors' code, which for B-cosified networks
      do not add up to the output; see `explain.conventions.as_published`.
  """

  def attribute(grids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    found = explain(model, variables, grids, target=targets)
    if published:
      found = as_published(found, model.ops.encoding)
    return np.asarray(found.contributions)

  return attribute


def for_grids(explainer: Explainer) -> Attribute:
  """Makes an explainer of one target per image, (images [N], targets [N]) -> maps [N, H, W], one
  for grids: a grid of n classes is given to it n times, in one batch."""

  def attribute(grids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    count, classes = targets.shape
    maps = np.asarray(explainer(grids.repeat(classes, axis=0), targets.reshape(-1)))
    check_maps(maps, (count * classes, *grids.shape[1:3]))
    return maps.reshape(count, classes, *maps.shape[1:])

  return attribute


@functools.partial(jax.jit, static_argnums=(1, 2))
def _own_share(maps: jax.Array, grid: int, smooth: int) -> tuple[jax.Array, jax.Array]:
  """Maps [B, n, H, W] -> (score of each map's own cell [B, n], whether it has no mass [B, n])."""
  shares = grid_share(maps, grid, smooth)
  return jnp.diagonal(shares, axis1=-2, axis2=-1), jnp.sum(shares, axis=-1) == 0


def _logits(logits: Logits, images: PictureSource, size: int) -> np.ndarray:
  """Returns the logits of the single images, given or computed."""
  if callable(logits):
    predict, rows = logits, np.arange(len(images))
    return in_batches(lambda batch: predict(_stacked(images, batch)), rows, size, precision=None)
  if len(images) != len(logits):
    raise InputError(f"{len(images)} images, but logits of {len(logits)}.", "Give one per image.")
  return logits


def _stacked(images: PictureSource, rows: np.ndarray) -> np.ndarray:
  return np.stack([np.asarray(images[i], np.float32) for i in rows.tolist()])


def _check_count_of(maps: np.ndarray, count: int) -> None:
  if len(maps) != count:
    raise InputError(
      f"{len(maps)} grids' maps were given, but {count} grids are played.",
      "Compute maps of the grids that the same arguments give, in their order.",
    )

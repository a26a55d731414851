"""Attributions that only see outputs: what happens where parts of the image are absent."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..batches import filled
from ..errors import InputError
from .gradients import with_numbers
from .running import Maker, removed_values
from .settings import Method
from .task import Array, Task, check_choice, check_count, check_share

OVERLAPS = ("mean", "share")


def masked_values(task: Task, make: Maker, shared: Any, count: int) -> np.ndarray:
  """Returns what is explained of every image under every mask, float64 [N, count, K].

  Args:
    task: What is explained.
    make: A function of a module: `make(shared, (), numbers of masks [B])` returns how much of each
      pixel remains, float32 [B, H, W] in [0, 1]. Masks are made on the device.
    shared: Tree of arrays that describe the masks of all images.
    count: Masks per image.
  """
  rows, numbers = with_numbers(np.arange(len(task)), count)
  values = removed_values(task, rows, lambda jobs: numbers[jobs], make, shared)
  return values.reshape(len(task), count, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
  """Occlusion: by how much the target drops without a window (arXiv 1311.2901, section 4.2).

  Args:
    window: Side of the square window, in pixels. Published with B-cos networks: 32.
    stride: From one window to the next; the last ones may be cut by the image's border.
    overlap: 'mean': a pixel gets the mean drop of the windows that cover it (Captum); 'share':
      each window shares its drop among its pixels, and a pixel gets the sum (B-cos v2).
    baseline: What a pixel becomes, as for `integrated_gradients`. Published: 0.
    score: 'logit', 'softmax' or 'sigmoid': what of a class is measured.
  """

  name: ClassVar[str] = "occlusion"
  batch_size: ClassVar[int] = 64
  window: int = 32
  stride: int = 32
  overlap: str = "mean"
  baseline: Any = 0.0
  score: str = "logit"

  def __post_init__(self):
    check_count("window", self.window)
    if check_count("stride", self.stride) > self.window:
      raise InputError(
        f"stride is {self.stride}, larger than the window of {self.window}.",
        "Some pixels would never be covered: take a stride of at most the window.",
      )
    check_choice("overlap", self.overlap, OVERLAPS)

  def run(self, task: Task) -> np.ndarray:
    rows, columns = (_windows(side, self.window, self.stride) for side in task.side)
    # A last row of windows that covers nothing gives the untouched image its number.
    covers = (np.vstack([rows, np.zeros_like(rows[:1])]), columns)
    values = masked_values(task, _uncovered, covers, len(rows) * len(columns) + 1)
    return _spread(values[:, -1:] - values[:, :-1], rows, columns, self.overlap)


def _windows(side: int, window: int, stride: int) -> np.ndarray:
  """Returns which pixels of an axis each window covers, float32 [windows, side]."""
  starts = stride * np.arange(-(-max(side - window, 0) // stride) + 1)[:, None]
  places = np.arange(side)
  return ((places >= starts) & (places < starts + window)).astype(np.float32)


def _uncovered(covers: tuple[Array, Array], own: tuple, numbers: Array) -> Array:
  rows, columns = covers
  row, column = numbers // len(columns), numbers % len(columns)
  return 1 - rows[row][:, :, None] * columns[column][:, None, :]


def _spread(drops: np.ndarray, rows: np.ndarray, columns: np.ndarray, overlap: str) -> np.ndarray:
  """Returns drops [N, windows, K] as maps [N, K, H, W]."""
  if overlap == "share":
    rows, columns = (m / m.sum(axis=1, keepdims=True) for m in (rows, columns))
  else:
    rows, columns = (m / m.sum(axis=0) for m in (rows, columns))
  drops = drops.reshape(len(drops), len(rows), len(columns), -1)
  return np.einsum("nijk,ih,jw->nkhw", drops, rows, columns, optimize=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rise(Method):
  """RISE: the mean of random masks, weighted by the target's probability (arXiv 1806.07421).

  Each mask is a random grid of zeros and ones, enlarged bilinearly to one cell more than the
  image and cut out at a random place; all images see the same masks. The map is the sum of masks
  times probabilities, divided by the number of masks and by `keep` (eq. 6).

  Args:
    masks: Number of masks. Published with B-cos networks: 500.
    grid: Cells of a mask's side. Published: 8.
    keep: Probability of a one. Published: 0.1.
    baseline: What an absent pixel becomes, as for `integrated_gradients`. Published: 0.
    score: As for `occlusion`. Published: 'sigmoid' (B-cos networks), 'softmax' (RISE).
    seed: Of the masks.
  """

  name: ClassVar[str] = "rise"
  batch_size: ClassVar[int] = 64
  masks: int = 500
  grid: int = 8
  keep: float = 0.1
  baseline: Any = 0.0
  score: str = "sigmoid"
  seed: int = 42

  def __post_init__(self):
    check_share("keep", self.keep)
    if not self.keep:
      raise InputError("keep is 0, expected more.", "Masks without any one show nothing.")
    for name in ("masks", "grid"):
      check_count(name, getattr(self, name))
    check_count("seed", self.seed, 0)

  def run(self, task: Task) -> np.ndarray:
    random_grids = draw_grids(task.side, self.masks, self.grid, self.keep, self.seed)
    values = masked_values(task, _enlarged, random_grids, self.masks)
    return _weigh_masks(task, random_grids, values) / (self.masks * self.keep)


def draw_grids(
  side: tuple[int, int], masks: int, grid: int, keep: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns random grids [M, grid, grid], and how the place of each mask enlarges them.

  Returns:
    Grids, and the weights of their rows [M, H, grid] and columns [M, W, grid]: half-pixel
    bilinear enlargement to grid + 1 cells, cut out at the random place. All float32.
  """
  random = np.random.RandomState(seed)
  grids = (random.random_sample((masks, grid, grid)) < keep).astype(np.float32)
  axes = []
  for length in side:
    cell = -(-length // grid)
    starts = random.randint(0, cell, masks)[:, None]
    places = (starts + np.arange(length) + 0.5) * grid / ((grid + 1) * cell) - 0.5
    places = np.clip(places, 0, grid - 1)[..., None]
    axes.append(np.maximum(1 - np.abs(places - np.arange(grid)), 0).astype(np.float32))
  return grids, *axes


def _enlarged(random_grids: tuple[Array, Array, Array], own: tuple, numbers: Array) -> Array:
  grids, rows, columns = (leaf[numbers] for leaf in random_grids)
  return jnp.einsum("bhi,bij,bwj->bhw", rows, grids, columns)


def _weigh_masks(task: Task, random_grids, values: np.ndarray) -> np.ndarray:
  """Returns the sum of masks times values [N, M, K], float32 [N, K, H, W]."""
  total = np.zeros((len(values), values.shape[2], *task.side), np.float32)
  for numbers, kept in filled(values.shape[1], task.batch_size):
    masks = np.asarray(_enlarged_jit(random_grids, (), numbers))[:kept]
    seen = values[:, numbers[:kept]].astype(np.float32)
    total += np.einsum("nmk,mhw->nkhw", seen, masks, optimize=True)
  return total


_enlarged_jit = jax.jit(_enlarged)

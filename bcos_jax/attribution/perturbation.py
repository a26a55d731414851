"""Attribution methods that use outputs only: the effect of removing parts of the image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, unknown_name
from ..explain.targets import Target, Variables
from .masking import masked_values
from .task import Array, Progress, Task, check_baseline, check_count, check_share, prepare

OVERLAPS = ("mean", "share")


def occlusion(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 64,
  progress: Progress = iter,
  window: int = 32,
  stride: int = 32,
  overlap: str = "mean",
  baseline: float | Array | np.ndarray = 0.0,
  score: str = "logit",
) -> np.ndarray:
  """Occlusion: by how much the target drops without a window (arXiv 1311.2901, section 4.2).

  Args:
    window: Side of the square window, in pixels. Published with B-cos networks: 32.
    stride: From one window to the next; the last ones may be cut by the image's border.
    overlap: 'mean': a pixel gets the mean drop of the windows that cover it (Captum); 'share':
      each window shares its drop among its pixels, and a pixel gets the sum (B-cos v2).
    baseline: What a pixel becomes, as for `integrated_gradients`. Published: 0.
    score: 'logit', 'softmax' or 'sigmoid': what of a class is measured.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`; `batch_size`
  counts occluded images.
  """
  window, stride = check_count("window", window), check_count("stride", stride)
  if stride > window:
    raise InputError(
      f"stride is {stride}, larger than the window of {window}.",
      "Some pixels would never be covered: set stride to at most the window.",
    )
  if overlap not in OVERLAPS:
    raise unknown_name("overlap", overlap, OVERLAPS)
  task = prepare(model, variables, images, targets, batch_size, progress, score)
  rows, columns = (_windows(side, window, stride) for side in task.images.shape[1:3])
  count = len(rows) * len(columns)
  # A last row of windows that covers nothing gives the untouched image its number.
  covers = (np.vstack([rows, np.zeros_like(rows[:1])]), columns)
  values = masked_values(task, _uncovered, covers, (), count + 1, check_baseline(task, baseline))
  drops = values[:, -1:] - values[:, :-1]
  return task.shaped(_spread(drops, rows, columns, overlap))


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


def rise(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 64,
  progress: Progress = iter,
  masks: int = 500,
  grid: int = 8,
  keep: float = 0.1,
  baseline: float | Array | np.ndarray = 0.0,
  score: str = "sigmoid",
  seed: int = 42,
) -> np.ndarray:
  """RISE: the mean of random masks, weighed by the target's probability (arXiv 1806.07421).

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

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`; `batch_size`
  counts masked images.
  """
  check_share("keep", keep)
  if not keep:
    raise InputError(
      "keep is 0, expected a share above 0.", "Masks must keep some parts of the image."
    )
  masks, grid = check_count("masks", masks), check_count("grid", grid)
  task = prepare(model, variables, images, targets, batch_size, progress, score)
  random_grids = draw_grids(task.images.shape[1:3], masks, grid, keep, check_count("seed", seed, 0))
  values = masked_values(task, _enlarged, random_grids, (), masks, check_baseline(task, baseline))
  return task.shaped(_weigh_masks(task, random_grids, values) / (masks * keep))


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
  total = np.zeros((len(values), values.shape[2], *task.images.shape[1:3]), np.float32)
  size = task.batch_size
  for start in range(0, values.shape[1], size):
    numbers = np.arange(start, min(start + size, values.shape[1]))
    masks = np.asarray(_enlarged_jit(random_grids, (), numbers))
    total += np.einsum("nmk,mhw->nkhw", values[:, numbers], masks, optimize=True)
  return total


_enlarged_jit = jax.jit(_enlarged)

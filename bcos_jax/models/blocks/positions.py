"""Position embeddings: learned tables, resized to the image, and rotary angles."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ...errors import InputError, unknown_name

Array = jax.Array
Grid = tuple[int, int]
Rotary = tuple[Array, Array]


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """The cubic convolution kernel (Keys, 1981) with parameter `a`."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _bicubic(old: int, new: int) -> np.ndarray:
  """Four taps around each place; those beyond the border repeat it. a = -0.75."""
  places = (np.arange(new) + 0.5) * old / new - 0.5
  first = np.floor(places).astype(int)
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    column = np.clip(first + tap, 0, old - 1)
    np.add.at(matrix, (np.arange(new), column), _cubic(places - (first + tap), -0.75))
  return matrix


def _antialiased(kernel, support: float):
  """The kernel widened when shrinking, and what the border cuts off made up for."""

  def matrix(old: int, new: int) -> np.ndarray:
    stretch = max(old / new, 1.0)
    centers = (np.arange(new) + 0.5) * old / new
    reach = support * stretch
    columns = np.arange(old)
    low = np.maximum((centers - reach + 0.5).astype(int), 0)[:, None]
    high = np.minimum((centers + reach + 0.5).astype(int), old)[:, None]
    weights = kernel((columns - centers[:, None] + 0.5) / stretch)
    weights = np.where((columns >= low) & (columns < high), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)

  return matrix


RESIZE = {
  "bicubic": _bicubic,
  "bicubic_antialias": _antialiased(lambda x: _cubic(x, -0.5), 2.0),
  "bilinear_antialias": _antialiased(lambda x: np.maximum(1 - np.abs(x), 0.0), 1.0),
}
"""How published networks resize a table of positions, as PyTorch's `interpolate` does it: (old
length, new length) -> matrix [new, old]. Half-pixel centres (`align_corners=False`) in all."""


def resize_table(table: Array, old: Grid, new: Grid, kind: str) -> Array:
  """Resizes a table of positions from one grid to another.

  Args:
    table: [old[0] * old[1], features], row-major.
    old: Rows and columns that the table was learned for.
    new: Rows and columns that are wanted.
    kind: A name of `RESIZE`.

  Returns:
    [new[0] * new[1], features]; `table` itself where nothing changes.
  """
  if kind not in RESIZE:
    raise unknown_name("position_resize", kind, RESIZE)
  if old == new:
    return table
  rows, columns = (
    jnp.asarray(RESIZE[kind](a, b), table.dtype) for a, b in zip(old, new, strict=True)
  )
  table = table.reshape(*old, -1)
  # Exact in float32 on every device: positions are added to all that follows.
  table = jnp.einsum("ah,bw,hwd->abd", rows, columns, table, precision="highest")
  return table.reshape(new[0] * new[1], -1)


def relative_rows(grid: Grid) -> np.ndarray:
  """Returns which row of a table of relative positions each pair of tokens has, int [T, T].

  BEiT (arXiv 2106.08254): (2 h - 1)(2 w - 1) rows for the steps from one patch to another, then
  one each for: from the class token to any, from any to it, and itself. T = 1 + h w.
  """
  h, w = grid
  row, column = (places.reshape(-1) for places in np.indices(grid))
  steps = (row[:, None] - row + h - 1) * (2 * w - 1) + column[:, None] - column + w - 1
  count = (2 * h - 1) * (2 * w - 1)
  rows = np.zeros((1 + h * w,) * 2, int)
  rows[1:, 1:], rows[0], rows[:, 0], rows[0, 0] = steps, count, count + 1, count + 2
  return rows


def patch_places(grid: Grid) -> Array:
  """Returns the centres of patches for `rotary_angles`, float32 [rows * columns, 2], row-major.

  Along each axis they lie in [-1, 1], times a full turn (DINOv3, arXiv 2508.10104, section 3.2).
  """
  rows, columns = (2 * math.pi * (2 * (np.arange(n) + 0.5) / n - 1) for n in grid)
  places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
  return jnp.asarray(places.reshape(-1, 2), jnp.float32)


def rotary_angles(
  places: Array, head_dim: int, theta: float, scaling: tuple[float, ...] = ()
) -> Rotary:
  """Returns cosines and sines for `functional.rotate` (arXiv 2104.09864).

  Along each of A axes a place turns at the frequencies theta^(-2Ak / head_dim); a head holds those
  of the first axis, those of the next, and all of them once more.

  Args:
    places: Places of the tokens, [..., T, A]: counted, [..., T, 1], or `patch_places`.
    head_dim: Channels of a head.
    theta: Base of the frequencies.
    scaling: Llama 3's stretching of slow frequencies: factor, low and high frequency factor, and
      the context length before it; () for none.

  Returns:
    Two float32 arrays [..., T, head_dim].

  Raises:
    InputError: The channels of a head do not divide among the axes.
  """
  step = 2 * places.shape[-1]
  if head_dim % step:
    raise InputError(
      f"Heads of {head_dim} channels cannot hold rotary positions.",
      f"Choose a multiple of {step} channels per head.",
    )
  frequencies = 1.0 / theta ** (jnp.arange(0, head_dim, step, dtype=jnp.float32) / head_dim)
  if scaling:
    factor, low, high, length = scaling
    # Waves as long as the old context are stretched, short ones are left alone.
    share = (length * frequencies / (2 * math.pi) - low) / (high - low)
    share = jnp.clip(share, 0.0, 1.0)
    frequencies = frequencies * ((1 - share) / factor + share)
  angles = places[..., None].astype(jnp.float32) * frequencies
  angles = angles.reshape(*places.shape[:-1], head_dim // 2)
  angles = jnp.concatenate([angles, angles], axis=-1)
  return jnp.cos(angles), jnp.sin(angles)

"""Comparison figures: the same pictures explained by several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from . import canvas, color, kinds
from .figure import draw_legend, draw_map, frame

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def comparison(
  pictures: np.ndarray,
  maps: Mapping[str, np.ndarray],
  names: Sequence[str],
  path: str | os.PathLike | None = None,
  *,
  columns: int = 7,
  percentile: float = 99.5,
  title: str = "",
  exact: Sequence[str] = (),
) -> Figure:
  """Draws, for each picture, the picture and then every method's map, row after row.

  Args:
    pictures: [N, H, W, colors] in [0, 1], grey or red-green-blue.
    maps: Method to signed maps [N, H, W]; each map is drawn on its own symmetric range.
    names: What is explained in each picture, N texts.
    path: File to write (.png, .pdf or .svg); None for none.
    columns: Most panels in a row, at least 2; rows are about equally long.
    percentile: Of a map's absolute values, at which its colours are full.
    title: Above everything.
    exact: Methods whose maps add up to the output with the network's constants; below the figure
      is said which these are, and that others are post hoc.

  Returns:
    A `matplotlib.figure.Figure`, not attached to any window.

  Raises:
    InputError: Arguments that do not fit, or a path that cannot be written.
  """
  target = None if path is None else canvas.check_path(path)
  pictures = np.asarray(pictures, np.float32)
  _check(pictures, maps, names, columns)
  rows = -(-(len(maps) + 1) // columns)
  columns = -(-(len(maps) + 1) // rows)
  height, width = pictures.shape[1:3]
  size = (1.7 * columns, (1.7 * height / width + 0.34) * rows * len(pictures) + 1.0)
  with canvas.plain_style():
    result = canvas.blank(size, "compressed", w_pad=0.04, h_pad=0.04)
    lines = rows * len(pictures)
    grid = result.add_gridspec(lines + 1, columns, height_ratios=[1.0] * lines + [0.06])
    for i, picture in enumerate(pictures):
      panels = [
        result.add_subplot(grid[i * rows + k // columns, k % columns]) for k in range(len(maps) + 1)
      ]
      panels[0].imshow(np.broadcast_to(picture, (height, width, 3)), interpolation="nearest")
      frame(panels[0])
      panels[0].set_title(names[i], fontsize=9, fontweight="bold", parse_math=False)
      for ax, (method, values) in zip(panels[1:], maps.items(), strict=True):
        draw_map(ax, values[i], float(color.cutoff_of(np.asarray(values[i]), percentile)))
        ax.set_title(textwrap.shorten(method, 28), fontsize=9, parse_math=False)
    draw_legend(result.add_subplot(grid[-1, :]), columns)
    said = kinds.of_methods([name for name in maps if name in exact], len(maps))
    said = textwrap.fill(said, 24 * columns)
    result.supxlabel(said, fontsize=9, color=canvas.SOFT, parse_math=False)
    if title:
      result.suptitle(title, fontsize=12.5, color=canvas.INK, parse_math=False)
  if target:
    canvas.save(result, target)
  return result


def _check(
  pictures: np.ndarray, maps: Mapping[str, np.ndarray], names: Sequence[str], columns: int
) -> None:
  if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3) or not len(pictures):
    raise InputError(
      f"pictures have shape {pictures.shape}, expected [N, H, W, 1] or [N, H, W, 3].",
      "Give at least one picture of colours in [0, 1].",
    )
  if columns < 2 or not maps:
    raise InputError(
      f"{len(maps)} methods in {columns} columns, expected a method and two columns at least.",
      "Pass at least one map and, for example, columns=7.",
    )
  if len(names) != len(pictures):
    raise InputError(
      f"{len(names)} names of {len(pictures)} pictures.", "Pass one name per picture."
    )
  for method, values in maps.items():
    if np.shape(values) != pictures.shape[:3] or not np.isfinite(values).all():
      raise InputError(
        f"Maps of {method!r} have shape {np.shape(values)} or values that are not finite, "
        f"expected finite {list(pictures.shape[:3])}.",
        "Give one signed map per picture.",
      )

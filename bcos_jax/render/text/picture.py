"""Heat maps of texts as a figure, for pages that show pictures only."""

from __future__ import annotations

from collections.abc import Sequence
import re
from typing import TYPE_CHECKING

from ...errors import InputError
from .. import canvas
from .heat_maps import TextHeat, common_cutoff, lines_below, visible, word_colors

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_POINTS = 9.0
_WIDTH = 0.602 * _POINTS / 72  # inches of a letter of Matplotlib's own monospaced font
_HEIGHT = 0.2  # inches of a line

Cell = tuple[int, int, str, float | None]


def text_figure(heats: Sequence[TextHeat], *, columns: int = 100) -> Figure:
  """Draws texts with coloured words, one below the other, on one scale.

  Args:
    heats: The texts.
    columns: Letters of a line.

  Raises:
    InputError: No text, or lines too short to read.
  """
  if not heats or columns < 20:
    raise InputError(
      f"{len(heats)} texts in {columns} columns, expected at least 1 in 20.", "Give texts."
    )
  full = common_cutoff(heats)
  blocks = [(heat, placed(heat, columns)) for heat in heats]
  rows = sum(cells[-1][0] + 4 if cells else 4 for _, cells in blocks)
  with canvas.plain_style():
    result = canvas.blank((columns * _WIDTH, (rows + 1) * _HEIGHT), "tight")
    result.set_layout_engine("none")
    ax = result.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, columns), ylim=(rows + 1, 0))
    ax.axis("off")
    top = 0
    for heat, cells in blocks:
      top = _draw(ax, heat, cells, top, full)
    scale = f"full colour: {full:.3g}; red supports the explained output, blue opposes it"
    ax.text(0, rows + 0.5, scale, fontsize=_POINTS, color=canvas.SOFT, va="center")
  return result


def placed(heat: TextHeat, columns: int) -> list[Cell]:
  """Returns (line, column, letters, score) of each piece, words broken at the end of a line only.

  White space becomes single spaces; a word longer than a line is cut into lines.
  """
  cells: list[Cell] = []
  line = column = 0
  for piece, score, _ in heat.marked:
    parts = [piece] if score is not None else re.split(" +", visible(piece))
    for number, part in enumerate(parts):
      if number and column:
        column += 1
      while part:
        if column + min(len(part), columns) > columns:
          line, column = line + 1, 0
        cells.append((line, column, part[:columns], score))
        column += len(part[:columns])
        part = part[columns:]
  return cells


def _draw(ax: Axes, heat: TextHeat, cells: Sequence[Cell], top: int, full: float) -> int:
  """Draws a text from a line on; returns the line below it."""
  from matplotlib.patches import Rectangle

  font = {"fontsize": _POINTS, "va": "center", "parse_math": False}
  ax.text(0, top + 0.5, heat.title, color=canvas.INK, fontweight="bold", **font)
  for line, column, letters, score in cells:
    back, ink = ((1.0,) * 3, (0.4,) * 3) if score is None else word_colors(score, full)
    y = top + 1 + line
    ax.add_patch(Rectangle((column, y + 0.05), len(letters), 0.9, color=back, lw=0))
    ax.text(column, y + 0.5, letters, color=ink, family="monospace", **font)
  bottom = top + 2 + (cells[-1][0] if cells else 0)
  ax.text(0, bottom + 0.5, "; ".join(lines_below(heat)), color=canvas.SOFT, **font)
  return bottom + 2

"""Figures of one picture explained for several texts: one column each, one shared scale."""

from __future__ import annotations

from collections.abc import Sequence
import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from . import canvas, kinds
from .canvas import INK, SOFT
from .figure import draw_legend, draw_map, frame, percent, signed
from .views import Options, colored, cutoff

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_INCHES = 2.3  # of a panel
_ROWS = ("what the network sees", "contributions")


def prompts(
  ex: Any,
  index: int,
  texts: Sequence[str],
  path: str | os.PathLike | None = None,
  *,
  probabilities: Sequence[float] | None = None,
  columns: int = 6,
  title: str = "",
  options: Options | None = None,
) -> Figure:
  """Draws a picture, and for each text what the network sees of it and the contributions.

  All contribution maps share one scale, so that columns can be compared.

  Args:
    ex: An explanation of P texts per image, see `explain_text`.
    index: The image.
    texts: The P texts.
    path: File to write (.png, .pdf or .svg); None for none.
    probabilities: Of the P texts, to be named beside their similarities.
    columns: Panels in a line, at least 2; more texts continue on the next line.
    title: Above everything.
    options: How to draw; see `Options`.

  Returns:
    A `matplotlib.figure.Figure`, not attached to any window.

  Raises:
    InputError: Arguments that do not fit, or a path that cannot be written.
  """
  target = None if path is None else canvas.check_path(path)
  options = options or Options()
  _check(ex, index, texts, probabilities, columns)
  maps = np.asarray(ex.contributions[index], np.float32)
  accounts = [kinds.account(ex, (index, k)) for k in range(len(texts))]
  full = max(cutoff(*pair, options) for pair in zip(maps, accounts, strict=True))
  seen = None
  if ex.weights.shape[-1] in (2, 6):
    picture, inputs = ex.images[index], ex.inputs[index]
    seen = [
      colored(picture, inputs, weights, options, account.strength)
      for weights, account in zip(ex.weights[index], accounts, strict=True)
    ]
  heads = [_head(ex, index, k, texts, probabilities) for k in range(len(texts))]
  with canvas.plain_style():
    result = _draw(ex.images[index], seen, maps, heads, full, columns, title)
    kind = kinds.kind(accounts, options.origin)
    width = 28 * min(columns, len(texts) + 1)
    result.supxlabel(textwrap.fill(kind, width), fontsize=9, color=SOFT, parse_math=False)
  if target:
    canvas.save(result, target)
  return result


def _draw(
  picture: np.ndarray,
  seen: list[np.ndarray] | None,
  maps: np.ndarray,
  heads: list[str],
  cutoff: float,
  columns: int,
  title: str,
) -> Figure:
  height, width = maps.shape[1:]
  columns = min(columns, len(maps) + 1)
  lines = -(-len(maps) // (columns - 1))
  depth = 1 if seen is None else 2
  panel = _INCHES * height / width
  size = (_INCHES * columns + 0.3, (panel * depth + 0.75) * lines + 0.9)
  result = canvas.blank(size, "compressed", w_pad=0.05, h_pad=0.05)
  grid = result.add_gridspec(
    lines * depth + 1, columns, height_ratios=[1.0] * lines * depth + [0.05]
  )
  ax = result.add_subplot(grid[0, 0])
  ax.imshow(_rgb(picture), interpolation="nearest")
  frame(ax)
  ax.set_title("picture", fontsize=10.5, color=SOFT)
  for k, values in enumerate(maps):
    line, column = divmod(k, columns - 1)
    panels = [
      result.add_subplot(grid[line * depth + row, column + 1], sharex=ax, sharey=ax)
      for row in range(depth)
    ]
    _draw_text(panels, None if seen is None else seen[k], values, cutoff, heads[k])
    if not column:
      for panel, words in zip(panels, _ROWS[2 - depth :], strict=True):
        panel.set_ylabel(words, fontsize=9.5, color=SOFT)
  words = (f"{signed(-cutoff)}\nopposes the text", "0", f"{signed(cutoff)}\nsupports the text")
  draw_legend(result.add_subplot(grid[-1, :]), columns, words)
  if title:
    result.suptitle(title, fontsize=12.5, color=INK, parse_math=False)
  return result


def _draw_text(
  panels: list[Axes], seen: np.ndarray | None, values: np.ndarray, cutoff: float, head: str
) -> None:
  if seen is not None:
    panels[0].imshow(seen, interpolation="nearest")
    frame(panels[0])
  draw_map(panels[-1], values, cutoff)
  panels[0].set_title(head, fontsize=10.5, color=INK, parse_math=False)


def _head(ex, index: int, k: int, texts: Sequence[str], probabilities) -> str:
  """The text, and below it its similarity and probability."""
  text = textwrap.shorten(str(texts[k]), 66, placeholder="…")
  score = f"similarity {ex.value[index, k]:.3f}".replace("-", "−")
  if probabilities is not None:
    score += f"  ·  {percent(float(probabilities[k]))}"
  return f"{textwrap.fill(text, 24)}\n{score}"


def _rgb(picture: np.ndarray) -> np.ndarray:
  picture = np.clip(np.asarray(picture, np.float32), 0, 1)
  return np.broadcast_to(picture, (*picture.shape[:2], 3))


def _check(ex, index: int, texts: Sequence[str], probabilities, columns: int) -> None:
  shape = ex.contributions.shape
  if len(shape) != 4 or not 0 <= index < shape[0]:
    raise InputError(
      f"The explanation has contributions {list(shape)} and index is {index!r}, expected "
      "[N, P, H, W] and an image.",
      "Give what explain_text returns, and count images from 0.",
    )
  for name, given in (("texts", texts), ("probabilities", probabilities)):
    if given is not None and len(given) != shape[1]:
      raise InputError(
        f"There are {len(given)} {name} for explanations of {shape[1]} texts.", "Give one for each."
      )
  if columns < 2:
    raise InputError(f"columns is {columns}, expected at least 2.", "Omit it.")
  if not np.isfinite(ex.contributions[index]).all():
    raise InputError(
      f"The explanation of image {index} contains NaN or infinite values.",
      "Look for NaN among the network's weights.",
    )

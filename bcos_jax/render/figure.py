"""Matplotlib figures of one or several explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from . import canvas, color, kinds
from .canvas import BAR, INK, SOFT
from .views import Options, View, view

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_SUPPORTS, _OPPOSES = "#b00000", "#0000b0"
_NEARLY_NONE = "≈ 0"
_TITLES = ("picture", "what the network sees in it", "contributions")


def figure(
  ex: Any,
  index: int | tuple[int, int],
  labels: Sequence[str] | None = None,
  path: str | os.PathLike | None = None,
  *,
  options: Options | None = None,
) -> Figure:
  """Draws one explanation: picture, coloured explanation, contributions, classes, completeness.

  Args:
    ex: An `Explanation`.
    index: The image, or (image, which of its targets).
    labels: Class names, one per output; None for numbers.
    path: File to write (.png, .pdf or .svg); None for none.
    options: How to draw; see `Options`.

  Returns:
    A `matplotlib.figure.Figure`, not attached to any window.

  Raises:
    InputError: Arguments that do not fit, or a path that cannot be written.
  """
  target = None if path is None else canvas.check_path(path)
  shown = view(ex, index, labels, options)
  with canvas.plain_style():
    result = _draw_one(shown)
  if target:
    canvas.save(result, target)
  return result


def figures(
  ex: Any,
  indices: Sequence[int | tuple[int, int]],
  labels: Sequence[str] | None = None,
  path: str | os.PathLike | None = None,
  *,
  baselines: Mapping[str, np.ndarray] | None = None,
  title: str = "",
  options: Options | None = None,
) -> Figure:
  """Draws several explanations, one per row, and maps of other methods beside them.

  Args:
    ex: An `Explanation`.
    indices: Images, or (image, which of its targets), in the order of the rows.
    labels: Class names, one per output; None for numbers.
    path: File to write (.png, .pdf or .svg); None for none.
    baselines: Column title to signed maps [N, H, W] of the same N images, e.g. of another method.
      Each map is drawn on its own symmetric range, given below it.
    title: Above everything.
    options: How to draw; see `Options`.

  Returns:
    A `matplotlib.figure.Figure`, not attached to any window.

  Raises:
    InputError: Arguments that do not fit, or a path that cannot be written.
  """
  target = None if path is None else canvas.check_path(path)
  if not len(indices):
    raise InputError("indices is empty, expected at least one image to draw.", "For example: [0].")
  rows = [
    (view(ex, index, labels, options), _baseline_maps(baselines or {}, index, len(ex.images)))
    for index in indices
  ]
  with canvas.plain_style():
    result = _draw_rows(rows, title, options or Options())
  if target:
    canvas.save(result, target)
  return result


def _draw_one(shown: View) -> Figure:
  titles = [*_titles(shown), "most probable classes"]
  height, width = shown.contributions.shape
  result = canvas.blank(
    (3.25 * len(titles) + 0.6, 3.0 * max(1.0, height / width) + 1.3),
    "constrained",
    w_pad=0.12,
    h_pad=0.1,
  )
  axes = result.subplots(1, len(titles))
  _draw_panels(axes[:-1], shown)
  _draw_scale(axes[-2], shown.cutoff)
  _draw_classes(axes[-1], shown)
  for ax, text in zip(axes, titles, strict=True):
    ax.set_title(text, fontsize=11, color=INK)
  _name(result, headline(shown), completeness(shown), shown.kind, 40 * len(titles))
  return result


def _name(figure: Figure, title: str, below: str, kind: str, width: int) -> None:
  """Writes the title, and what kind of explanation it is: above, unless it is as it should be."""
  warned = not kinds.is_sound(kind)
  lines = [title, textwrap.fill(kind, width)] if warned else [title]
  notes = [textwrap.fill(line, width) for line in ([below] if warned else [below, kind]) if line]
  if any(lines):
    above = "\n".join(filter(None, lines))
    figure.suptitle(above, fontsize=13.5, color=INK, parse_math=False)
  if notes:
    figure.supxlabel("\n".join(notes), fontsize=9.5, color=SOFT, parse_math=False)


def _draw_rows(
  rows: list[tuple[View, dict[str, np.ndarray]]], title: str, options: Options
) -> Figure:
  titles = [*_titles(rows[0][0]), *rows[0][1]]
  height, width = rows[0][0].contributions.shape
  size = (2.4 * len(titles) + 0.5, (2.4 * height / width + 0.4) * len(rows) + 1.3)
  result = canvas.blank(size, "compressed", w_pad=0.06, h_pad=0.06)
  grid = result.add_gridspec(len(rows) + 1, len(titles), height_ratios=[1.0] * len(rows) + [0.05])
  axes = np.array(
    [[result.add_subplot(grid[i, j]) for j in range(len(titles))] for i in range(len(rows))]
  )
  for line, (shown, maps) in zip(axes, rows, strict=True):
    own = len(titles) - len(maps)
    _draw_panels(line[:own], shown)
    _note_scale(line[own - 1], shown.cutoff)
    for ax, values in zip(line[own:], maps.values(), strict=True):
      cutoff = float(color.cutoff_of(values, options.percentile))
      draw_map(ax, values, cutoff)
      _note_scale(ax, cutoff)
    line[0].set_ylabel(_row_label(shown), fontsize=10.5, color=INK, parse_math=False)
  for ax, text in zip(axes[0], titles, strict=True):
    ax.set_title(textwrap.fill(text, 30), fontsize=10.5, color=INK, parse_math=False)
  draw_legend(result.add_subplot(grid[-1, :]), len(titles))
  kind = kinds.kind([shown.account for shown, _ in rows], options.origin)
  _name(result, title, "", kind, 28 * len(titles))
  return result


def _draw_panels(axes: Sequence[Axes], shown: View) -> None:
  """Picture, coloured explanation (where there is one) and contributions, in that order."""
  *images, heat = axes
  pictures = [shown.picture] if shown.colored is None else [shown.picture, shown.colored]
  for ax, image in zip(images, pictures, strict=True):
    ax.imshow(image, interpolation="nearest")
    frame(ax)
  draw_map(heat, shown.contributions, shown.cutoff)


def draw_map(ax: Axes, values: np.ndarray, cutoff: float) -> None:
  """Draws a signed map [H, W]; colours are full at plus and minus `cutoff`."""
  limit = cutoff or 1.0
  ax.imshow(values, cmap="bwr", vmin=-limit, vmax=limit, interpolation="nearest")
  frame(ax)


def frame(ax: Axes) -> None:
  """Leaves a thin frame around a picture, without ticks."""
  ax.set(xticks=[], yticks=[])
  for spine in ax.spines.values():
    spine.set(edgecolor=BAR, linewidth=0.8)


def _draw_classes(ax: Axes, shown: View) -> None:
  """Bars of probability, the name above each bar: long names need no margin of their own."""
  for row, (number, name, probability) in enumerate(shown.classes):
    explained = number == shown.target
    ink = {
      "color": INK if explained else SOFT,
      "fontsize": 9.5,
      "fontweight": "bold" if explained else "normal",
    }
    ax.barh(row, 1.0, height=0.3, color="#eef0f2")
    ax.barh(row, probability, height=0.3, color=INK if explained else BAR)
    ax.text(0, row - 0.24, _short(name, 25), ha="left", va="bottom", parse_math=False, **ink)
    ax.text(1, row - 0.24, percent(probability), ha="right", va="bottom", **ink)
  ax.set(xlim=(0, 1), ylim=(max(5, len(shown.classes)) - 0.6, -0.75), xticks=[], yticks=[])
  ax.set_box_aspect(1)
  ax.spines[:].set_visible(False)


def _draw_scale(ax: Axes, cutoff: float) -> None:
  """The numeric scale of one contribution map, exactly as high as the map."""
  bar = ax.figure.colorbar(
    ax.images[0],
    cax=ax.inset_axes((1.04, 0, 0.05, 1)),
    ticks=[-cutoff, 0.0, cutoff] if cutoff else [0.0],
  )
  bar.ax.set_yticklabels([signed(tick) for tick in bar.get_ticks()], fontsize=9)
  for height, side, word, ink in (
    (1.035, "bottom", "supports", _SUPPORTS),
    (-0.035, "top", "opposes", _OPPOSES),
  ):
    bar.ax.text(
      0.5, height, word, ha="center", va=side, fontsize=9, color=ink, transform=bar.ax.transAxes
    )
  bar.outline.set_edgecolor(SOFT)


def _note_scale(ax: Axes, cutoff: float) -> None:
  ax.set_xlabel(
    f"full colour: ±{cutoff:.2g}" if cutoff else "no contributions", fontsize=9, color=SOFT
  )


def draw_legend(
  ax: Axes,
  columns: int,
  words: tuple[str, str, str] = ("opposes the class", "no influence", "supports the class"),
) -> None:
  """One scale below all rows: every map has the same colours, from blue over white to red."""
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize

  ax.axis("off")
  width = min(0.7, 1.7 / columns)
  bar = ax.figure.colorbar(
    ScalarMappable(Normalize(-1, 1), "bwr"),
    orientation="horizontal",
    cax=ax.inset_axes((0.5 - width / 2, 0, width, 1)),
    ticks=[-1, 0, 1],
  )
  bar.ax.set_xticklabels(words, fontsize=9.5)
  bar.outline.set_edgecolor(SOFT)


def _titles(shown: View) -> tuple[str, ...]:
  return _TITLES if shown.colored is not None else (_TITLES[0], _TITLES[2])


def _row_label(shown: View) -> str:
  known = "" if shown.probability is None else f"\n{percent(shown.probability)}"
  return f"{_short(shown.name, 22)}{known}"


def headline(shown: View) -> str:
  """What is explained, in one line."""
  known = "" if shown.probability is None else f"  ·  probability {percent(shown.probability)}"
  return f"Explained: {_short(shown.name, 48)}{known}"


def completeness(shown: View) -> str:
  """The explained output as the sum of its parts, in one line."""
  (_, pixels), *rest = shown.terms.items()
  scale = max(map(abs, (shown.value, *shown.terms.values())))
  parts = [f"{_number(pixels, scale)} (sum of all pixel contributions)"]
  for source, amount in rest:
    number = _number(abs(amount), scale)
    if source != "rounding" or number not in (_number(0, scale), _NEARLY_NONE):
      parts.append(f"{'−' if amount < 0 else '+'} {number} ({source})")
  return f"output {_number(shown.value, scale)}  =  " + " ".join(parts)


def percent(probability: float) -> str:
  """A probability for reading; never 0 or 100 % unless it is exactly that."""
  if 0 < probability < 0.001:
    return "< 0.1 %"
  if 0.999 < probability < 1:
    return "> 99.9 %"
  return f"{100 * probability:.1f} %"


def _number(value: float, scale: float) -> str:
  """A part of a sum whose largest part is `scale`, in three decimals or digits."""
  small = scale < 0.05
  if 0 < abs(value) < (1e-3 * scale if small else 5e-4):
    return _NEARLY_NONE
  return (f"{value:.2e}" if small and value else f"{value:.3f}").replace("-", "−")


def signed(value: float) -> str:
  return "0" if value == 0 else f"{value:+.2g}".replace("-", "−")


def _short(text: str, most: int) -> str:
  return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _baseline_maps(
  baselines: Mapping[str, np.ndarray], index: int | tuple[int, int], num_images: int
) -> dict[str, np.ndarray]:
  image = index[0] if isinstance(index, tuple) else index
  for name, maps in baselines.items():
    if np.ndim(maps) != 3 or len(maps) != num_images:
      raise InputError(
        f"Baseline {name!r} has shape {np.shape(maps)}, expected [{num_images}, H, W].",
        "Give one signed map per image of the explanation.",
      )
  return {name: np.asarray(maps[image], np.float32) for name, maps in baselines.items()}

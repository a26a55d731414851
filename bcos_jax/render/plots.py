"""Line and bar plots of measurements, readable in greyscale and with colour blindness.

Colours are those of Okabe and Ito; curves differ in marker and dash as well, and are named at
their ends rather than by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError
from . import canvas

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_PANEL = (4.6, 3.4)
_MOST = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
  """One pair of axes with curves.

  Attributes:
    curves: Name to (x [P], y [P]) or (x, y, half width of a band [P]).
    title: Above the axes.
    x: Label of the horizontal axis.
    y: Label of the vertical axis.
    percent: Whether y is a share, to be shown in percent.
    levels: Name to a constant to draw across, e.g. the score of a random baseline.
    factors: Whether x grows by factors, with a tick at every x; 0 is left of the least factor.
  """

  curves: Mapping[str, tuple[Any, ...]]
  title: str = ""
  x: str = ""
  y: str = ""
  percent: bool = False
  levels: Mapping[str, float] = dataclasses.field(default_factory=dict)
  factors: bool = False


def curves(panels: Sequence[Panel], title: str = "") -> Figure:
  """Draws panels side by side, curves of one name alike in all of them.

  Raises:
    InputError: No panel, a panel without curves, or more than 12 curves in one.
  """
  if not panels or any(not panel.curves for panel in panels):
    raise InputError("There is nothing to plot, expected a curve in every panel.", "Give curves.")
  names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
  if len(names) > _MOST:
    raise InputError(
      f"{len(names)} curves are plotted, expected at most {_MOST}.", "Plot fewer at once."
    )
  styles = {name: _style(i) for i, name in enumerate(names)}
  with canvas.plain_style():
    result = canvas.blank((_PANEL[0] * len(panels) + 0.4, _PANEL[1] + 0.9), "constrained")
    axes = result.subplots(1, len(panels), squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
      _draw_curves(ax, panel, styles)
    if len(names) > 1:
      handles = [next(h for ax in axes for h in ax.lines if h.get_label() == n) for n in names]
      result.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(names), 2 * len(panels)),
        frameon=False,
        fontsize=9.5,
        handlelength=3.2,
      )
    if title:
      result.suptitle(title, fontsize=13, color=canvas.INK, parse_math=False)
  return result


def bars(
  values: Mapping[str, float],
  *,
  errors: Mapping[str, float] | None = None,
  marked: Sequence[str] = (),
  levels: Mapping[str, float] | None = None,
  x: str = "",
  title: str = "",
  log: bool = False,
) -> Figure:
  """Draws horizontal bars with their numbers, the largest on top.

  Args:
    values: Name to a finite number, at least one.
    errors: Name to the half length of an error bar.
    marked: Names to set off from the others.
    levels: Name to a constant to draw across.
    x: Label of the axis.
    title: Above the axes.
    log: Whether the axis is logarithmic; there bars have no foot, so dots take their place, and
      the values are positive.

  Raises:
    InputError: No value, or one that is not finite.
  """
  if not values or not np.isfinite(list(values.values())).all():
    raise InputError(f"values={dict(values)}, expected finite numbers.", "Remove the other values.")
  names = sorted(values, key=lambda name: values[name])
  errors, levels = errors or {}, levels or {}
  with canvas.plain_style():
    result = canvas.blank((7.0, 0.34 * len(names) + 1.5), "constrained")
    ax = result.subplots()
    for row, name in enumerate(names):
      _draw_bar(ax, row, values[name], errors.get(name, 0.0), marked=name in marked, log=log)
    ax.set_yticks(range(len(names)), names, fontsize=9.5)
    _draw_levels(ax, levels, vertical=True)
    ax.set_xlabel(x, fontsize=10, color=canvas.INK)
    ax.set_title(title, fontsize=12, color=canvas.INK, parse_math=False)
    if log:
      ax.set_xscale("log")
      ax.set_xlim(10.0 ** np.floor(np.log10(min(values.values())) - 0.5), 4 * max(values.values()))
    else:
      ax.margins(x=0.1)
    ax.margins(y=0.02)
    _tidy(ax, axis="x")
  return result


def _draw_bar(ax: Axes, row: int, value: float, half: float, *, marked: bool, log: bool) -> None:
  ink = _COLORS[1] if marked else "#9fb4c4"
  if log:
    ax.plot(value, row, "o", ms=7, color=ink)
  else:
    ax.barh(row, value, height=0.66, color=ink)
  if half:
    ax.errorbar(value, row, xerr=half, color=canvas.INK, capsize=2.5, lw=1)
  ax.text(
    max(value, 0) + half,
    row,
    f"  {value:.1e}" if log else f"  {value:.3f}",
    va="center",
    fontsize=9,
    fontweight="bold" if marked else "normal",
    color=canvas.INK,
  )


def _style(index: int) -> dict[str, Any]:
  return {
    "color": _COLORS[index % len(_COLORS)],
    "marker": _MARKERS[index % len(_MARKERS)],
    "linestyle": _DASHES[index % len(_DASHES)],
  }


def _draw_curves(ax: Axes, panel: Panel, styles: Mapping[str, dict[str, Any]]) -> None:
  for name, (x, y, *band) in panel.curves.items():
    x, y = np.asarray(x, float), np.asarray(y, float)
    style = styles[name]
    ax.plot(x, y, label=name, lw=1.8, ms=4.5, markevery=max(1, len(x) // 12), **style)
    if band:
      half = np.asarray(band[0], float)
      ax.fill_between(x, y - half, y + half, color=style["color"], alpha=0.15, lw=0)
  if panel.factors:
    ticks = sorted({float(x) for curve in panel.curves.values() for x in curve[0]})
    ax.set_xscale(
      "symlog", linthresh=min((tick for tick in ticks if tick > 0), default=1.0), linscale=0.5
    )
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    ax.set_xticks([], minor=True)
  _draw_levels(ax, panel.levels, vertical=False)
  ax.set_xlabel(panel.x, fontsize=10, color=canvas.INK)
  ax.set_ylabel(panel.y, fontsize=10, color=canvas.INK)
  ax.set_title(panel.title, fontsize=11.5, color=canvas.INK, parse_math=False)
  if panel.percent:
    from matplotlib.ticker import PercentFormatter

    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
  _tidy(ax, axis="y")


def _draw_levels(ax: Axes, levels: Mapping[str, float], vertical: bool) -> None:
  for name, level in levels.items():
    style = {"color": canvas.SOFT, "lw": 1, "ls": (0, (2, 2))}
    if vertical:
      ax.axvline(level, **style)
      where, spot = ax.get_xaxis_transform(), (level, 1.0)
      across = "center"
    else:
      ax.axhline(level, **style)
      where, spot = ax.get_yaxis_transform(), (0.01, level)
      across = "left"
    ax.text(*spot, name, transform=where, fontsize=8.5, color=canvas.SOFT, ha=across, va="bottom")


def _tidy(ax: Axes, axis: Literal["both", "x", "y"]) -> None:
  ax.grid(axis=axis, color="#e3e6e9", lw=0.8)
  ax.set_axisbelow(True)
  ax.spines[["top", "right"]].set_visible(False)
  ax.spines[["left", "bottom"]].set_color(canvas.BAR)
  ax.tick_params(colors=canvas.SOFT, labelcolor=canvas.INK, labelsize=9)

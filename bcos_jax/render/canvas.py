"""Shared Matplotlib setup: an off-screen figure, its colours, and its file.

Only Matplotlib's object interface is used: no window system is chosen, nothing global changes,
and the style is Matplotlib's own on white, independent of the caller's settings.
"""

from __future__ import annotations

import io
import os
import pathlib
from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from ..io import files

if TYPE_CHECKING:
  from matplotlib.figure import Figure

INK, SOFT, BAR = "#1a1a1a", "#5f6368", "#b9c0c8"
_DPI = 150


def blank(
  size: tuple[float, float], layout: Literal["constrained", "compressed", "tight"], **padding: float
) -> Figure:
  """Returns a white figure of so many inches that draws into memory.

  `padding` is the one of the layout: w_pad, h_pad.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  result = Figure(figsize=size, dpi=_DPI, layout=layout, facecolor="white")
  if padding and (engine := result.get_layout_engine()) is not None:
    engine.set(**padding)
  FigureCanvasAgg(result)
  return result


def plain_style():
  """Matplotlib's own style while drawing; the caller's settings are restored afterwards."""
  import matplotlib.style

  return matplotlib.style.context("default")


def check_path(path: str | os.PathLike) -> pathlib.Path:
  """Returns `path` if a figure can be written there.

  Raises:
    InputError: Another suffix than .png, .pdf or .svg, or see `files.check_folder`.
  """
  checked = files.check_folder(path)
  if checked.suffix.lower() not in (".png", ".pdf", ".svg"):
    raise InputError(
      f"{str(path)!r} has the suffix {checked.suffix!r}, expected .png, .pdf or .svg.",
      "For example: explanation.png.",
    )
  return checked


def encoded(figure: Figure, suffix: str = "png") -> bytes:
  """Returns the content of a file with the figure."""
  buffer = io.BytesIO()
  with plain_style():
    figure.savefig(buffer, format=suffix, facecolor="white", bbox_inches="tight", pad_inches=0.12)
  return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a figure as .png, .pdf or .svg, whole or not at all; errors as for `check_path`."""
  checked = check_path(path)
  files.write(checked, encoded(figure, checked.suffix[1:].lower()))

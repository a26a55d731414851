"""Heat maps of texts for the terminal and for LaTeX; everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .heat_maps import (
  TextHeat,
  common_cutoff,
  lines_below,
  signed_number,
  visible,
  word_colors,
)

_LATEX = {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
  "|": r"\textbar{}",
  '"': r"\textquotedbl{}",
  **{sign: f"\\{sign}" for sign in "{}$&#_%"},
}


def text_terminal(heat: TextHeat, cutoff: float | None = None, *, colors: bool = True) -> str:
  """Returns a text for a terminal with 24-bit colours, its legend below.

  Args:
    heat: The text.
    cutoff: Contribution at full colour; None for the text's own.
    colors: Without, every word of at least a tenth of the full colour is followed by its
      contribution in brackets.
  """
  full = heat.cutoff if cutoff is None else cutoff
  words = []
  for piece, score, unknown in heat.marked:
    shown = visible(piece)
    if score is None:
      words.append(shown)
    elif colors:
      words.append(_ansi(shown, score, full, underlined=unknown))
    else:
      said = [signed_number(score)] if abs(score) >= full / 10 > 0 else []
      said += ["unknown"] if unknown else []
      words.append(f"{shown} [{', '.join(said)}]" if said else shown)
  lines = [visible(heat.title), "".join(words)]
  if colors:
    swatches = "".join(_ansi("  ", share, 1.0) for share in np.linspace(-1, 1, 9))
    lines.append(f"{signed_number(-full)} opposes {swatches} supports {signed_number(full)}")
  lines += map(visible, lines_below(heat))
  return "\n".join(line for line in lines if line)


def text_latex(
  heats: Sequence[TextHeat], cutoff: float | None = None, *, own_scales: bool = False
) -> str:
  """Returns texts as LaTeX; needs `\\usepackage{xcolor}` and T1 fonts (`[T1]{fontenc}`).

  Args:
    heats: The texts.
    cutoff: Contribution at full colour; None takes that of the strongest word of all texts.
    own_scales: Whether each text has its own scale instead.
  """
  if cutoff is None and not own_scales:
    cutoff = common_cutoff(heats)
  return "\n\n".join(_latex(heat, cutoff) for heat in heats) + "\n"


def _latex(heat: TextHeat, cutoff: float | None) -> str:
  full = heat.cutoff if cutoff is None else cutoff
  lines = []
  if heat.title:
    lines.append(rf"\textbf{{{_tex(heat.title)}}}\par")
  words = []
  for piece, score, unknown in heat.marked:
    shown = rf"\underline{{{_tex(piece)}}}" if unknown else _tex(piece)
    words.append(shown if score is None else _tex_box(shown, score, full))
  lines.append(r"{\setlength{\fboxsep}{1pt}%")
  lines.append("".join(words) + r"\par}")
  scale = "".join(_tex_box(r"\phantom{x}", share, 1.0) for share in np.linspace(-1, 1, 9))
  ends = _tex(signed_number(-full)), _tex(signed_number(full))
  lines.append(
    rf"{{\footnotesize opposes, {ends[0]} {{\setlength{{\fboxsep}}{{1pt}}{scale}}} "
    rf"{ends[1]}, supports\par}}"
  )
  lines += [rf"{{\footnotesize {_tex(line)}\par}}" for line in lines_below(heat)]
  return "\n".join(lines)


def _tex(text: str) -> str:
  return (
    "".join(_LATEX.get(sign, sign) for sign in visible(text)).replace("−", "$-$").replace("�", "?")
  )


def _tex_box(words: str, score: float, full: float) -> str:
  back, front = (",".join(f"{part:.3f}" for part in rgb) for rgb in word_colors(score, full))
  return rf"\colorbox[rgb]{{{back}}}{{\strut\textcolor[rgb]{{{front}}}{{{words}}}}}"


def _ansi(words: str, score: float, full: float, *, underlined: bool = False) -> str:
  back, front = (
    ";".join(str(round(255 * part)) for part in rgb) for rgb in word_colors(score, full)
  )
  return f"\x1b[{'4;' if underlined else ''}48;2;{back};38;2;{front}m{words}\x1b[0m"

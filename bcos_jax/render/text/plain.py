"""Heat maps of texts for the terminal and for LaTeX; everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .heat_maps import TextHeat, signed_number, sum_in_words, visible, word_colors

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
  for piece, score in zip(heat.pieces, heat.scores, strict=True):
    shown = visible(piece)
    if score is None:
      words.append(shown)
    elif colors:
      words.append(_ansi(shown, score, full))
    else:
      words.append(f"{shown} [{signed_number(score)}]" if abs(score) >= full / 10 > 0 else shown)
  lines = [visible(heat.title), "".join(words)]
  if colors:
    swatches = "".join(_ansi("  ", share, 1.0) for share in np.linspace(-1, 1, 9))
    lines.append(f"{signed_number(-full)} opposes {swatches} supports {signed_number(full)}")
  lines += [visible(line) for line in (sum_in_words(heat), heat.note)]
  return "\n".join(line for line in lines if line)


def text_latex(heats: Sequence[TextHeat], cutoff: float | None = None) -> str:
  """Returns texts as LaTeX; needs `\\usepackage{xcolor}` and T1 fonts (`[T1]{fontenc}`)."""
  return "\n\n".join(_latex(heat, cutoff) for heat in heats) + "\n"


def _latex(heat: TextHeat, cutoff: float | None) -> str:
  full = heat.cutoff if cutoff is None else cutoff
  lines = []
  if heat.title:
    lines.append(rf"\textbf{{{_tex(heat.title)}}}\par")
  words = []
  for piece, score in zip(heat.pieces, heat.scores, strict=True):
    words.append(_tex(piece) if score is None else _tex_box(_tex(piece), score, full))
  lines.append(r"{\setlength{\fboxsep}{1pt}%")
  lines.append("".join(words) + r"\par}")
  scale = "".join(_tex_box(r"\phantom{x}", share, 1.0) for share in np.linspace(-1, 1, 9))
  ends = _tex(signed_number(-full)), _tex(signed_number(full))
  lines.append(
    rf"{{\footnotesize opposes, {ends[0]} {{\setlength{{\fboxsep}}{{1pt}}{scale}}} "
    rf"{ends[1]}, supports\par}}"
  )
  notes = sum_in_words(heat), heat.note
  lines += [rf"{{\footnotesize {_tex(line)}\par}}" for line in notes if line]
  return "\n".join(lines)


def _tex(text: str) -> str:
  return (
    "".join(_LATEX.get(sign, sign) for sign in visible(text)).replace("−", "$-$").replace("�", "?")
  )


def _tex_box(words: str, score: float, full: float) -> str:
  back, front = (",".join(f"{part:.3f}" for part in rgb) for rgb in word_colors(score, full))
  return rf"\colorbox[rgb]{{{back}}}{{\strut\textcolor[rgb]{{{front}}}{{{words}}}}}"


def _ansi(words: str, score: float, full: float) -> str:
  back, front = (
    ";".join(str(round(255 * part)) for part in rgb) for rgb in word_colors(score, full)
  )
  return f"\x1b[48;2;{back};38;2;{front}m{words}\x1b[0m"

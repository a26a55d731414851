"""Texts with the contributions of their words as heat-maps: HTML, the terminal, LaTeX.

Red words support the explained output, blue ones oppose it, white ones do not count, as on
contribution maps of pictures. The number at the legend is the contribution at full colour, that
of the text's strongest word unless a common scale is given.

Texts are written by strangers: everything is escaped, control characters included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import html
import os
import unicodedata

import numpy as np

from ..errors import InputError
from ..telling_words import TellingWord
from . import color, files
from .report import page, table

_STYLE = """
.text{line-height:2.1;overflow-wrap:anywhere;white-space:pre-wrap;max-width:none;margin:.6rem 0}
.text span{border-radius:.2rem;padding:.12em .1em}
.text span,.scale i{print-color-adjust:exact;-webkit-print-color-adjust:exact}
"""
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
_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextHeat:
  """A text with the contributions of its words.

  Attributes:
    pieces: The text, cut: words and what stands between them, in order.
    scores: Of each piece; None for what stands between words.
    title: Heading, such as the explained class.
    value: The explained output, if it is to be shown.
    parts: Contributions of what is no word, by name: special tokens, positions, biases.
    note: A sentence below, such as the true class.
  """

  pieces: tuple[str, ...]
  scores: tuple[float | None, ...]
  title: str = ""
  value: float | None = None
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
  note: str = ""

  def __post_init__(self):
    known = [score for score in self.scores if score is not None]
    if len(self.pieces) != len(self.scores) or not np.isfinite(known).all():
      raise InputError(
        f"{len(self.pieces)} pieces of text and {len(self.scores)} scores, expected one finite "
        "number, or None, per piece.",
        "Make heat-maps with text_heat.",
      )

  @property
  def cutoff(self) -> float:
    """The strongest word's contribution, without sign."""
    return max((abs(score) for score in self.scores if score is not None), default=0.0)


def text_heat(
  text: str, words: np.ndarray, offsets: np.ndarray, scores: np.ndarray, **fields
) -> TextHeat:
  """Returns the heat-map of a text.

  Args:
    text: The text.
    words: int [L], the number of each token's word, -1 for none; see `tokens.Tokens`.
    offsets: int [L, 2], where each token is in the text.
    scores: [L], of the tokens; those of a word are added. The sum over tokens of no word becomes
      the part "special tokens".
    **fields: Of `TextHeat`: title, value, parts, note.

  Raises:
    InputError: Shapes that do not fit, or NaN.
  """
  words, offsets, scores = np.asarray(words), np.asarray(offsets), np.asarray(scores, np.float64)
  if scores.shape != words.shape or offsets.shape != (*words.shape, 2) or words.ndim != 1:
    raise InputError(
      f"words {words.shape}, offsets {offsets.shape} and scores {scores.shape}, expected [L], "
      "[L, 2] and [L].",
      "Give those of one text.",
    )
  pieces: list[str] = []
  found: list[float | None] = []
  last = 0
  for word in range(words.max(initial=-1) + 1):
    own = words == word
    if not own.any():
      continue
    begin, end = max(int(offsets[own, 0].min()), last), int(offsets[own, 1].max())
    while begin < end and text[begin].isspace():  # byte-level tokens hold the space before them
      begin += 1
    if last < begin:
      pieces.append(text[last:begin])
      found.append(None)
    pieces.append(text[begin:end])
    found.append(float(scores[own].sum()))
    last = max(last, end)
  if last < len(text):
    pieces.append(text[last:])
    found.append(None)
  rest = float(scores[words < 0].sum())
  parts = {**({"special tokens": rest} if rest else {}), **fields.pop("parts", {})}
  return TextHeat(pieces=tuple(pieces), scores=tuple(found), parts=parts, **fields)


def text_report(
  path: str | os.PathLike,
  title: str,
  heats: Sequence[TextHeat],
  *,
  intro: str = "",
  telling: Mapping[str, Sequence[TellingWord]] | None = None,
  cutoff: float | None = None,
) -> None:
  """Writes texts as one HTML file without any link to the outside.

  Args:
    path: File to write, replaced as a whole.
    title: Heading.
    heats: The texts, in order.
    intro: Text below the heading; an empty line starts a paragraph.
    telling: Caption to the most telling words, shown as tables below the texts.
    cutoff: Contribution at full colour; None for each text's own.

  Raises:
    InputError: A path that cannot be written.
  """
  target = files.check_folder(path)
  tables = "".join(
    f"<section><h2>{html.escape(visible(caption))}</h2>{table(telling_rows(rows))}</section>"
    for caption, rows in (telling or {}).items()
  )
  body = "".join(_article(heat, cutoff) for heat in heats) + tables
  files.write(target, page(visible(title), _lines(intro), f"<main>{body}</main>", style=_STYLE))


def telling_rows(words: Iterable[TellingWord]) -> list[tuple[str, ...]]:
  """Returns the most telling words as rows of a table, its heading first."""
  rows = [
    (visible(w.word), _signed(w.mean), f"{w.spread:.3g}", str(w.count), str(w.texts)) for w in words
  ]
  return [("word", "mean contribution", "spread", "occurrences", "texts"), *rows]


def text_html(heat: TextHeat, cutoff: float | None = None) -> str:
  """Returns a text's words as HTML, each with its contribution as a tip; for one's own page."""
  full = heat.cutoff if cutoff is None else cutoff
  spans = []
  for piece, score in zip(heat.pieces, heat.scores, strict=True):
    words = html.escape(visible(piece))
    if score is None:
      spans.append(words)
      continue
    back, front = (_hex(rgb) for rgb in _colors(score, full))
    spans.append(
      f'<span style="background:{back};color:{front}" title="{_signed(score)}">{words}</span>'
    )
  return f'<p class="text">{"".join(spans)}</p>'


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
      words.append(f"{shown} [{_signed(score)}]" if abs(score) >= full / 10 > 0 else shown)
  lines = [visible(heat.title), "".join(words)]
  if colors:
    swatches = "".join(_ansi("  ", share, 1.0) for share in np.linspace(-1, 1, 9))
    lines.append(f"{_signed(-full)} opposes {swatches} supports {_signed(full)}")
  lines += [visible(line) for line in (_sum(heat), heat.note)]
  return "\n".join(line for line in lines if line)


def text_latex(heats: Sequence[TextHeat], cutoff: float | None = None) -> str:
  """Returns texts as LaTeX; needs `\\usepackage{xcolor}` and T1 fonts (`[T1]{fontenc}`)."""
  return "\n\n".join(_latex(heat, cutoff) for heat in heats) + "\n"


def visible(text: str) -> str:
  """Returns a text with spaces in place of line breaks and tabs, and no other control characters.

  They could write on a terminal, or turn the order of what is read around.
  """
  return "".join(" " if sign in "\n\r\t" else "�" if _controls(sign) else sign for sign in text)


def _lines(text: str) -> str:
  return "\n".join(visible(line) for line in text.split("\n"))


def _controls(sign: str) -> bool:
  return unicodedata.category(sign) in ("Cc", "Cs") or sign in _DIRECTIONS


def _article(heat: TextHeat, cutoff: float | None) -> str:
  full = heat.cutoff if cutoff is None else cutoff
  notes = "".join(
    f"<p class=note>{html.escape(visible(line))}</p>" for line in (_sum(heat), heat.note) if line
  )
  heading = f"<h2>{html.escape(visible(heat.title))}</h2>" if heat.title else ""
  legend = (
    f'<p class="scale"><span>opposes, {_signed(-full)}</span><i></i>'
    f"<span>{_signed(full)}, supports</span></p>"
  )
  return f"<article>{heading}{text_html(heat, cutoff)}{legend}{notes}</article>"


def _sum(heat: TextHeat) -> str:
  """What words and other parts add up to, in words."""
  words = sum(score for score in heat.scores if score is not None)
  parts = [f"words {_signed(words)}", *(f"{k} {_signed(v)}" for k, v in heat.parts.items())]
  if heat.parts:
    parts[-1] += f"; together {_signed(words + sum(heat.parts.values()))}"
  if heat.value is not None:
    parts[-1] += f"; output {_signed(heat.value)}"
  return ", ".join(parts)


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
  lines.append(
    rf"{{\footnotesize opposes, {_tex(_signed(-full))} {{\setlength{{\fboxsep}}{{1pt}}{scale}}} "
    rf"{_tex(_signed(full))}, supports\par}}"
  )
  lines += [rf"{{\footnotesize {_tex(line)}\par}}" for line in (_sum(heat), heat.note) if line]
  return "\n".join(lines)


def _tex(text: str) -> str:
  return (
    "".join(_LATEX.get(sign, sign) for sign in visible(text)).replace("−", "$-$").replace("�", "?")
  )


def _tex_box(words: str, score: float, full: float) -> str:
  back, front = (",".join(f"{part:.3f}" for part in rgb) for rgb in _colors(score, full))
  return rf"\colorbox[rgb]{{{back}}}{{\strut\textcolor[rgb]{{{front}}}{{{words}}}}}"


def _colors(score: float, full: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns (background, letters) as red, green and blue in [0, 1]."""
  back = color.diverging(score / full if full else 0.0)
  light = 0.2126 * back[0] ** 2.2 + 0.7152 * back[1] ** 2.2 + 0.0722 * back[2] ** 2.2
  return back, (0.0,) * 3 if light > 0.18 else (1.0,) * 3


def _hex(rgb: Sequence[float]) -> str:
  return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def _ansi(words: str, score: float, full: float) -> str:
  back, front = (";".join(str(round(255 * part)) for part in rgb) for rgb in _colors(score, full))
  return f"\x1b[48;2;{back};38;2;{front}m{words}\x1b[0m"


def _signed(value: float) -> str:
  return f"{value:+.3g}".replace("-", "−") if value else "0"

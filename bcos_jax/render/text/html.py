"""Heat maps of texts in HTML, and tables of the most influential words.

Texts are written by strangers: everything is escaped, control characters included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import html
import os

from ...io import files
from ...text.influential_words import InfluentialWord
from ..report import page, table
from .heat_maps import (
  TextHeat,
  common_cutoff,
  lines_below,
  signed_number,
  visible,
  word_colors,
)

_STYLE = """
.text{line-height:2.1;overflow-wrap:anywhere;white-space:pre-wrap;max-width:none;margin:.6rem 0}
.text span{border-radius:.2rem;padding:.12em .1em}
.text span,.scale i{print-color-adjust:exact;-webkit-print-color-adjust:exact}
"""

_FRAGMENT = """
.bcos-text .text{line-height:2.1;white-space:pre-wrap;overflow-wrap:anywhere}
.bcos-text .text span{border-radius:.2rem;padding:.12em .1em}
.bcos-text h2{font-size:1.05em;margin:.4em 0}
.bcos-text .note{opacity:.75;font-size:.9em}
.bcos-text .scale{display:flex;gap:.6em;align-items:center;font-size:.85em}
.bcos-text .scale i{width:9em;height:.7em;background:linear-gradient(90deg,#00f,#fff,#f00)}
"""

_UNDERLINED = ";text-decoration:underline dotted 2px;text-underline-offset:.2em"


def text_report(
  path: str | os.PathLike,
  title: str,
  heats: Sequence[TextHeat],
  *,
  intro: str = "",
  summary: Sequence[tuple[str, ...]] = (),
  influential: Mapping[str, Sequence[InfluentialWord]] | None = None,
  cutoff: float | None = None,
  own_scales: bool = False,
) -> None:
  """Writes texts as one HTML file without any link to the outside.

  Args:
    path: File to write, replaced as a whole.
    title: Heading.
    heats: The texts, in order.
    intro: Text below the heading; an empty line starts a paragraph.
    summary: Rows of a table above the texts, its heading first.
    influential: Caption to the most influential words, shown as tables below the texts; where
      there are none, a line says that the texts are too few.
    cutoff: Contribution at full colour; None takes that of the strongest word of all texts, so that
      colours compare.
    own_scales: Whether each text has its own scale instead.

  Raises:
    InputError: A path that cannot be written.
  """
  target = files.check_folder(path)
  tables = "" if influential is None else _influential(influential)
  if cutoff is None and not own_scales:
    cutoff = common_cutoff(heats)
  above = f"<section>{table(summary)}</section>" if summary else ""
  body = above + "".join(_article(heat, cutoff) for heat in heats) + tables
  files.write(target, page(visible(title), _lines(intro), f"<main>{body}</main>", style=_STYLE))


def _influential(words: Mapping[str, Sequence[InfluentialWord]]) -> str:
  found = {caption: table(influential_rows(rows)) for caption, rows in words.items() if rows}
  few = "<p>There are too few texts: no word occurs often enough in them to be listed.</p>"
  return "".join(
    f"<section><h2>{html.escape(visible(caption))}</h2>{content}</section>"
    for caption, content in (found or {"Most influential words": few}).items()
  )


def influential_rows(words: Iterable[InfluentialWord]) -> list[tuple[str, ...]]:
  """Returns the most influential words as rows of a table, its heading first."""
  rows = [
    (visible(w.word), signed_number(w.mean), f"{w.spread:.3g}", str(w.count), str(w.texts))
    for w in words
  ]
  return [("word", "mean contribution", "spread", "occurrences", "texts"), *rows]


def text_html(heat: TextHeat, cutoff: float | None = None) -> str:
  """Returns a text's words as HTML, each with its contribution as a tip; for other pages."""
  full = heat.cutoff if cutoff is None else cutoff
  spans = []
  for piece, score, unknown in heat.marked:
    words = html.escape(visible(piece))
    if score is None:
      spans.append(words)
      continue
    back, front = (_hex(rgb) for rgb in word_colors(score, full))
    spans.append(
      f'<span style="background:{back};color:{front}{_UNDERLINED if unknown else ""}" '
      f'title="{signed_number(score)}{", not in the vocabulary" if unknown else ""}">{words}</span>'
    )
  return f'<p class="text">{"".join(spans)}</p>'


def text_fragment(heat: TextHeat, cutoff: float | None = None) -> str:
  """Returns a text with heading, legend and sum as HTML that brings its style along."""
  style = "".join(_FRAGMENT.split("\n"))
  return f'<div class="bcos-text"><style>{style}</style>{_article(heat, cutoff)}</div>'


def _article(heat: TextHeat, cutoff: float | None) -> str:
  full = heat.cutoff if cutoff is None else cutoff
  notes = "".join(f"<p class=note>{html.escape(visible(line))}</p>" for line in lines_below(heat))
  heading = f"<h2>{html.escape(visible(heat.title))}</h2>" if heat.title else ""
  legend = (
    f'<p class="scale"><span>opposes, {signed_number(-full)}</span><i></i>'
    f"<span>{signed_number(full)}, supports</span></p>"
  )
  return f"<article>{heading}{text_html(heat, cutoff)}{legend}{notes}</article>"


def _lines(text: str) -> str:
  return "\n".join(visible(line) for line in text.split("\n"))


def _hex(rgb: Sequence[float]) -> str:
  return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)

"""Explained texts: coloured words in a terminal, on a page, in LaTeX.

Red words speak for what is explained, blue ones against it, as with pictures. The strongest word
of a text has full colour; the number beside it says how much that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import html
import os
import re

import numpy as np

from ..words import Word
from . import files

RGB = tuple[int, int, int]
_LATEX = {
  "\\": r"\textbackslash{}",
  "~": r"\textasciitilde{}",
  "^": r"\textasciicircum{}",
  **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}
_STYLE = """:root{color-scheme:light}
body{margin:0 auto;max-width:56rem;padding:2rem 1.25rem;background:#fff;color:#1a1a1a;
font:1rem/1.5 system-ui,sans-serif}
article{border:1px solid #d9dce0;border-radius:.5rem;padding:1.1rem 1.25rem;margin:1.25rem 0;
break-inside:avoid}
h1{font-size:1.6rem}h2{font-size:1.05rem;margin:0 0 .5rem}
.text{line-height:2;overflow-wrap:anywhere}
.text span{border-radius:.2rem;padding:.15rem .05rem;print-color-adjust:exact;
-webkit-print-color-adjust:exact}.special{font-size:.75rem;color:#5f6368}
.note{color:#5f6368;font-size:.9rem;margin:.6rem 0 0}
.scale{display:inline-block;width:9rem;height:.7rem;border:1px solid #d9dce0;
background:linear-gradient(90deg,#7f7fff,#fff,#ff7f7f)}
table{border-collapse:collapse}td,th{padding:.2rem 1rem .2rem 0;text-align:left}
.number{text-align:right}"""
_LEGEND = """<p>opposes <i class="scale"></i> supports. Each word has the colour of its \
contribution; the strongest word of a text has full colour. The contributions of all tokens, \
special ones in small print, and the named constants of the network add up to the value. Hold the \
pointer on a word to see its number.</p>"""


def shade(share: float) -> RGB:
  """Returns the colour of a contribution relative to the strongest, -1 to 1: blue, white, red."""
  faded = round(255 - 128 * min(abs(share), 1.0))
  return (255, faded, faded) if share >= 0 else (faded, faded, 255)


def shades(words: Sequence[Word]) -> list[RGB]:
  """Returns the colour of each word of a text."""
  values = np.array([word.contribution for word in words])
  strongest = np.abs(values).max(initial=0.0) or 1.0
  return [shade(float(value / strongest)) for value in values]


def words_in_terminal(text: str, words: Sequence[Word]) -> str:
  """Returns a text with coloured words, for terminals with 24-bit colours."""
  return "".join(
    piece if color is None else "\x1b[30;48;2;{};{};{}m{}\x1b[0m".format(*color, piece)
    for piece, color, _ in _pieces(text, words)
  )


def words_in_latex(text: str, words: Sequence[Word]) -> str:
  """Returns a text with coloured words for LaTeX; needs `\\usepackage{xcolor}`."""
  return "".join(
    _latex(piece)
    if color is None
    else r"\colorbox[RGB]{{{},{},{}}}{{\strut {}}}".format(*color, _latex(piece))
    for piece, color, _ in _pieces(text, words)
  )


def words_in_html(text: str, words: Sequence[Word]) -> str:
  """Returns a text with coloured words as one HTML element."""
  pieces = []
  for piece, color, word in _pieces(text, words):
    if color is None:
      pieces.append(html.escape(piece))
      continue
    kind = ' class="special"' if word.span is None else ""
    pieces.append(
      '<span{} style="background:rgb({},{},{})" title="{:+.4g}">{}</span>'.format(
        kind, *color, word.contribution, html.escape(piece)
      )
    )
  return f'<p class="text">{"".join(pieces)}</p>'


def text_report(
  path: str | os.PathLike,
  title: str,
  entries: Iterable[tuple[str, str, Sequence[Word], str]],
  telling: Sequence[tuple[str, float, int]] = (),
) -> None:
  """Writes explained texts as one HTML file without any link to the outside.

  Args:
    path: The file.
    title: Heading.
    entries: For each text a heading, the text, its words, and a note below.
    telling: Rows of `words.telling`, for a table; none if empty.
  """
  body = [f"<h1>{html.escape(title)}</h1>", _LEGEND]
  for heading, text, words, note in entries:
    body.append(
      f"<article><h2>{html.escape(heading)}</h2>{words_in_html(text, words)}"
      f'<p class="note">{html.escape(note)}</p></article>'
    )
  if telling:
    rows = "".join(
      f'<tr><td>{html.escape(word)}</td><td class="number">{mean:+.4f}</td>'
      f'<td class="number">{count}</td></tr>'
      for word, mean, count in telling
    )
    body.append(
      "<h2>Most telling words</h2><table><tr><th>word</th><th>mean contribution</th>"
      f"<th>times</th></tr>{rows}</table>"
    )
  page = (
    f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
    f"</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
  )
  files.write(files.check_folder(path), page.encode("utf-8"))


def _pieces(text: str, words: Sequence[Word]) -> Iterator[tuple[str, RGB | None, Word]]:
  """Yields words with their colours and what stands between them, in reading order."""
  end = 0
  for word, color in zip(words, shades(words), strict=True):
    if word.span is not None and word.span[0] > end:
      yield text[end : word.span[0]], None, word
    yield word.text, color, word
    if word.span is None:
      yield " ", None, word
    else:
      end = max(end, word.span[1])
  if end < len(text):
    yield text[end:], None, words[-1]


def _latex(text: str) -> str:
  return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX[found.group()], text)

"""Offline HTML reports of explanations, in one printable file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import html
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..io import files
from . import canvas, kinds
from .figure import completeness, headline, percent
from .views import Options, View, place, view

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_LEGEND = """
<section class="legend"><h2>How to read the pictures</h2><dl>
<dt>Picture</dt><dd>What the network was given.</dd>
<dt>What the network sees in it</dt><dd>The network's own computation for the explained class,
turned back into colours. Solid places matter, faded places do not. The colours do not approximate
the network: it multiplies the picture by exactly these weights to reach its output. Only the
fading is smoothed, for the eye.</dd>
<dt>Contributions</dt><dd>How much each pixel adds to the output for the explained class.
<span class="scale"><span>opposes</span><i></i><span>supports</span></span>
Red pixels support the class, blue ones oppose it, white ones do not count. The number below
a map is the contribution at full colour, so compare maps with it in mind.</dd>
<dt>Output</dt><dd>The contributions of all pixels, and the named constants of the network, add up
to the output. A remainder other than rounding would mean that the explanation is incomplete.</dd>
</dl></section>"""

_STYLE = """
:root{color-scheme:light dark;--ink:#1a1a1a;--soft:#5f6368;--line:#d9dce0;--page:#fff;
--card:#f7f8f9;--bar:#b9c0c8}
@media (prefers-color-scheme:dark){:root{--ink:#ececec;--soft:#a5abb2;--line:#3c4043;--page:#16181a;
--card:#202326;--bar:#6a727a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:2rem 1.25rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 .75rem}h2{font-size:1.15rem;margin:0 0 .5rem}
p{max-width:46rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.summary{margin:1.25rem 0}.summary th,.summary td{padding:.35rem .9rem .35rem 0;text-align:left;
border-bottom:1px solid var(--line)}.summary .number{text-align:right}
.legend,article{background:var(--card);border:1px solid var(--line);border-radius:.5rem;
padding:1.1rem 1.25rem;margin:1.25rem 0;break-inside:avoid}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.45rem 1.25rem;margin:0}
dt{font-weight:600;max-width:12rem}dd{margin:0;max-width:46rem}
.scale{display:flex;gap:.6rem;align-items:center;color:var(--soft);font-size:.85rem;margin:.2rem 0}
.scale i{width:9rem;height:.7rem;border:1px solid var(--line);
background:linear-gradient(90deg,#00f,#fff,#f00)}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:1rem;
margin:.75rem 0}
.contrast{grid-template-columns:repeat(3,minmax(0,1fr));max-width:46rem}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft);margin-top:.3rem}
figure img{width:100%;height:auto;display:block;background:#fff;border:1px solid var(--line);
image-rendering:pixelated}
.plot{margin:1.25rem 0;break-inside:avoid}.plot img{width:auto;max-width:100%;
border-radius:.3rem;image-rendering:auto}
.classes{width:100%;max-width:34rem;font-size:.95rem}.classes td{padding:.15rem .6rem .15rem 0}
.classes .name{overflow-wrap:anywhere;width:45%}
.classes .number{text-align:right;white-space:nowrap}
.classes .meter{width:40%}.meter div{height:.65rem;background:var(--bar);min-width:1px}
.explained{font-weight:600}.explained .meter div{background:var(--ink)}
.note,.sum,.kind{color:var(--soft);font-size:.9rem;margin:.6rem 0 0;max-width:none;
overflow-wrap:anywhere}.warned{color:var(--ink);font-weight:600}
@media (max-width:40rem){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--page:#fff;--card:#fff;
--bar:#999}html{font-size:9.5pt}
body{max-width:none;padding:0}
.legend,article{padding:.7rem .9rem;margin:.7rem 0}
.panels{grid-template-columns:repeat(4,1fr)}.contrast{grid-template-columns:repeat(3,1fr)}
.scale i,.meter div{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


@dataclasses.dataclass(frozen=True)
class Entry:
  """One explanation in a report.

  Attributes:
    explanation: An `Explanation`.
    index: The image, or (image, which of its targets).
    rival: Likewise, another class of the same image to contrast with, such as the true class of a
      wrong prediction: three maps on one scale, for one class, for the other, and for the first
      rather than the second. None for none.
    labels: Class names, one per output; None for numbers.
    title: Heading; the explained class is named below it. Empty: the explained class.
    note: A sentence below the pictures, e.g. the true class or the file.
  """

  explanation: Any
  index: int | tuple[int, int] = 0
  labels: Sequence[str] | None = None
  title: str = ""
  note: str = ""
  rival: int | tuple[int, int] | None = None


def report(
  path: str | os.PathLike,
  title: str,
  entries: Sequence[Entry | str],
  *,
  intro: str = "",
  summary: Sequence[Sequence[object]] | None = None,
  plots: Mapping[str, Figure] | None = None,
  options: Options | None = None,
) -> None:
  """Writes explanations as one HTML file without any link to the outside.

  Args:
    path: File to write, replaced as a whole.
    title: Heading.
    entries: The explanations, in order, or the articles that `article` made of them.
    intro: Text below the heading; an empty line starts a paragraph.
    summary: Rows of a table, the first one its header; None for no table.
    plots: Caption to figure, shown below the table; see `curves` and `bars`.
    options: How to draw; see `Options`.

  Raises:
    InputError: Arguments that do not fit, or a path that cannot be written.
  """
  target = files.check_folder(path)
  articles = "".join(
    entry if isinstance(entry, str) else article(entry, options) for entry in entries
  )
  body = f"{_plots(plots or {})}<main>{_LEGEND if entries else ''}{articles}</main>"
  files.write(target, page(title, intro, body, summary))


def page(
  title: str,
  intro: str,
  body: str,
  summary: Sequence[Sequence[object]] | None = None,
  style: str = "",
) -> bytes:
  """Returns a whole page of HTML in the style of reports.

  Args:
    title: Heading.
    intro: Text below it; an empty line starts a paragraph.
    body: HTML.
    summary: Rows of a table below the intro, see `table`.
    style: More style sheet.
  """
  paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in intro.split("\n\n") if text)
  text = (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta name="viewport" content="width=device-width,initial-scale=1">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head><body>"
    f"<header><h1>{html.escape(title)}</h1>{paragraphs}{table(summary)}</header>"
    f"{body}</body></html>\n"
  )
  return text.encode("utf-8", errors="replace")


def _plots(plots: Mapping[str, Figure]) -> str:
  return "".join(
    f'<figure class="plot"><img src="{_data(canvas.encoded(plot))}" alt="{html.escape(caption)}">'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    for caption, plot in plots.items()
  )


def table(rows: Sequence[Sequence[object]] | None) -> str:
  """Returns rows, the first one its header, as a table of HTML; nothing without rows."""
  if not rows:
    return ""
  header, *body = rows
  if any(len(row) != len(header) for row in body):
    raise InputError(
      f"Rows of the summary have {sorted({len(r) for r in rows})} cells, expected "
      f"{len(header)} as in the header.",
      "Fill missing cells with ''.",
    )
  # A column of numbers lines up on the right, its heading with it.
  numeric = [bool(body) and all(_is_number(row[i]) for row in body) for i in range(len(header))]

  def line(row, tag):
    return (
      "<tr>"
      + "".join(
        f"<{tag}{' class=number' if right else ''}>{html.escape(str(cell))}</{tag}>"
        for cell, right in zip(row, numeric, strict=True)
      )
      + "</tr>"
    )

  return (
    f'<div class="wide"><table class="summary"><thead>{line(header, "th")}</thead><tbody>'
    f"{''.join(line(row, 'td') for row in body)}</tbody></table></div>"
  )


def _is_number(cell: object) -> bool:
  text = str(cell).strip()
  return not text or text[:1] in "+-−±<>≤≥.0123456789"


def article(entry: Entry, options: Options | None = None) -> str:
  """Returns one explanation as the HTML of a report."""
  options = options or Options()
  shown = view(entry.explanation, entry.index, entry.labels, options)
  panels, sums, kind = _panels(shown), [completeness(shown)], "panels"
  if entry.rival is not None:
    kind = "panels contrast"
    panels, sums = _contrast(shown, *rivals(entry, options))
  title = html.escape(entry.title or headline(shown))
  below = f"<p class=note>{html.escape(headline(shown))}</p>" if entry.title else ""
  note = f"<p class=note>{html.escape(entry.note)}</p>" if entry.note else ""
  return (
    f"<article><h2>{title}</h2>{below}<div class='{kind}'>{panels}</div>"
    f"{_classes(shown)}{''.join(f'<p class=sum>{html.escape(line)}</p>' for line in sums)}"
    f"{kind_line(shown.kind)}{note}</article>"
  )


def kind_line(kind: str) -> str:
  """Says what kind of explanation it is; in bold unless it is exact."""
  warned = "" if kinds.is_sound(kind) else " warned"
  return f'<p class="kind{warned}">{html.escape(kind)}</p>'


def rivals(entry: Entry, options: Options) -> tuple[View, View]:
  """Returns the explanation of the other class, and that of one rather than the other."""
  ex, labels = entry.explanation, entry.labels
  assert entry.rival is not None, "only entries with a rival are contrasts"
  one, other = (place(ex, index) for index in (entry.index, entry.rival))
  names = [view(ex, index, labels, options).name for index in (entry.index, entry.rival)]
  between = view(ex.rather_than(one, other), 0, labels, options)
  name = f"{names[0]} rather than {names[1]}"
  return view(ex, entry.rival, labels, options), dataclasses.replace(between, name=name)


def _contrast(shown: View, rival: View, between: View) -> tuple[str, list[str]]:
  """Returns panels and sums of two classes of one image and of their difference."""
  maps = {
    f"For {shown.name}": shown,
    f"For {rival.name}": rival,
    between.name: between,
  }
  cutoff = max(each.cutoff for each in maps.values())
  panels = [("Picture", shown.picture)]
  for caption, each in list(maps.items())[:2]:
    if each.colored is not None:
      panels.append((f"{caption}: what the network sees", each.colored))
  for caption, each in maps.items():
    heat = dataclasses.replace(each, cutoff=cutoff).heat
    panels.append((f"{caption}: contributions (full colour: ±{cutoff:.2g})", heat))
  sums = [f"{caption}: {completeness(each)}" for caption, each in maps.items()]
  return _figures(panels, shown.name), sums


def _panels(shown: View) -> str:
  panels = [("Picture", shown.picture)]
  if shown.colored is not None:
    panels.append(("What the network sees in it", shown.colored))
  panels += [
    (f"Contributions (full colour: ±{shown.cutoff:.2g})", shown.heat),
    ("Contributions on the picture", shown.overlay),
  ]
  return _figures(panels, shown.name)


def _figures(panels: Sequence[tuple[str, np.ndarray]], name: str) -> str:
  return "".join(
    f'<figure><img src="{_png(image)}" alt="{html.escape(f"{caption}: {name}")}">'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    for caption, image in panels
  )


def _classes(shown: View) -> str:
  rows = "".join(
    f"<tr{' class=explained' if number == shown.target else ''}>"
    f"<td class=name>{html.escape(name)}</td>"
    f"<td class=number>{html.escape(percent(probability))}</td>"
    f'<td class=meter><div style="width:{100 * probability:.1f}%"></div></td></tr>'
    for number, name, probability in shown.classes
  )
  return f"<table class=classes><tbody>{rows}</tbody></table>"


def _png(image) -> str:
  """A data: URI of an [H, W, 3] picture in [0, 1]."""
  from PIL import Image

  buffer = io.BytesIO()
  pixels = np.uint8(np.round(255 * np.clip(np.asarray(image), 0, 1)))
  Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
  return _data(buffer.getvalue())


def _data(png: bytes) -> str:
  return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

"""Dash components around the explanations: header, picture choice, legend, class list."""

from __future__ import annotations

from collections.abc import Sequence

import dash
from dash import dcc, html
import numpy as np

from ..errors import InputError
from . import pictures, shown
from .cards import aria, class_bar
from .networks import ServedNetwork
from .pictures import Limits


def new_page(name: str) -> dash.Dash:
  """Returns an empty page that loads nothing from elsewhere; `name` is its module's."""
  return dash.Dash(
    name,
    title="B-cos explanations",
    update_title="",
    serve_locally=True,
    compress=False,
    # States the page's language, which screen readers need.
    index_string=dash.Dash(name).index_string.replace("<html>", '<html lang="en">'),
    meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
  )


def layout(networks: Sequence[ServedNetwork], limits: Limits, examples) -> html.Div:
  """Returns the whole page, before a picture is given."""
  return html.Div(
    [
      html.Header(
        [
          html.H1("What does the network see?"),
          html.P([*_subtitle(networks)], className="soft"),
        ]
      ),
      html.Div(id="message", role="alert"),
      html.Main(
        [
          html.Section(
            [_upload(limits), _examples(examples), html.Div(id="preview"), _classes(networks)],
            className="side",
            **aria(label="Picture and classes"),
          ),
          html.Section(
            [_toolbar(networks), _answer(), _GUIDE],
            id="work",
            className="work empty",
            **aria(label="Explanation"),
          ),
        ]
      ),
      html.Footer(
        "Everything is computed on the machine that this page comes from. Pictures are not stored.",
        className="soft",
      ),
      dcc.Store(id="taken"),
      dcc.Store(id="picture"),
      dcc.Store(id="target"),
      dcc.Store(
        id="limits",
        data={
          "bytes": limits.bytes,
          "message": [pictures.too_large(limits).cause, pictures.too_large(limits).fix],
        },
      ),
      dcc.Download(id="file"),
    ],
    className="page",
  )


def _subtitle(networks: Sequence[ServedNetwork]):
  for i, network in enumerate(networks):
    kind = "conventional" if network.conventional else "B-cos"
    yield html.Span([" and " if i else "", html.B(network.name)])
    yield f" ({network.bundle.config['architecture']}, {kind}, {len(network.labels)} classes)"


_HELP = html.Div(
  [
    html.H2("Give a picture to begin"),
    html.P(
      "The network names the classes it finds. Choose one, and see which parts of the picture "
      "support it and which oppose it. For a B-cos network this is exact: the contributions "
      "of all pixels, and a few named constants, add up to its output."
    ),
  ],
  className="help",
)


_GUIDE = html.Details(
  [
    html.Summary("How to read this"),
    html.P(
      "What the network sees in it: its own computation for the class, turned back into colours. "
      "Solid places matter, faded places do not. Only the fading is smoothed, for the eye."
    ),
    html.P(
      "Contributions: how much each pixel adds to the output for the class. Red supports it, "
      "blue opposes it, white does not count. The number at either end of the scale is the "
      "contribution at full colour; a few pixels may be beyond it. A pixel's percentage is its "
      "share of all contributions, signs aside. Rows and columns count from 0 at the top left."
    ),
    html.P(
      "Output: the contributions of all pixels, and the named constants of the network, add up "
      "to it. A remainder other than rounding would mean that the explanation is incomplete. "
      "The probability follows from the output."
    ),
  ],
  className="guide",
)


def _answer() -> dcc.Loading:
  return dcc.Loading(
    html.Div(_HELP, id="answer"), type="circle", color="var(--strong)", delay_show=400
  )


def _upload(limits: Limits) -> dcc.Upload:
  return dcc.Upload(
    html.Button(
      [
        html.Strong("Choose a picture"),
        html.Span(" or drop one here", className="or"),
        html.Small(f"PNG, JPEG, WebP, GIF, BMP or TIFF, up to {limits.megabytes:g} MB"),
      ],
      type="button",
      className="drop",
    ),
    id="upload",
    className="upload",
    className_active="upload over",
    style={},
    style_active={},
  )


def _examples(examples) -> html.Div | None:
  if not examples:
    return None
  return html.Div(
    [
      html.H2("Or an example", className="minor"),
      html.Div(
        [
          html.Button(
            html.Img(src=pictures.to_uri(_floats(picture)), alt=f"Example: {name}"),
            id={"type": "example", "index": i},
            type="button",
            title=name,
          )
          for i, (name, picture) in enumerate(examples)
        ],
        className="thumbs",
      ),
    ],
    className="examples",
  )


def _floats(picture) -> np.ndarray:
  picture = picture.copy()
  picture.thumbnail((160, 160))
  return np.asarray(picture.convert("RGB"), np.float32) / 255


_EACH_BY_ITSELF = "Each is judged by itself: they need not add up to 100 %."


def _classes(networks: Sequence[ServedNetwork]) -> html.Div:
  labels = networks[0].labels
  return html.Div(
    [
      html.H2("Most probable classes", id="classes-title", className="minor"),
      html.P(_EACH_BY_ITSELF, className="soft small")
      if networks[0].options.probability == "sigmoid"
      else None,
      html.Div(id="classes", className="classes", role="group", **aria(labelledby="classes-title")),
      html.Div(
        dcc.Dropdown(
          id="other", options=_all(labels), placeholder="Another class …", className="pick"
        ),
        className="" if len(labels) > 5 else "hidden",
      ),
    ],
    className="choice",
  )


def _all(labels: Sequence[str]) -> list[dict]:
  return [{"label": label, "value": i} for i, label in enumerate(labels)]


def _toolbar(networks: Sequence[ServedNetwork]) -> html.Div:
  modes = [(shown.ONE, "Explain"), (shown.CLASSES, "Compare classes")]
  if len(networks) > 1:
    modes.append((shown.NETWORKS, "Compare networks"))
  return html.Div(
    [
      html.Div(
        dcc.RadioItems(
          id="mode",
          options=[{"label": text, "value": mode} for mode, text in modes],
          value=shown.ONE,
          className="modes",
          inline=True,
        ),
        role="group",
        **aria(label="View"),
      ),
      html.Div(
        [
          html.Span("with", className="soft"),
          dcc.Dropdown(
            id="rival",
            options=_all(networks[0].labels),
            placeholder="class …",
            clearable=False,
            className="pick",
          ),
        ],
        className="rival",
      ),
      html.Button("Download figure", id="download", type="button", className="download"),
    ],
    className="toolbar",
  )


def message(error: InputError) -> html.Div:
  """Says what is wrong and what to do."""
  return html.Div([html.Strong(error.cause), " ", error.fix], className="message")


def preview(uri: str, name: str) -> html.Figure:
  """The picture as the first network is given it."""
  return html.Figure(
    [
      html.Img(src=uri, alt=f"The picture {name}, as the network is given it"),
      html.Figcaption([name, html.Small("cropped and scaled for the network")]),
    ],
    className="preview",
  )


def class_buttons(classes: Sequence[tuple[int, str, float]], target: int) -> list[html.Button]:
  """The most probable classes to choose from, each with a bar; `target` is chosen."""
  return [
    html.Button(
      class_bar(name, probability),
      id={"type": "class", "index": number},
      type="button",
      **aria(pressed=str(number == target).lower()),
    )
    for number, name, probability in classes
  ]

"""The parts of the page, as Dash components."""

from __future__ import annotations

from collections.abc import Sequence

from dash import dcc, html
import numpy as np
import plotly.graph_objects as go

from .. import render
from ..errors import InputError
from ..render.figure import percent
from . import pictures, shown
from .networks import Network
from .pictures import Limits
from .shown import Card


def layout(networks: Sequence[Network], limits: Limits, examples) -> html.Div:
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
            **{"aria-label": "Picture and classes"},
          ),
          html.Section(
            [_toolbar(networks), _answer(), _GUIDE],
            id="work",
            className="work empty",
            **{"aria-label": "Explanation"},
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


def _subtitle(networks: Sequence[Network]):
  for i, network in enumerate(networks):
    kind = "conventional" if network.conventional else "B-cos"
    yield html.Span([" and " if i else "", html.B(network.name)])
    yield f" ({network.bundle.config['architecture']}, {kind}, {len(network.labels)} classes)"


_HELP = html.Div(
  [
    html.H2("Give a picture to begin"),
    html.P(
      "The network names the classes it finds. Choose one, and see which parts of the picture "
      "speak for it and which against it. For a B-cos network this is no guess: the contributions "
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
      "Contributions: how much each pixel adds to the output for the class. Red speaks for it, "
      "blue against it, white does not count. The number at either end of the scale is the "
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
        html.Span(" or drop one here"),
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
    ]
  )


def _floats(picture) -> np.ndarray:
  return np.asarray(picture.convert("RGB"), np.float32) / 255


_EACH_BY_ITSELF = "Each is judged by itself: they need not add up to 100 %."


def _classes(networks: Sequence[Network]) -> html.Div:
  labels = networks[0].labels
  return html.Div(
    [
      html.H2("Most probable classes", id="classes-title", className="minor"),
      html.P(_EACH_BY_ITSELF, className="soft small")
      if networks[0].options.probability == "sigmoid"
      else None,
      html.Div(
        id="classes", className="classes", role="group", **{"aria-labelledby": "classes-title"}
      ),
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


def _toolbar(networks: Sequence[Network]) -> html.Div:
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
        **{"aria-label": "View"},
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
      _class(name, probability),
      id={"type": "class", "index": number},
      type="button",
      **{"aria-pressed": str(number == target).lower()},
    )
    for number, name, probability in classes
  ]


def _class(name: str, probability: float) -> html.Div:
  return html.Div(
    [
      html.Span(name, className="name"),
      html.Span(percent(probability), className="number"),
      html.Span(
        html.Span(style={"width": f"{100 * probability:.1f}%"}),
        className="meter",
        **{"aria-hidden": "true"},
      ),
    ],
    className="class",
  )


def card(card: Card, index: int, listed: bool) -> html.Article:
  """One explanation: pictures, the map with its scale and its values, classes, and the sum."""
  return html.Article(
    [
      html.H2(card.title),
      html.Div(
        [*(_panel(card, *panel) for panel in card.panels), _map(card, index)], className="panels"
      ),
      html.Div([_class(name, p) for _, name, p in card.classes], className="listed")
      if listed
      else None,
      html.P(card.sum, className="sum"),
      html.P(card.note, className="note") if card.note else None,
    ]
  )


def _panel(card: Card, caption: str, image: np.ndarray) -> html.Figure:
  return html.Figure(
    [
      html.Img(src=pictures.to_uri(image), alt=f"{caption}. {card.title}"),
      html.Figcaption(caption),
    ]
  )


def _map(card: Card, index: int) -> html.Figure:
  height, width = card.values.shape
  return html.Figure(
    [
      html.Div(
        dcc.Graph(
          id={"type": "map", "index": index},
          figure=heatmap(card),
          config={"displayModeBar": False, "scrollZoom": False, "doubleClick": False},
          responsive=True,
        ),
        role="img",
        className="map",
        style={"aspectRatio": f"{width} / {height}"},
        **{"aria-label": describe(card)},
      ),
      html.Figcaption(
        [
          card.caption,
          _scale(card),
          html.Div(
            "Point at the map to read a pixel.",
            id={"type": "readout", "index": index},
            className="readout",
            **{"aria-live": "polite"},
          ),
          _cursor(index, height, width),
        ]
      ),
    ]
  )


def _cursor(index: int, height: int, width: int) -> html.Details:
  """The same by keyboard."""
  return html.Details(
    [
      html.Summary("Read a pixel by its number"),
      *(
        html.Label(
          [
            name,
            dcc.Input(
              id={"type": name, "index": index}, type="number", min=0, max=size - 1, step=1
            ),
          ]
        )
        for name, size in (("row", height), ("column", width))
      ),
    ],
    className="cursor",
  )


def describe(card: Card) -> str:
  """Returns the map in words: how much is on either side, and where its strongest pixels are."""
  low, high = card.words
  positive = float(np.maximum(card.values, 0).sum())
  negative = float(np.minimum(card.values, 0).sum())
  row, column = np.unravel_index(np.abs(card.values).argmax(), card.values.shape)
  return (
    f"{card.caption}. {card.title}. Pixels that say {high!r} sum to {positive:.3g}, those that "
    f"say {low!r} to {negative:.3g}. The strongest is at row {row}, column {column}."
  )


def colors() -> list[str]:
  """Returns CSS colours of a map at minus full, zero and full: those of `render`."""
  rgb = np.asarray(render.contribution_map(np.array([[-1.0, 0.0, 1.0]]), 100.0)[0])[0]
  return [f"rgb({','.join(str(round(255 * float(part))) for part in color)})" for color in rgb]


def _scale(card: Card) -> html.Div:
  low, high = card.words
  edge = f"{card.cutoff:.2g}" if card.cutoff else "0"
  return html.Div(
    [
      html.I(style={"background": f"linear-gradient(90deg, {', '.join(colors())})"}),
      html.Span([html.B(low), f" −{edge}"]),
      html.Span([html.B(high), f" +{edge}"], className="high"),
    ],
    className="scale",
  )


def heatmap(card: Card) -> go.Figure:
  """Returns the map as a Plotly figure, without axes: the page draws scale and caption."""
  limit = card.cutoff or 1.0
  figure = go.Figure(
    go.Heatmap(
      z=np.asarray(card.values, np.float32),
      customdata=np.asarray(100 * shown.share(card.values), np.float32),
      zmin=-limit,
      zmax=limit,
      colorscale=[[i / 2, color] for i, color in enumerate(colors())],
      showscale=False,
      name=card.unit,
      hovertemplate=f"row %{{y}}, column %{{x}}<br>{card.unit} %{{z:+.3g}}<br>"
      "%{customdata:+.2f} % of all<extra></extra>",
    )
  )
  figure.update_layout(
    margin={"l": 0, "r": 0, "t": 0, "b": 0},
    xaxis={"visible": False, "fixedrange": True},
    yaxis={"visible": False, "fixedrange": True, "autorange": "reversed"},
    dragmode=False,
    hoverlabel={"bgcolor": "#1a1a1a", "font": {"color": "#fff", "family": "system-ui"}},
    paper_bgcolor="rgba(0,0,0,0)",
    plot_bgcolor="#fff",
  )
  return figure

"""Dash components of one explanation: pictures, the interactive map, its scale, the sum."""

from __future__ import annotations

from typing import Any

from dash import dcc, html
import numpy as np
import plotly.graph_objects as go

from .. import render
from ..render import kinds
from ..render.figure import percent
from . import pictures, shown
from .shown import Card


def aria(**values: str) -> dict[str, Any]:
  """Returns attributes for screen readers, as Dash takes them: aria(label="Map")."""
  return {f"aria-{name}": value for name, value in values.items()}


def class_bar(name: str, probability: float) -> html.Div:
  """A class, its probability, and a bar as long as that."""
  return html.Div(
    [
      html.Span(name, className="name"),
      html.Span(percent(probability), className="number"),
      html.Span(
        html.Span(style={"width": f"{100 * probability:.1f}%"}),
        className="meter",
        **aria(hidden="true"),
      ),
    ],
    className="class",
  )


def card(card: Card, index: int, listed: bool) -> html.Article:
  """One explanation: pictures, the map with its scale and its values, classes, and the sum."""
  # The map comes second, beside the picture: what is asked for is in view first.
  first, *others = (_panel(card, *panel) for panel in card.panels)
  return html.Article(
    [
      html.H2(card.title),
      html.Div([first, _map(card, index), *others], className="panels"),
      html.Div([class_bar(name, p) for _, name, p in card.classes], className="listed")
      if listed
      else None,
      html.P(card.sum, className="sum"),
      html.P(card.kind, className="kind" if kinds.is_sound(card.kind) else "kind warned"),
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
        **aria(label=describe(card)),
      ),
      html.Figcaption(
        [
          card.caption,
          _scale(card),
          html.Div(
            "Point at the map to read a pixel.",
            id={"type": "readout", "index": index},
            className="readout",
            **aria(live="polite"),
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

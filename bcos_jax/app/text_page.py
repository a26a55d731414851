"""The page of a text network: layout and callbacks, in Dash. `texts` decides what it displays."""

from __future__ import annotations

from collections.abc import Sequence

import dash
from dash import ALL, Input, Output, State, dcc, html, no_update

from ..render import kinds
from ..render.text.heat_maps import signed_number, sum_in_words, visible, word_colors
from . import blocks, texts
from .cards import aria, colors
from .pictures import Limits
from .requests import guarded, register_api
from .texts import TextAnswer, TextNetwork


def make_text_page(network: TextNetwork, examples: Sequence[tuple[str, str]]) -> dash.Dash:
  """Returns the page as a Dash application; `.server` is the WSGI one.

  Args:
    network: The network.
    examples: (name, text) to begin with; may be empty.
  """
  page = blocks.new_page(__name__)
  register_api(page.server, [network], Limits())
  page.layout = _layout(network, examples)
  _register(page, network, examples)
  return page


def _layout(network: TextNetwork, examples: Sequence[tuple[str, str]]) -> html.Div:
  conventional = network.reader.model.ops.conventional
  kind = "conventional" if conventional else "B-cos"
  subtitle = [html.B(network.name), f" ({network.architecture}, {kind})"]
  return html.Div(
    [
      html.Header([html.H1("What does the network read?"), html.P(subtitle, className="soft")]),
      html.Div(id="message", role="alert"),
      html.Main(
        [
          html.Section(
            [_box(), *_examples(examples), _classes(network)],
            className="side",
            **aria(label="Text and classes"),
          ),
          html.Section(
            [
              dcc.Loading(
                html.Div(_HELP, id="answer"), type="circle", color="var(--strong)", delay_show=400
              )
            ],
            id="work",
            className="work empty",
            **aria(label="Explanation"),
          ),
        ]
      ),
      html.Footer(
        "Everything is computed on the machine that this page comes from. Texts are not stored.",
        className="soft",
      ),
      dcc.Store(id="asked"),
    ],
    className="page",
  )


_HELP = html.Div(
  [
    html.H2("Write a text to begin"),
    html.P(
      "The network names what it predicts. Red words support it, blue ones oppose it, white ones "
      "do not count. For a B-cos network this is exact: words, special tokens and a few named "
      "constants add up to its output."
    ),
  ],
  className="help",
)


def _box() -> html.Div:
  return html.Div(
    [
      html.Label("Text", htmlFor="text", className="minor"),
      dcc.Textarea(id="text", maxLength=texts.MOST_CHARACTERS, rows=5, className="box"),
      html.Button("Explain", id="explain", type="button", className="download"),
    ],
    className="writing",
  )


def _examples(examples: Sequence[tuple[str, str]]) -> list:
  if not examples:
    return []
  return [
    html.H2("Or an example", className="minor"),
    html.Div(
      [
        html.Button(name, id={"type": "example", "index": i}, type="button", title=text[:200])
        for i, (name, text) in enumerate(examples)
      ],
      className="words",
    ),
  ]


def _classes(network: TextNetwork) -> html.Div:
  what = "Most probable classes" if network.labels else "Most probable tokens"
  return html.Div(
    [
      html.H2(what, id="classes-title", className="minor"),
      html.Div(id="classes", className="classes", role="group", **aria(labelledby="classes-title")),
    ],
    className="choice",
  )


def _register(page: dash.Dash, network: TextNetwork, examples: Sequence[tuple[str, str]]) -> None:
  @page.callback(
    Output("answer", "children"),
    Output("classes", "children"),
    Output("work", "className"),
    Output("text", "value"),
    Output("asked", "data"),
    Output("message", "children"),
    Input("explain", "n_clicks"),
    Input({"type": "example", "index": ALL}, "n_clicks"),
    Input({"type": "class", "index": ALL}, "n_clicks"),
    State("text", "value"),
    State("asked", "data"),
    prevent_initial_call=True,
  )
  @guarded(6)
  def explain(clicked, given, chosen, text, asked):
    del clicked, given, chosen
    trigger = dash.ctx.triggered_id
    if not dash.ctx.triggered[0]["value"]:  # new buttons report themselves too, not clicked yet
      raise dash.exceptions.PreventUpdate
    target, shown = None, no_update
    if isinstance(trigger, dict) and trigger["type"] == "example":
      text = shown = examples[trigger["index"]][1]
    elif isinstance(trigger, dict):
      text, target = asked, trigger["index"]
    found = texts.answer(network, text, target)
    buttons = blocks.class_buttons(found.classes, found.target)
    return text_card(found), buttons, "work", shown, text, None


def text_card(found: TextAnswer) -> html.Article:
  """One explained text: its words in colours, their scale, and the sum."""
  heat = found.heat
  edge = signed_number(heat.cutoff)
  return html.Article(
    [
      html.H2(visible(heat.title)),
      html.P(
        [_word(*each, heat.cutoff) for each in heat.marked],
        className="text",
        **aria(label=f"The text, its words coloured for {visible(heat.title)}"),
      ),
      html.Div(
        [
          html.I(style={"background": f"linear-gradient(90deg, {', '.join(colors())})"}),
          html.Span([html.B("opposes"), f" −{edge.lstrip('+')}"]),
          html.Span([html.B("supports"), f" {edge}"], className="high"),
        ],
        className="scale narrow",
      ),
      html.P(sum_in_words(heat), className="sum"),
      html.P(heat.kind, className="kind" if kinds.is_sound(heat.kind) else "kind warned"),
      html.P("Underlined: not in the vocabulary of the network.", className="note")
      if any(heat.unknown)
      else None,
      html.P(heat.note, className="note") if heat.note else None,
    ]
  )


def _word(piece: str, score: float | None, unknown: bool, full: float):
  if score is None:
    return visible(piece)
  back, front = (
    f"rgb({','.join(str(round(255 * part)) for part in rgb)})" for rgb in word_colors(score, full)
  )
  said = f"{signed_number(score)}{', not in the vocabulary' if unknown else ''}"
  return html.Span(
    visible(piece),
    style={"background": back, "color": front},
    title=said,
    className="unknown" if unknown else "",
  )

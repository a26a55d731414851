"""The page of the app: layout and callbacks, in Dash. `shown` decides what it displays."""

from __future__ import annotations

from collections.abc import Sequence

import dash
from dash import ALL, MATCH, ClientsideFunction, Input, Output, State, dcc, no_update
from PIL import Image

from ..errors import InputError
from . import blocks, pictures, shown
from .cards import card
from .networks import ServedNetwork
from .pictures import Limits
from .requests import guarded, register_api
from .shown import Question

Examples = Sequence[tuple[str, Image.Image]]


def make_page(networks: Sequence[ServedNetwork], limits: Limits, examples: Examples) -> dash.Dash:
  """Returns the page as a Dash application; `.server` is the WSGI one.

  Args:
    networks: One or two.
    limits: Of uploads.
    examples: (name, picture) to begin with; may be empty.
  """
  page = blocks.new_page(__name__)
  register_api(page.server, networks, limits)
  page.layout = blocks.layout(networks, limits, examples)
  _register_reading(page, networks, limits, examples)
  _register_choosing(page)
  _register_answering(page, networks)
  _register_hovering(page)
  return page


def _register_reading(
  page: dash.Dash, networks: Sequence[ServedNetwork], limits: Limits, examples: Examples
) -> None:
  # The browser refuses a file that the server would reject: an error message instead of silence.
  page.clientside_callback(
    ClientsideFunction("bcos", "take"),
    Output("taken", "data"),
    Output("upload", "contents"),
    Output("message", "children", allow_duplicate=True),
    Input("upload", "contents"),
    State("upload", "filename"),
    State("limits", "data"),
    prevent_initial_call=True,
  )

  @page.callback(
    Output("picture", "data"),
    Output("target", "data"),
    Output("rival", "value"),
    Output("preview", "children"),
    Output("message", "children"),
    Input("taken", "data"),
    Input({"type": "example", "index": ALL}, "n_clicks"),
    prevent_initial_call=True,
  )
  @guarded(5)
  def read(taken, clicks):
    asked = dash.ctx.triggered_id
    if isinstance(asked, dict):
      if not any(clicks):
        raise dash.exceptions.PreventUpdate
      name, picture = examples[asked["index"]]
    elif taken:
      name, picture = taken["name"], pictures.read_upload(taken["contents"], limits)
    else:
      raise dash.exceptions.PreventUpdate
    images = [network.preprocess(picture) for network in networks]
    top = shown.top_classes(networks[0], images[0])
    uris = [pictures.to_uri(image) for image in images]
    return (
      uris,
      top[0][0],
      top[1][0] if len(top) > 1 else None,
      blocks.preview(uris[0], name),
      None,
    )


def _images(networks: Sequence[ServedNetwork], uris: Sequence[str]):
  if not isinstance(uris, list) or len(uris) != len(networks):
    raise InputError("There is no picture.", "Upload a picture, or choose an example.")
  return [
    pictures.from_uri(uri, network.preprocess) for uri, network in zip(uris, networks, strict=True)
  ]


def _register_choosing(page: dash.Dash) -> None:
  @page.callback(
    Output("target", "data", allow_duplicate=True),
    Output("other", "value"),
    Input({"type": "class", "index": ALL}, "n_clicks"),
    Input("other", "value"),
    prevent_initial_call=True,
  )
  def choose(clicks, other):
    asked = dash.ctx.triggered_id
    if asked == "other" and other is not None:
      return other, None  # emptied: the list shows the choice
    # New buttons report themselves too, not clicked yet.
    if isinstance(asked, dict) and dash.ctx.triggered[0]["value"]:
      return asked["index"], no_update
    raise dash.exceptions.PreventUpdate


def _register_answering(page: dash.Dash, networks: Sequence[ServedNetwork]) -> None:
  question = [
    Input("picture", "data"),
    Input("mode", "value"),
    Input("target", "data"),
    Input("rival", "value"),
  ]

  @page.callback(
    Output("answer", "children"),
    Output("classes", "children"),
    Output("work", "className"),
    Output("message", "children", allow_duplicate=True),
    *question,
    prevent_initial_call=True,
  )
  @guarded(4)
  def answer(uris, mode, target, rival):
    if not uris or target is None:
      raise dash.exceptions.PreventUpdate
    images = _images(networks, uris)
    try:
      cards = shown.answer(networks, images, Question(mode, target, rival))
      content = [card(each, i, mode == shown.NETWORKS) for i, each in enumerate(cards)]
      top = cards[0].classes
    except InputError as error:
      # Shown in place of the result: an old result beside a new question would mislead.
      content = blocks.message(error)
      top = shown.top_classes(networks[0], images[0], also=target)
    return content, blocks.class_buttons(top, target), f"work mode-{mode}", None

  @page.callback(
    Output("file", "data"),
    Output("message", "children", allow_duplicate=True),
    Input("download", "n_clicks"),
    *[State(part.component_id, part.component_property) for part in question],
    prevent_initial_call=True,
  )
  @guarded(2)
  def download(clicks, uris, mode, target, rival):
    if not clicks or not uris or target is None:
      raise dash.exceptions.PreventUpdate
    asked = Question(mode, target, rival)
    png = shown.draw(networks, _images(networks, uris), asked)
    return dcc.send_bytes(png, shown.file_name(networks, asked)), None


def _register_hovering(page: dash.Dash) -> None:
  page.clientside_callback(
    ClientsideFunction("bcos", "read"),
    Output({"type": "readout", "index": MATCH}, "children"),
    Input({"type": "map", "index": MATCH}, "hoverData"),
    Input({"type": "row", "index": MATCH}, "value"),
    Input({"type": "column", "index": MATCH}, "value"),
    State({"type": "map", "index": MATCH}, "figure"),
    prevent_initial_call=True,
  )

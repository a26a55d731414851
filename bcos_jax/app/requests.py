"""Requests of page and programs: one at a time, their errors in one line, and the JSON endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, unknown_name
from . import pictures, shown, texts
from .networks import ServedNetwork
from .pictures import Limits
from .texts import TextNetwork

if TYPE_CHECKING:
  from flask import Flask

_LOG = logging.getLogger(__name__)
# Explanations use all cores and much memory: one runs at a time, others wait.
ONE_AT_A_TIME = threading.Lock()
API = "/api/explain"
_CALLBACKS = "/_dash-update-component"
_CALLBACK_KEYS = {"output", "inputs"}
_KEYS = {True: ("text", "target"), False: ("image", "target", "contributions")}


def guarded(count: int):
  """Shows a callback's failure as a message, its last of `count` outputs."""
  import dash

  from . import blocks

  def decorate(function: Callable):
    @functools.wraps(function)
    def run(*arguments):
      try:
        with ONE_AT_A_TIME:
          return function(*arguments)
      except dash.exceptions.PreventUpdate:
        raise
      except InputError as error:
        return *[dash.no_update] * (count - 1), blocks.message(error)
      except Exception:
        _LOG.exception("An input could not be explained")
        return *[dash.no_update] * (count - 1), blocks.message(_failure())

    return run

  return decorate


def _failure() -> InputError:
  return InputError(
    "This could not be explained.", "Try another input; see the server's log for details."
  )


def explain_json(
  networks: Sequence[ServedNetwork | TextNetwork], limits: Limits, asked: Any
) -> dict[str, Any]:
  """Answers a request of a program with plain values.

  Args:
    networks: Those of the page; the first one answers.
    limits: Of pictures.
    asked: {"image": picture file in base64, or a data: URI of it}, or {"text": text}; with
      "target", a class by name or number (omitted: the predicted one), and for pictures
      "contributions": false to leave out the map.

  Raises:
    InputError: Whatever is wrong with it.
  """
  network = networks[0]
  reads_text = isinstance(network, TextNetwork)
  needed, *others = _KEYS[reads_text]
  if not isinstance(asked, dict) or needed not in asked:
    raise InputError(
      f"The request is not a JSON object with the key {needed!r}.",
      f"Send, for example, {json.dumps({needed: '...'})}.",
    )
  for key in asked:
    if key not in (needed, *others):
      raise unknown_name("key", str(key), (needed, *others))
  target = asked.get("target")
  if target is not None and (isinstance(target, bool) or not isinstance(target, (int, str))):
    raise InputError("The target is not a class.", "Give the name or the number of a class.")
  if isinstance(network, TextNetwork):
    return _text_answer(network, asked["text"], target)
  return _picture_answer(network, limits, asked, target)


def _text_answer(network: TextNetwork, text: Any, target: int | str | None) -> dict[str, Any]:
  found = texts.answer(network, texts.checked_text(text), target)
  return {
    "network": network.name,
    "target": _named(found.target, network.reader.name_of(found.target)),
    **found.numbers,
    "classes": [_named(*each) for each in found.classes],
    "kind": found.heat.kind,
  }


def _picture_answer(
  network: ServedNetwork, limits: Limits, asked: dict[str, Any], target: int | str | None
) -> dict[str, Any]:
  if not isinstance(asked["image"], str):
    raise InputError("The image is not text.", "Send a picture file in base64.")
  uri = asked["image"] if asked["image"].startswith("data:") else f"data:,{asked['image']}"
  if not isinstance(with_map := asked.get("contributions", True), bool):
    raise InputError("contributions is not true or false.", "Omit it for the map.")
  image = network.preprocess(pictures.read_upload(uri, limits))
  if isinstance(target, str):
    if target not in network.labels:
      raise unknown_name("class", target, network.labels)
    target = network.labels.index(target)
  number = shown.top_classes(network, image)[0][0] if target is None else target
  ex = network.explain(image, [number])
  seen = shown.view_of(network, ex)
  contributions = np.asarray(seen.contributions, np.float64)
  return {
    "network": network.name,
    "target": _named(number, seen.name, seen.probability),
    "value": seen.value,
    "terms": seen.terms,
    "completeness_error": float(ex.completeness_error[0]),
    "classes": [_named(*each) for each in seen.classes],
    "kind": seen.kind,
    **({"contributions": contributions.tolist()} if with_map else {}),
  }


def _named(number: int, name: str, probability: float | None = None) -> dict[str, Any]:
  known = {} if probability is None else {"probability": probability}
  return {"class": number, "name": name, **known}


def register_api(
  server: Flask, networks: Sequence[ServedNetwork | TextNetwork], limits: Limits
) -> None:
  """Adds the endpoint for programs to the server of a page."""
  import flask
  from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

  def refused(error: InputError, status: int = 400):
    # One line each, whatever they quote.
    said = {"error": " ".join(error.cause.split()), "fix": " ".join(error.fix.split())}
    return flask.jsonify(said), status

  @server.route(API, methods=["GET", "POST"])  # GET of any other address is the page's
  def explain():
    if flask.request.method != "POST":
      return refused(InputError("This address takes POST only.", "Send JSON by POST."), 405)
    try:
      if not flask.request.is_json:  # a foreign page can post forms, but not this
        raise InputError(
          "The request is not JSON.", "Send it with the header Content-Type: application/json."
        )
      try:
        asked = json.loads(flask.request.get_data())
      except RequestEntityTooLarge:
        return refused(pictures.too_large(limits), 413)
      except (ValueError, RecursionError):
        raise InputError("The request is not valid JSON.", 'Send {"image": "..."}.') from None
      with ONE_AT_A_TIME:
        return flask.jsonify(explain_json(networks, limits, asked))
    except InputError as error:
      return refused(error)
    except HTTPException:
      raise
    except Exception:
      _LOG.exception("A request could not be answered")
      return refused(_failure(), 500)


def guard_callbacks(server: Flask) -> None:
  """Answers malformed requests of the page's own kind with status 400, not as failures."""
  import flask
  from werkzeug.exceptions import HTTPException

  @server.before_request
  def whole():
    if flask.request.path != _CALLBACKS or flask.request.method != "POST":
      return
    asked = flask.request.get_json(silent=True)
    if not isinstance(asked, dict) or not _CALLBACK_KEYS <= asked.keys():
      flask.abort(400)

  @server.errorhandler(Exception)
  def failed(error: Exception):
    if isinstance(error, HTTPException):
      return error
    _LOG.exception("A request failed")
    # The page's callbacks show their own failures: what is left was not sent by the page.
    status = 400 if flask.request.path == _CALLBACKS else 500
    return flask.Response(status=status)

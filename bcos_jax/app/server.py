"""The web server of the app: permitted requests, listening address, security headers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import errno
import ipaddress
import logging
import os
import socket
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, requires
from . import networks as networks_
from .examples import examples, text_examples
from .pictures import Limits
from .requests import guard_callbacks
from .texts import MOST_CHARACTERS, TextNetwork, answer

if TYPE_CHECKING:
  import dash
  from flask import Flask

_CALLBACK = "/_dash-update-component"
_HEADERS = {
  "X-Content-Type-Options": "nosniff",
  "X-Frame-Options": "DENY",
  "Referrer-Policy": "no-referrer",
  "Cache-Control": "no-store",
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """How the page is served.

  Attributes:
    host: Name or address to listen on; a loopback one is reached from this machine only.
    port: To listen on; 0 takes a free one.
    limits: Of uploads.
    examples: Folder of pictures, or texts, to begin with; None takes those that came with the
      bundle, if there are any; "" takes none.
  """

  host: str = "127.0.0.1"
  port: int = 7860
  limits: Limits = dataclasses.field(default_factory=Limits)
  examples: str | os.PathLike | None = None


def serve(
  bundles: Sequence[str | os.PathLike],
  settings: Settings | None = None,
  *,
  download: bool = False,
  say: Callable[[str], None] = print,
) -> None:
  """Serves the page for one or two networks, until it is interrupted.

  Args:
    bundles: The networks, whatever `bcos_jax.load` opens.
    settings: See `Settings`.
    download: Lets hub ids be fetched.
    say: Function that prints one line of output.

  Raises:
    InputError: A missing package, a port in use, or a network that cannot be loaded.
  """
  settings = settings or Settings()
  requires("app", "Pages in the browser")
  with listening(settings.host, settings.port) as listener:
    if not is_loopback(settings.host):
      say(
        f"warning: listening on {settings.host!r}: anyone who reaches this host can use the page, "
        "which has no password and no encryption. Leave out --host to keep it to yourself."
      )
    networks = networks_.load_networks(bundles, download=download)
    make = _maker(networks, settings)  # before the wait: it may refuse the examples
    say("Compiling, once per network ...")
    for network in networks:
      warm_up(network)
    _run(listener, make(), settings, say)


def listening(host: str, port: int) -> socket.socket:
  """Returns a socket that listens, before any work is done.

  Raises:
    InputError: The port is in use, or host and port cannot be listened on.
  """
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
  except (OSError, OverflowError, UnicodeError) as error:
    if getattr(error, "errno", None) == errno.EADDRINUSE:
      raise InputError(
        f"Port {port} of {host} is in use.", f"Choose another one, for example --port={port + 1}."
      ) from None
    raise InputError(
      f"Cannot listen on {host!r}, port {port}: {getattr(error, 'strerror', None) or error}.",
      "Omit --host, and pass a --port from 1024 to 65535.",
    ) from None


def is_loopback(host: str) -> bool:
  """Whether a host is reached from this machine only."""
  try:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _maker(networks, settings: Settings) -> Callable[[], dash.Dash]:
  """Returns what makes the page of these networks, its examples read already."""
  if isinstance(networks[0], TextNetwork):
    from .text_page import make_text_page

    texts = text_examples(settings.examples, networks[0].examples, MOST_CHARACTERS)
    return lambda: make_text_page(networks[0], texts)
  from .page import make_page

  pictures = examples(settings.examples, networks[0].bundle.examples, settings.limits)
  return lambda: make_page(networks, settings.limits, pictures)


def warm_up(network: networks_.ServedNetwork | TextNetwork) -> None:
  """Compiles a network's explanation, so that the first input does not wait for it."""
  if isinstance(network, TextNetwork):
    answer(network, "a text")
    return
  side = network.preprocess
  gray = np.full((*side.size, side.colors), 0.5, np.float32)
  network.explain(gray, [0])
  if network.conventional:
    network.input_x_gradient(gray, 0)


def _run(listener: socket.socket, page: dash.Dash, settings: Settings, say) -> None:
  import waitress.server

  guard(page.server, settings, page.csp_hashes())
  host, port = listener.getsockname()[:2]
  # A page loads many files at once; short waits are not worth a warning.
  logging.getLogger("waitress.queue").setLevel(logging.ERROR)
  server = waitress.server.create_server(
    page.server,
    sockets=[listener],
    threads=8,  # explanations wait for each other, the page's files need not wait for them
    max_request_body_size=_largest_request(settings.limits),
    inbuf_overflow=_largest_request(settings.limits),  # in memory: pictures never touch the disk
    channel_timeout=60,
  )
  say(f"Ready: http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C ends it)")
  server.run()
  say("Stopped.")


def _largest_request(limits: Limits) -> int:
  """Bytes of a picture in base64, and room for what the page sends beside it."""
  return limits.bytes * 4 // 3 + 4_000_000


def _is_callback(body: object) -> bool:
  """Whether the body of a request has the form of those that the page sends."""
  return (
    isinstance(body, dict)
    and isinstance(body.get("output"), str)
    and all(
      isinstance(parts, list) and all(isinstance(part, dict | list) for part in parts)
      for parts in (body.get("inputs"), body.get("state", []))
    )
  )


def guard(server: Flask, settings: Settings, script_hashes: Sequence[str]) -> None:
  """Bounds what a WSGI server takes, and keeps its page from reaching out.

  Args:
    server: Of the page.
    settings: As served.
    script_hashes: Of the page's own inline scripts, for its content security policy.
  """
  from flask import abort, request

  server.config["MAX_CONTENT_LENGTH"] = _largest_request(settings.limits)
  scripts = " ".join(f"'{one.strip(chr(39))}'" for one in script_hashes)
  policy = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    f"script-src 'self' {scripts}; frame-ancestors 'none'; form-action 'none'; base-uri 'none'"
  )

  @server.before_request
  def known_host():
    # DNS rebinding: a foreign page can point its own name at this machine and read its responses.
    name = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
    if is_loopback(settings.host) and not is_loopback(name.strip("[]")):
      abort(403)

  guard_callbacks(server)

  @server.before_request
  def well_formed():
    if request.path == _CALLBACK and not _is_callback(request.get_json(silent=True)):
      abort(400)

  @server.errorhandler(KeyError)
  def unknown(error):
    if request.path == _CALLBACK:  # An output that the page does not have.
      return "The page has no such part.", 400
    raise error

  @server.after_request
  def closed(response):
    for name, value in {**_HEADERS, "Content-Security-Policy": policy}.items():
      response.headers.setdefault(name, value)
    return response

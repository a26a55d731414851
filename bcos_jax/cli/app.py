"""The command `app`, which starts the browser app."""

from __future__ import annotations

import pathlib

from .command import NETWORK, Commands, add_command, add_download, number, whole


def add_app(commands: Commands) -> None:
  command = add_command(
    commands,
    "app",
    _app,
    "explain pictures or texts in a browser, with a server on this machine",
    "bcos-jax app runs/quickstart/bcosified",
  )
  command.set_defaults(after_stop="run the same command again.")
  command.add_argument(
    "bundles",
    nargs="+",
    metavar="bundle",
    help=f"{NETWORK}; two to compare them",
  )
  add_download(command)
  command.add_argument("--host", default="127.0.0.1", help="address to listen on")
  command.add_argument(
    "--port", type=whole(0, 65535), default=7860, help="port to listen on; 0: any free port"
  )
  command.add_argument(
    "--max_upload_mb",
    type=number(above=0),
    default=10.0,
    help="maximum size of a picture file, in MB",
  )
  command.add_argument(
    "--max_megapixels",
    type=number(above=0),
    default=50.0,
    help="maximum size of a picture, in million pixels",
  )
  offered = command.add_mutually_exclusive_group()
  offered.add_argument(
    "--examples",
    type=pathlib.Path,
    metavar="DIR",
    help="folder of pictures, or of texts (.txt), to begin with; default: those that came with the "
    "bundle, if any",
  )
  offered.add_argument("--no_examples", action="store_true", help="offer no examples")


def _app(options, _):
  from .. import app

  limits = app.Limits(options.max_upload_mb, options.max_megapixels)
  examples = "" if options.no_examples else options.examples
  settings = app.Settings(options.host, options.port, limits, examples)
  app.serve(
    options.bundles, settings, download=options.download, say=lambda line: print(line, flush=True)
  )

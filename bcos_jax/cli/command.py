"""Options and help shared by all commands: an example, `--debug` and `--import`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import os
import sys

from ..errors import InputError


def add_command(commands, name: str, run, help: str, example: str) -> argparse.ArgumentParser:
  """Adds a command that calls `run(options, overrides)`, and returns its parser.

  `run` returns an exit code, or nothing for 0. `help` begins in lower case, without a full stop.
  """
  command = commands.add_parser(
    name,
    help=help,
    description=f"{help[0].upper()}{help[1:]}.",
    epilog=f"Example: {example}",
    allow_abbrev=False,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  command.add_argument("--debug", action="store_true", help="show tracebacks")
  command.add_argument(
    "--import",
    dest="imports",
    action="append",
    default=[],
    metavar="MODULE",
    help="import a module first, such as one that registers architectures; may be given again",
  )
  command.set_defaults(run=run)
  return command


def import_modules(names: Sequence[str]) -> None:
  """Imports modules by name; those in the working directory are found as well.

  Raises:
    InputError: One cannot be imported.
  """
  if names and os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  for name in names:
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise InputError(
        f"Cannot import {name!r}: {error}.",
        "Give the name of a module, such as my_networks for my_networks.py, in the working "
        "directory or installed.",
      ) from error

"""What all commands share: help with an example, `--debug`, `--import`, and checks of values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import importlib
import math
import os
import pathlib
import re
import sys
from typing import Any, NoReturn

from ..errors import InputError
from ..io import files

MOST = 2**32 - 1
Commands = argparse._SubParsersAction  # what `add_subparsers` returns


class Parser(argparse.ArgumentParser):
  """A parser whose complaints are an `InputError`: one line of cause, one of fix."""

  def error(self, message: str) -> NoReturn:
    message = re.sub(r"^argument (.+?): (=?)", lambda m: m[1] + (m[2] or ": "), message)
    raise InputError(f"{message.rstrip('.')}.", f"See {self.prog} --help.")


def whole(least: int = 0, most: int = MOST) -> Callable[[str], int]:
  """Returns the type of an option that is a whole number within bounds."""

  def read(text: str) -> int:
    expected = f"a whole number from {least:,} to {most:,}"
    try:
      value = int(text)
    except ValueError:
      raise argparse.ArgumentTypeError(f"={text!r}, expected {expected}") from None
    if not least <= value <= most:
      raise argparse.ArgumentTypeError(f"={text}, expected {expected}")
    return value

  return read


def number(
  least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf
) -> Callable[[str], float]:
  """Returns the type of an option that is a finite number within bounds."""
  bounds = ((least, "at least"), (above, "above"), (most, "at most"))
  said = [f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound)]
  expected = " ".join(["a finite number", " and ".join(said)]).rstrip()

  def read(text: str) -> float:
    try:
      value = float(text)
    except ValueError:
      value = math.nan
    if not (math.isfinite(value) and least <= value <= most and value > above):
      raise argparse.ArgumentTypeError(f"={text}, expected {expected}")
    return value

  return read


def path(text: str) -> pathlib.Path:
  """Reads the path of a file or folder, which need not be there."""
  return pathlib.Path(_given(text))


def _given(text: str) -> str:
  if not text:
    raise argparse.ArgumentTypeError("='' is empty, expected a value")
  return name(text)


def name(text: str) -> str:
  """Reads a name that may be a path, or empty."""
  try:
    files.check_name(text)
  except InputError as error:
    raise argparse.ArgumentTypeError(error.cause) from error
  return text


_CHECKED: dict[Any, Callable[[str], Any]] = {
  pathlib.Path: path,
  int: whole(),
  float: number(),
  None: name,
}
"""What reads options of plain types: paths that can be, numbers that are finite and no debt."""


def check_values(command: argparse.ArgumentParser) -> None:
  """Has every option of a plain type checked as it is read."""
  for action in command._actions:  # argparse has no public way
    if action.type is None and not action.option_strings and action.dest not in _FREE:
      action.type = _given
    if action.nargs != 0 and action.dest not in _FREE:
      action.type = _CHECKED.get(action.type, action.type)


def bar(
  what: str, total: int | None = None, *, shown: bool = True, unit: str = "batches"
) -> Callable[[Any], Any]:
  """Returns what wraps a loop over batches: a progress bar, if a person looks at the terminal."""
  import tqdm

  hidden = not (shown and sys.stderr.isatty())
  return lambda rows: tqdm.tqdm(rows, desc=what, total=total, unit=f" {unit}", disable=hidden)


_FREE = ("text", "pattern", "target", "foil", "ops")  # any text


def add_command(
  commands: Commands, name: str, run: Callable[..., Any], help: str, example: str
) -> argparse.ArgumentParser:
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


NETWORK = "bundle, checkpoint file or folder, or hub id owner/name, of a network"
"""What a command says of an argument that `bcos_jax.load` opens."""


def add_network(command: argparse.ArgumentParser) -> None:
  """Adds the network that a command is about, and the flag that lets it be fetched."""
  command.add_argument("bundle", help=NETWORK)
  add_download(command)


def add_download(command: argparse.ArgumentParser) -> None:
  """Adds the flag that lets hub ids be fetched."""
  command.add_argument(
    "--download", action="store_true", help="download a hub id that is not in the cache"
  )


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

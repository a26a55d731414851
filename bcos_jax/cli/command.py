"""Options and help shared by all commands: an example, and `--debug`."""

from __future__ import annotations

import argparse


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
  command.set_defaults(run=run)
  return command

"""The command `bcos-jax`.

Exit codes: 0 done, 1 the run failed, 2 bad usage or input, 130 stopped by Ctrl-C or SIGTERM, 141
the reader of a pipe has gone. A failure prints one line of cause and one of fix; `--debug` shows
the traceback. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import errno
import os
import select
import sys
from typing import Any
import warnings

from .. import __version__
from ..cache import keep_compiled, quiet_libtpu
from ..errors import InputError, RunError
from . import (
  app,
  checkpoints,
  completion,
  explanation,
  exporting,
  quickstart,
  studies,
  training,
)
from .command import Parser, check_values, import_modules
from .measuring import benchmark, evaluation, probe_command

_UNUSABLE = (
  *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
  *(errno.EACCES, errno.EPERM, errno.EROFS),
)  # what a path has that cannot be used
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STOPPED, _NO_READER = 130, 141  # as shells have it: 128 and the number of SIGINT, SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns its exit code."""
  try:
    options, rest = _parsed(arguments)
  except InputError as error:
    return _failed(error)
  keep_compiled()
  quiet_libtpu()
  warnings.formatwarning = _warned
  try:
    import_modules(options.imports)
    code = options.run(options, rest) or 0
    sys.stdout.flush()
    return code
  except KeyboardInterrupt as stop:
    _say(f"stopped: {stop or 'by the keyboard'}", options.after_stop)
    return _STOPPED
  except Exception as error:
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
      return _NO_READER
    if options.debug:
      raise
    return _failed(error)


def _parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
  """Returns the options of a command line, and the fields of a recipe that it sets.

  Raises:
    InputError: Unknown commands or options, or values that cannot be.
  """
  parser = command_parser()
  options, rest = parser.parse_known_args(arguments)
  if rest and not options.takes_overrides:
    commands(parser)[options.command].error(f"unrecognized arguments: {' '.join(rest)}")
  return options, rest


def _failed(error: Exception) -> int:
  """Says what has failed; returns the exit code."""
  if isinstance(error, InputError | RunError):
    _say(f"error: {error.cause}", error.fix)
    return 2 if isinstance(error, InputError) else 1
  if isinstance(error, OSError) and error.errno in _UNUSABLE and error.filename:
    _say(
      f"error: Cannot use {str(error.filename)[:200]!r}: {error.strerror}.",
      "check the path, and who may read and write there.",
    )
    return 2
  if isinstance(error, OSError) and error.errno in _FULL:
    place = f" {str(error.filename)[:200]!r}" if error.filename else " the output"
    _say(f"error: Cannot write{place}: {error.strerror}.", "free space, and run the command again.")
    return 1
  cause = " ".join(str(error).split()) or "no message"
  _say(
    f"error: {type(error).__name__}: {cause}", "run again with --debug to see where it happened."
  )
  return 1


_FORMAT = warnings.formatwarning


def _warned(message: Any, category: Any, filename: str, lineno: int, line: Any = None) -> str:
  """Returns a warning to a user as a line; others, to programmers, keep file and source."""
  if category is UserWarning:
    return f"warning: {message}\n"
  return _FORMAT(message, category, filename, lineno, line)


def _say(cause: str, fix: str) -> None:
  print(cause, f"  fix: {fix}", sep="\n", file=sys.stderr)


def _reader_has_gone() -> bool:
  """Whether nobody reads the output any more, as after `| head`; what is left of it is dropped.

  Other pipes break too, such as one to a worker process, and that is a failure.
  """
  state = select.poll()
  state.register(sys.stdout.fileno(), 0)
  gone = any(event & select.POLLERR for _, event in state.poll(0))
  if gone:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
  return gone


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
  """Returns the parser of every command, by its name."""
  (group,) = (
    action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
  )  # argparse has no public way
  return group.choices


def command_parser() -> argparse.ArgumentParser:
  """Returns the parser of `bcos-jax`, with all commands."""
  parser = Parser(
    prog="bcos-jax",
    description="B-cos networks: networks that explain themselves.",
    epilog="Start with: bcos-jax quickstart",
  )
  parser.add_argument("--version", action="version", version=f"bcos_jax {__version__}")
  parser.set_defaults(takes_overrides=False, after_stop="run the same command again.")
  group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for add in (
    quickstart.add_quickstart,
    checkpoints.add_models,
    checkpoints.add_convert,
    checkpoints.add_bcosify,
    checkpoints.add_push,
    exporting.add_export,
    training.add_prepare,
    training.add_train,
    training.add_compile,
    evaluation.add_evaluate,
    probe_command.add_probe,
    benchmark.add_benchmark,
    explanation.add_explain,
    explanation.add_check,
    studies.add_study,
    app.add_app,
    completion.add_completion,
  ):
    add(group)
  for command in group.choices.values():
    check_values(command)
  return parser

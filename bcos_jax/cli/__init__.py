"""The command `bcos-jax`.

Exit codes: 0 done, 1 the run failed, 2 bad usage or input. A failure prints one line of cause and
one of fix; `--debug` shows the traceback. What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from ..cache import keep_compiled
from ..errors import InputError, RunError
from . import app, checkpoints, evaluation, explanation, quickstart, studies, training


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns its exit code."""
  parser = _parser()
  options, rest = parser.parse_known_args(arguments)
  if rest and not options.takes_overrides:
    parser.error(
      f"unrecognized arguments: {' '.join(rest)}; see `bcos-jax {options.command} --help`"
    )
  keep_compiled()
  try:
    return options.run(options, rest) or 0
  except (InputError, RunError) as error:
    if options.debug:
      raise
    print(f"error: {error.cause}", f"  fix: {error.fix}", sep="\n", file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  except KeyboardInterrupt as stop:
    print(
      f"stopped: {stop or 'by the keyboard'}",
      f"  fix: {options.after_stop}",
      sep="\n",
      file=sys.stderr,
    )
    return 1
  except Exception as error:
    if options.debug:
      raise
    cause = " ".join(str(error).split()) or "no message"
    print(
      f"error: {type(error).__name__}: {cause}",
      "  fix: run again with --debug to see where it happened.",
      sep="\n",
      file=sys.stderr,
    )
    return 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="bcos-jax",
    description="B-cos networks: networks that explain themselves.",
    epilog="Start with: bcos-jax quickstart",
  )
  parser.set_defaults(takes_overrides=False, after_stop="run the same command again.")
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for add in (
    quickstart.add_quickstart,
    checkpoints.add_models,
    checkpoints.add_convert,
    checkpoints.add_bcosify,
    training.add_prepare,
    training.add_train,
    training.add_compile,
    evaluation.add_evaluate,
    evaluation.add_probe,
    explanation.add_explain,
    studies.add_study,
    app.add_app,
  ):
    add(commands)
  return parser

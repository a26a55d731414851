"""Entry point of `python -m bcos_jax.train.main`, a training run.

python -m bcos_jax.train.main --config=digits:conventional --workdir=runs/conventional
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import pathlib
import sys

import jax

import bcos_jax
from bcos_jax.cache import keep_compiled
from bcos_jax.errors import InputError, RunError

from . import finetune, hosts, loop
from .config import format_config, load_config


def main(
  spec: str, overrides: Sequence[str], workdir: str | os.PathLike, *, progress: bool = True
) -> pathlib.Path:
  """Trains a recipe and saves the network as a bundle.

  Args:
    spec: See `config.load_config`.
    overrides: Such as ["--config.optimizer.lr=1e-3"].
    workdir: Folder of the run.
    progress: Whether to show a progress bar.

  Returns:
    The bundle's folder, `bundle` in the workdir.

  Raises:
    InputError: see `loop.train`.
    KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint.
  """
  config, init = load_config(spec, overrides), None
  if config.finetune:
    config, init = finetune.resolve(config)
  result = loop.train(config, workdir=workdir, init=init, progress=progress)
  folder, variables = pathlib.Path(workdir) / "bundle", hosts.to_host(result.variables)
  own = hosts.to_host(result.state.params)  # With what an objective learns beside the network.
  if jax.process_index() == 0:
    bcos_jax.save(
      folder,
      result.model,
      variables,
      preprocess=result.preprocess,
      tokenizer=result.tokenizer,
      # Classes of the data are none of a network that was trained without labels.
      labels=result.labels if result.model.num_classes else (),
      provenance={"recipe": spec, "overrides": list(overrides), "metrics": result.metrics},
    )
    result.objective.save(pathlib.Path(workdir), own)
    if config.finetune:
      finetune.conclude(result, config, pathlib.Path(workdir))
  hosts.wait_for_all("the bundle")
  return folder


def run(arguments: Sequence[str] | None = None) -> int:
  """Parses a command line, trains, and returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m bcos_jax.train.main",
    description="Trains a recipe.",
    allow_abbrev=False,
    epilog="Example: --config=digits:scratch --workdir=runs/scratch --config.steps=100",
  )
  parser.add_argument("--config", required=True, help="name or .py file, then :variant,variant")
  parser.add_argument("--workdir", help="folder of the run; an existing run is resumed")
  parser.add_argument("--print_config", action="store_true", help="print the config and stop")
  hosts.add_arguments(parser)
  known, overrides = parser.parse_known_args(arguments)
  keep_compiled()
  try:
    if known.print_config:
      print(format_config(load_config(known.config, overrides)))
      return 0
    if not known.workdir:
      parser.error("the following arguments are required: --workdir")
    hosts.join(known)
    print(f"Saved {main(known.config, overrides, known.workdir)}")
  except (InputError, RunError) as error:
    print(f"{error.cause}\n{error.fix}", file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
  except KeyboardInterrupt as stop:
    print(f"{stop}\nRun the same command to continue.", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(run())

"""A training run from a recipe to a bundle: what `bcos-jax train` does."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

import jax
from ml_collections import ConfigDict

import bcos_jax
from bcos_jax.errors import InputError
from bcos_jax.io import bundles

from . import finetune, hosts, loop, start
from .config import load_config
from .data import measured


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
  _check_workdir(pathlib.Path(workdir), config)
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
      provenance={
        "recipe": spec,
        "overrides": list(overrides),
        "metrics": result.metrics,
        **({"data": kept} if (kept := measured.described(config.data)) else {}),
        **({"dataset": config.data.name} if config.data.get("name") else {}),
        **({"calibrated": start.calibration_of(pathlib.Path(workdir))} if config.calibrate else {}),
        **({"init": start.provenance_of(config.init)} if config.init else {}),
      },
    )
    assert result.objective is not None, "it comes from a run"
    result.objective.save(pathlib.Path(workdir), own)
    if config.finetune:
      finetune.conclude(result, config, pathlib.Path(workdir))
  hosts.wait_for_all("the bundle")
  return folder


def _check_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
  """Refuses to write a run among what it reads."""
  if bundles.has_bundle_config(workdir):
    raise InputError(
      f"The workdir {str(workdir)!r} is a bundle, expected a folder for a run.",
      "Choose another folder, such as runs/first.",
    )
  for what, path, written in (
    ("the folder of the pictures", config.data.get("folder"), workdir),
    ("the network that it starts from", config.init, workdir / "bundle"),
  ):
    if path and written.resolve() == pathlib.Path(path).expanduser().resolve():
      raise InputError(
        f"A run in {str(workdir)!r} would write into {what}, {path!r}.",
        "Choose another folder, such as runs/first.",
      )

"""A training run from a recipe to a bundle: what `bcos-jax train` does."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib

import jax

import bcos_jax

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
        **({"init": start.provenance_of(config.init)} if config.init else {}),
      },
    )
    assert result.objective is not None, "it comes from a run"
    result.objective.save(pathlib.Path(workdir), own)
    if config.finetune:
      finetune.conclude(result, config, pathlib.Path(workdir))
  hosts.wait_for_all("the bundle")
  return folder

"""Starts of runs in closed form: B-cos networks fitted to conventional ones, without labels."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bcos_jax import calibration
from bcos_jax.errors import InputError
from bcos_jax.io import files

from .bundles import Network
from .network import teacher

CALIBRATION, RECORDS = "calibration.json", "calibration"


def check_calibration(config: ConfigDict, there: int, name: str) -> None:
  """Refuses a number of inputs that is too small, or larger than the data.

  Args:
    config: The recipe.
    there: How many pictures or texts there are to train on.
    name: Of the data.

  Raises:
    InputError: With the bound.
  """
  count, few = config.calibrate, max(calibration.FEWEST, jax.process_count())
  if count and not few <= count <= there:
    bound = f"at least {few}" if count < few else f"at most the {there:,} of {name}"
    raise InputError(
      f"config.calibrate={count}, expected {bound}.",
      "For example --config.calibrate=512; 0 copies the weights.",
    )


def calibrated(
  config: ConfigDict,
  key: jax.Array,
  network: Network,
  inputs: Any,
  mesh: Mesh,
  workdir: pathlib.Path,
) -> tuple[Any, dict[str, float]]:
  """Returns a B-cosified network's variables in closed form, and how far it agrees.

  The processes fit all inputs together; then all take what the first one has found, so that they
  start from the same bits. The report is written into the run's folder, and what an interrupted fit
  goes on from.

  Args:
    config: The recipe.
    key: Of the run.
    network: The B-cosified network, its variables copied from the conventional one.
    inputs: This process's share of the pictures or texts to train on, see `calibration.calibrate`.
    mesh: Devices of the run.
    workdir: The run's folder.

  Returns:
    The variables, and agreements with the conventional network on held-out inputs by name.

  Raises:
    InputError: Inputs to which nothing can be fitted.
  """
  settings = calibration.Calibration(seed=config.seed)
  effort = dataclasses.replace(settings.effort, block_rounds=config.calibrate_blocks)
  settings = dataclasses.replace(settings, effort=effort)
  found, report = calibration.calibrate(
    *teacher(config, key), *network, inputs, settings, mesh=mesh, cache=workdir / RECORDS
  )
  if jax.process_count() > 1:
    found = multihost_utils.broadcast_one_to_all(found)
  if jax.process_index() == 0:
    kind = "texts" if isinstance(inputs, dict) else "pictures"
    record = calibration.record(report, settings, kind, config.calibrate)
    files.write(workdir / CALIBRATION, json.dumps(record, indent=2).encode())
    print(f"calibrated with {config.calibrate:,} {kind}: {report.agreed}", flush=True)
    for warning in report.warnings:
      print(f"warning: {warning}", file=sys.stderr, flush=True)
  return found, {"agreement_before": report.agreement_before, "agreement": report.agreement}


def calibration_of(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the record of a calibrated run, see `calibration.record`."""
  return json.loads((workdir / CALIBRATION).read_text(encoding="utf-8"))

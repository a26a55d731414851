"""Multi-process training: one process per host, joined into one run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import os
import re
import sys
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from bcos_jax.errors import InputError, RunError

# Seconds without a heartbeat after which a process counts as dead. Heartbeats come from a thread
# of their own, so that long compilations do not matter.
HEARTBEAT_TIMEOUT = 30
SHUTDOWN_TIMEOUT = 30


def join(options: argparse.Namespace) -> None:
  """Joins the processes of a run, before anything else touches the devices.

  Does nothing unless the flags ask for it.

  Args:
    options: With the fields `distributed`, `coordinator`, `num_processes`, `process_id` and
      `join_timeout`, as `bcos-jax train` has them.

  Raises:
    InputError: Flags that do not go together, or processes that do not come in time.
  """
  if not (options.distributed or options.coordinator):
    _check_alone(options)
    return
  fields = _explicit(options) if options.coordinator else {}
  try:
    jax.distributed.initialize(
      initialization_timeout=options.join_timeout,
      heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
      shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
      **fields,
    )
  except (RuntimeError, ValueError) as error:
    raise InputError(
      f"The processes did not connect within {options.join_timeout} s: "
      f"{' '.join(str(error).split())[:300]}.",
      "Start the same command on every host, make the coordinator's port reachable, or raise "
      "--join_timeout.",
    ) from error


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Ends this process at once, with a clear message, when it or another one has failed.

  Leaving as usual would wait for the others, and then abort. Does nothing on one process, and for
  errors that every process raises after the same step.
  """
  try:
    yield
  except FloatingPointError:
    raise
  except Exception as error:
    if jax.process_count() == 1:
      raise
    print(_report(error), file=sys.stderr, flush=True)
    os._exit(2 if isinstance(error, InputError) else 1)


def _report(error: Exception) -> str:
  process = f"process {jax.process_index()} of {jax.process_count()}"
  if isinstance(error, (InputError, RunError)):
    return f"error: {process}: {error.cause}\n  fix: {error.fix}"
  if _lost_another(error):
    return (
      f"error: {process} lost the connection to another one: {' '.join(str(error).split())[:300]}\n"
      "  fix: see the other processes' output for the cause; then run the same command on every "
      "host to continue from the last checkpoint."
    )
  return f"{''.join(traceback.format_exception(error))}error: {process} failed."


def _lost_another(error: Exception) -> bool:
  """Failed collectives come as several types: JAX's, Gloo's (ValueError), Orbax' barriers'."""
  if "RESOURCE_EXHAUSTED" in str(error):
    return False
  failed = (jax.errors.JaxRuntimeError, TimeoutError)
  return isinstance(error, failed) or bool(re.search("Gloo|CoordinationService", str(error)))


def to_host(tree: Any) -> Any:
  """Returns a tree of NumPy arrays, also where the devices of other processes hold parts.

  Every process must call it.
  """

  def fetch(array: Any) -> np.ndarray:
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
      return jax.device_get(array)
    return multihost_utils.process_allgather(array, tiled=True)

  return jax.tree.map(fetch, tree)


def wait_for_all(name: str) -> None:
  """Returns once every process has called this; `name` says for what, in errors."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def _explicit(options: argparse.Namespace) -> dict[str, Any]:
  count, number = options.num_processes, options.process_id
  if not re.fullmatch(r".+:\d+", options.coordinator):
    raise InputError(
      f"--coordinator={options.coordinator!r}; expected HOST:PORT.",
      "For example: --coordinator=10.0.0.2:1234.",
    )
  if count is None or number is None or not 0 <= number < count:
    raise InputError(
      f"--num_processes={count} and --process_id={number}; expected 0 <= process_id < "
      "num_processes.",
      "Pass both with --coordinator, for example --num_processes=2 --process_id=0.",
    )
  return {
    "coordinator_address": options.coordinator,
    "num_processes": count,
    "process_id": number,
  }


def _check_alone(options: argparse.Namespace) -> None:
  if options.num_processes is not None or options.process_id is not None:
    raise InputError(
      "--num_processes and --process_id are given without --coordinator.",
      "Add --coordinator=HOST:PORT, the address of process 0.",
    )

"""Checkpoints of training runs, with the metadata checked on resumption, saved by Orbax."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
from typing import Any, Self

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from bcos_jax import models, ops
from bcos_jax.errors import InputError

from . import hosts
from .optimizer import path_name

PyTree = Any


class Checkpoints:
  """The checkpoints of one run: the two newest, the best and every k-th are kept.

  Saving is asynchronous and atomic: a folder that was being written when the process died is
  not seen again. Every array is saved with a checksum, which `restore` compares. Use as a context
  manager, or call `close`, to wait for the last one.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    best: str = "accuracy",
    keep_best: int = 1,
    keep_every: int = 0,
  ):
    """Opens or creates a folder of checkpoints.

    Args:
      folder: Holds one subfolder per saved step.
      best: Name of the metric whose largest values mark the best checkpoints.
      keep_best: How many of them are kept beside the newest.
      keep_every: Checkpoints of multiples of this step are kept for ever; 0 keeps none.
    """
    # Orbax' own max_to_keep with best_fn would delete the newest.
    keep = [
      # The one before the newest as well: it is what is left if the newest is damaged.
      policies.LatestN(2),
      policies.BestN(
        get_metric_fn=lambda metrics: metrics[best],
        n=keep_best,
        keep_checkpoints_without_metrics=False,
      ),
    ]
    if keep_every:
      keep.append(policies.EveryNSteps(keep_every))
    self._folder = folder
    self._manager = ocp.CheckpointManager(
      folder.absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(keep)
      ),
      item_names=("state", "about"),
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def close(self) -> None:
    """Waits for pending saves."""
    self._manager.close()

  def wait(self) -> None:
    """Waits until what was saved is on disk, and what is not kept is gone."""
    self._manager.wait_until_finished()

  @property
  def steps(self) -> list[int]:
    """Saved steps, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: PyTree,
    about: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts to write a checkpoint, unless this step has one.

    The state's buffers may be donated as soon as this returns.

    Args:
      step: Finished steps.
      state: Arrays, typed keys among them.
      about: JSON values that `restore` returns; see `about_run`.
      metrics: Of this step's evaluation, if there was one.
    """
    if step in self._manager.all_steps():
      return
    about = {**about, "arrays": _describe(state), "checksums": checksums(state)}
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
    self._manager.save(step, args=items, metrics=dict(metrics) if metrics else None, force=True)

  def about(self, step: int) -> dict[str, Any]:
    """Returns the JSON values saved with a step.

    Raises:
      DamagedError: They cannot be read.
    """
    items = ocp.args.Composite(about=ocp.args.JsonRestore())
    with self._reading(step):
      return self._manager.restore(step, args=items)["about"]

  def restore(self, step: int, like: PyTree) -> PyTree:
    """Reads a state.

    Args:
      step: One of `steps`.
      like: Tree of `ShapeDtypeStruct` with shardings; the mesh may differ from the one that
        saved.

    Returns:
      The state, each array initialised with its sharding.

    Raises:
      InputError: listing every array that is missing, unexpected or of another shape or dtype
        (Orbax alone would cast dtypes silently).
      DamagedError: It cannot be read, or reads other bits than were saved.
    """
    about = self.about(step)
    _check_arrays(about["arrays"], _describe(like), self._folder / str(step))
    items = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    with self._reading(step):
      state = self._manager.restore(step, args=items)["state"]
    read = checksums(state)
    wrong = [name for name, value in about["checksums"].items() if read[name] != value]
    if wrong:
      raise DamagedError(f"{self._folder / str(step)}: {wrong[0]} differs from what was saved")
    return state

  def set_aside(self, step: int) -> pathlib.Path:
    """Moves a damaged checkpoint out of the way and returns its new folder."""
    aside = self._folder.with_name("damaged") / str(step)
    if jax.process_index() == 0:
      aside.parent.mkdir(exist_ok=True)
      shutil.rmtree(aside, ignore_errors=True)
      (self._folder / str(step)).rename(aside)
    hosts.wait_for_all(f"setting step {step} aside")
    self._manager.reload()
    return aside

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    try:
      yield
    # Orbax and TensorStore raise different errors, depending on the damage.
    except Exception as error:
      raise DamagedError(
        f"{self._folder / str(step)}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
      ) from error


class DamagedError(Exception):
  """A checkpoint does not hold what was saved."""


def checksums(tree: PyTree) -> dict[str, int]:
  """Returns a number for each array that changes with its bits and their places.

  It does not depend on how the arrays are split over devices.

  Args:
    tree: Arrays, typed keys among them.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  sums = jax.device_get(_checksums([leaf for _, leaf in leaves]))
  return {path_name(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


@jax.jit
def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
  """Sums the arrays' bits, each word times an odd number of its place, modulo 2^32."""

  def checksum(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x = jax.random.key_data(x)
    bits = x if x.dtype == bool else jax.lax.bitcast_convert_type(x, f"uint{8 * x.itemsize}")
    place = jnp.ones([], jnp.uint32)
    for axis, stride in enumerate(math.prod(x.shape[i + 1 :]) for i in range(x.ndim)):
      index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
      place = place + index * jnp.uint32(2 * stride % 2**32)
    return jnp.sum(bits.astype(jnp.uint32) * place, dtype=jnp.uint32)

  return [checksum(leaf) for leaf in leaves]


def about_run(
  config: Mapping[str, Any], network: Mapping[str, Any], history: list[dict[str, float]]
) -> dict[str, Any]:
  """Returns the description of a run in its checkpoints, as plain JSON values.

  Args:
    config: Flat config.
    network: See `start.describe`.
    history: Evaluations so far.
  """
  about = {"config": dict(config), "network": dict(network), "history": history}
  return json.loads(json.dumps(about))


def with_new_fields(network: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a described network with the fields that its class got since, at their defaults."""
  named = (a.module for a in models.architectures() if a.module.__name__ == network.get("class"))
  fields = models.fields_of(found) if (found := next(named, None)) is not None else {}
  known = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
  return {**json.loads(json.dumps(known)), **network}


def check_same_run(
  saved: Mapping[str, Any],
  now: Mapping[str, Any],
  may_differ: tuple[str, ...],
  folder: pathlib.Path,
) -> None:
  """Refuses to resume a run of another network or config.

  Args:
    saved: `about_run` of the checkpoint.
    now: `about_run` of the run that wants to resume.
    may_differ: Beginnings of config keys that need not agree.
    folder: For the message.

  Raises:
    InputError: listing every difference.
  """
  differences = []
  for part, free in (("network", ()), ("config", may_differ)):
    prefix = "ops." if part == "config" else ""
    old, new = ops.current(saved[part], prefix), now[part]
    if part == "network":
      old = with_new_fields(old)
    differences += [
      f"{part} {key}: {old.get(key)!r} there, {new.get(key)!r} now"
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key) and not key.startswith(free)
    ]
  if differences:
    raise InputError(
      f"The checkpoints in {str(folder)!r} belong to another run: {'; '.join(differences)}.",
      "Use another workdir, or the config that the run started with.",
    )


def _describe(tree: PyTree) -> dict[str, str]:
  """Returns, by path, arrays' dtypes and shapes, such as "float32[3,3,16,32]"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    path_name(path): f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for path, leaf in leaves
  }


def _check_arrays(
  saved: Mapping[str, str], wanted: Mapping[str, str], folder: pathlib.Path
) -> None:
  problems = [f"{name} is missing" for name in sorted(wanted.keys() - saved.keys())]
  problems += [f"{name} is unexpected" for name in sorted(saved.keys() - wanted.keys())]
  problems += [
    f"{name} is {saved[name]}, expected {wanted[name]}"
    for name in sorted(saved.keys() & wanted.keys())
    if saved[name] != wanted[name]
  ]
  if problems:
    raise InputError(
      f"The checkpoint {str(folder)!r} does not fit: {'; '.join(problems)}.",
      "Use the architecture, layer family and optimiser that it was saved with.",
    )

"""Inputs and places as devices hold them: all on one, or split over a mesh and its processes.

Every process gives inputs of its own. They follow each other by the number of the process, and what
is held out are the last of all. What is computed of a batch is split over the mesh; what is kept of
it lies in the memory of the process that gave the inputs.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from ..errors import InputError

Array = jax.Array


class Shares:
  """How inputs are split.

  Attributes:
    counts: How many inputs each process gives.
    count: How many there are.
    mine: Which of them this process gives.
    held_out: Which inputs of this process are held out, bool [n].
    sharding: Of rows, over all axes of the mesh; None on one device.
    everywhere: Of what every device has whole; None on one device.
  """

  def __init__(self, mesh: Mesh | None, count: int):
    """Counts inputs.

    Args:
      mesh: Of the devices; None for the default one.
      count: How many inputs this process gives.

    Raises:
      InputError: A process gives none, or has no device of the mesh.
    """
    self.sharding = self.everywhere = None
    self._devices, self._across = 1, False
    if mesh is not None:
      self.sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
      self.everywhere = NamedSharding(mesh, PartitionSpec())
      self._devices, self._across = len(mesh.local_devices), mesh.is_multi_process
    self._size = 1 if mesh is None else mesh.size
    self.counts = tuple(self.gathered(np.asarray([count])).tolist())
    if min(self.counts) < 1 or self._size != self._devices * len(self.counts):
      raise InputError(
        f"The processes give {', '.join(map(str, self.counts))} inputs to calibrate with, on "
        f"{self._size} devices; expected some of each, for as many devices of each.",
        "Split the inputs over the processes of the mesh.",
      )
    self.count = sum(self.counts)
    self._ends = np.cumsum(self.counts).tolist()
    end = self._ends[jax.process_index() if self._across else 0]
    self.mine = slice(end - count, end)
    self.hold_out(0)

  def hold_out(self, held: int) -> None:
    """Holds out the last inputs."""
    self._fitted = self.count - held
    self.held_out = np.arange(self.count)[self.mine] >= self._fitted

  def batches(self, size: int, *, held_out: bool = False) -> list[np.ndarray]:
    """Returns this process's inputs of each batch by number, the last ones repeated to fill it.

    Args:
      size: Inputs of a batch, of all processes; rounded up to what the devices can split.
      held_out: Leaves out batches in which no process has inputs that are held out.
    """
    mine, least = len(self.held_out), self._devices
    each = -(-size // (len(self.counts) * least)) * least
    each = min(each, -(-max(self.counts) // least) * least)
    starts = range(0, max(self.counts), each)
    if held_out:
      starts = [start for start in starts if self._holds_out(start, each)]
    return [np.minimum(np.arange(start, start + each), mine - 1) for start in starts]

  def shape(self, array: np.ndarray) -> jax.ShapeDtypeStruct:
    """Returns what this process's rows are of, with those of the others."""
    return jax.ShapeDtypeStruct((len(self.counts) * len(array), *array.shape[1:]), array.dtype)

  def splits(self, shape: tuple[int, ...]) -> bool:
    """Whether a value of a batch is split along its first axis."""
    return bool(shape) and shape[0] % self._size == 0

  def constrained(self, value: Array) -> Array:
    """Returns a value of a batch, in a compiled program, split or whole."""
    if self.sharding is None:
      return value
    split = self.sharding if self.splits(value.shape) else self.everywhere
    return lax.with_sharding_constraint(value, split)

  def whole(self, value: Array) -> Array:
    """Returns a value, in a compiled program, that every device has whole."""
    if self.everywhere is None:
      return value
    return lax.with_sharding_constraint(value, self.everywhere)

  def put(self, array: np.ndarray) -> Any:
    """Puts this process's rows onto its devices."""
    if self.sharding is None:
      return array
    return jax.make_array_from_process_local_data(self.sharding, np.asarray(array))

  def put_whole(self, array: Any) -> Any:
    """Puts what all processes have alike onto every device."""
    if self.everywhere is None:
      return array
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, self.everywhere, lambda index: array[index])

  def put_value(self, array: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Puts back what `fetched` returned of a value of a shape."""
    return self.put(array) if self.splits(shape) else self.put_whole(array)

  def fetched(self, value: Array) -> np.ndarray:
    """Returns this process's rows of a value that is split; the whole of any other."""
    if not isinstance(value, jax.Array) or value.is_fully_replicated:
      return np.asarray(value)
    shards = sorted(value.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])

  def gathered(self, rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes, which may have different numbers of them."""
    if not self._across:
      return rows
    counts = multihost_utils.process_allgather(np.asarray(len(rows))).tolist()
    most = max(counts)
    padded = np.concatenate([rows, np.zeros((most - len(rows), *rows.shape[1:]), rows.dtype)])
    every = np.asarray(multihost_utils.process_allgather(padded))
    return np.concatenate([part[:n] for part, n in zip(every, counts, strict=True)])

  def total(self, value: Any) -> np.ndarray:
    """Returns the sum over processes."""
    return self.gathered(np.asarray(value)[None]).sum(0)

  def spread(self, rows: np.ndarray) -> float:
    """Returns the sum of the variances of the columns of all processes' rows."""
    count = max(int(self.total(len(rows))), 1)
    mean = self.total(rows.sum(axis=0)) / count
    return float(self.total(np.square(rows - mean).sum(axis=0)).sum() / count)

  def missing(self, count: int) -> int:
    """Returns how many rows `filled` adds on all processes to a number on this one."""
    return int(self.total(self._each(count) - count))

  def filled(self, rows: np.ndarray, empty: Any = 0) -> np.ndarray:
    """Returns rows and as many empty ones as the devices need to have equal shares."""
    more = self._each(len(rows)) - len(rows)
    if not more:
      return rows
    return np.concatenate([rows, np.full((more, *rows.shape[1:]), empty, rows.dtype)])

  def _each(self, count: int) -> int:
    most = int(self.gathered(np.asarray([count])).max())
    return -(-most // self._devices) * self._devices

  def range_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and largest values of each column of all processes' rows."""
    low, high = rows.min(axis=0, initial=np.inf), rows.max(axis=0, initial=-np.inf)
    return self.gathered(low[None]).min(axis=0), self.gathered(high[None]).max(axis=0)

  def _holds_out(self, start: int, size: int) -> bool:
    return any(
      start < n and end - n + min(start + size, n) > self._fitted
      for n, end in zip(self.counts, self._ends, strict=True)
    )

"""Rows of a large input in device batches of one size, so that a function compiles once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import math
import operator
import os
from typing import Any
import warnings

import jax
import numpy as np

from .errors import InputError

Progress = Callable[[range], Iterable[int]]
"""What wraps a loop over batches, such as `tqdm.tqdm`; `iter` shows nothing."""


def check_batch_size(batch_size: int | None) -> int | None:
  """Returns a batch size as a Python integer; InputError unless it is one of at least 1."""
  if batch_size is None:
    return None
  try:
    size = operator.index(batch_size)
  except TypeError:
    size = 0
  if size < 1:
    raise InputError(
      f"batch_size is {batch_size!r}, expected an integer of at least 1.",
      "Use None to process all at once.",
    )
  return size


def memory() -> int:
  """Returns the bytes of memory that this machine has."""
  return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


LARGEST_BATCH, USED = 256, 0.5
"""Most rows that `fitting` chooses, and the share of free memory that they may take."""


def free_memory() -> int | None:
  """Returns the free bytes of the default device; None where it does not say."""
  device = jax.local_devices()[0]
  if device.platform == "cpu":
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
  stats = device.memory_stats() or {}
  if "bytes_limit" not in stats:
    return None
  return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def fitting(program: Any, count: int) -> int:
  """Returns how many rows a device batch may have.

  Args:
    program: Compiled for one row.
    count: Rows that there are.

  Returns:
    A power of two, or `count`: two batches and what they leave behind take at most half of the
    memory that is free, as far as the program for one row tells. Warns of 16 where the device does
    not say how much that is.
  """
  free, needed = free_memory(), program.memory_analysis()
  if free is None or needed is None:
    warnings.warn(
      "The device does not say how much memory is free: batches of 16 are taken. Give batch_size "
      "a number for others.",
      stacklevel=4,
    )
    return min(16, count)
  each = needed.temp_size_in_bytes + 2 * needed.output_size_in_bytes
  most = max(1, int(USED * free / max(each, 1)))
  return min(2 ** int(math.log2(min(most, LARGEST_BATCH))), count)


def check_memory(what: str, needed: float, fix: str, capacity: float | None = None) -> None:
  """Checks that something is not larger than memory, before it is made.

  Args:
    what: What is to be made, in the singular: "A batch of 8 pictures".
    needed: Bytes that it needs at least.
    fix: What to change.
    capacity: Bytes that there are; None for this machine's memory.

  Raises:
    InputError: With both sizes.
  """
  capacity = memory() if capacity is None else capacity
  if needed > capacity:
    raise InputError(
      f"{what} needs at least {needed / 2**30:,.1f} GiB of memory; there are "
      f"{capacity / 2**30:,.1f} GiB.",
      fix,
    )


def check_picture_batch(
  count: int,
  size: tuple[int, int],
  channels: int,
  fix: str,
  *,
  kind: str = "",
  capacity: float | None = None,
) -> None:
  """Checks that a batch of pictures, plain and encoded, is not larger than memory.

  Args:
    count: Pictures of the batch.
    size: Their height and width, in pixels.
    channels: Numbers of a pixel: its colours and their encoding.
    fix: What to change.
    kind: What they are for, in words, such as "training ".
    capacity: As for `check_memory`.

  Raises:
    InputError: With both sizes.
  """
  height, width = size
  check_memory(
    f"A batch of {count:,} {kind}pictures of {width:,} x {height:,} pixels",
    4.0 * count * height * width * channels,
    fix,
    capacity,
  )


def filled(
  count: int, size: int | None, progress: Progress = iter, *, exact: bool = False
) -> Iterator[tuple[np.ndarray, int]]:
  """Yields the rows of each device batch, all of one length, and how many of them count.

  Args:
    count: Number of rows.
    size: Rows of a batch; None takes all at once.
    progress: Wraps the loop over the first rows of the batches.
    exact: Whether a batch has `size` rows even where `count` is less.

  Yields:
    Row numbers [B], the last batch filled up by repeating its last row; and the number of rows
    that are not such repetitions.
  """
  size = count if size is None else size if exact else min(size, count)
  for start in progress(range(0, count, size)) if count else ():
    yield np.minimum(np.arange(start, start + size), count - 1), min(size, count - start)


def in_batches(
  function: Callable[[Any], Any],
  rows: Any,
  batch_size: int | None,
  progress: Progress = iter,
  *,
  exact: bool = False,
  precision: str | None = "highest",
) -> Any:
  """Returns function(rows), batch by batch, as a tree of NumPy arrays in the order of the rows.

  The device computes a batch while the one before it is fetched, and no more wait in its memory.

  Args:
    function: Maps trees of arrays [B, ...] to trees of arrays [B, ...], row by row.
    rows: Tree of arrays [N, ...].
    batch_size: Rows at a time; None takes all at once.
    progress: As for `filled`.
    exact: As for `filled`.
    precision: Of matrix products; None leaves it to the function.

  Raises:
    InputError: A batch size that is not an integer of at least 1.
  """
  count, size = len(jax.tree.leaves(rows)[0]), check_batch_size(batch_size)

  def dispatched() -> Iterator[tuple[Any, int]]:
    for batch, kept in filled(count, size, progress, exact=exact):
      with jax.default_matmul_precision(precision):
        part = function(jax.tree.map(lambda leaf, batch=batch: leaf[batch], rows))
      yield part, kept

  parts = [
    jax.tree.map(lambda leaf, kept=kept: leaf[:kept], part)
    for part, kept in overlapped(dispatched())
  ]
  return parts[0] if len(parts) == 1 else jax.tree.map(lambda *p: np.concatenate(p), *parts)


def overlapped(parts: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
  """Yields pairs of a device result, as a NumPy tree, and what comes with it.

  Each result is fetched after the next has been requested: the device computes meanwhile.
  """
  waiting: tuple[Any, Any] | None = None
  for part in parts:
    if waiting is not None:
      yield jax.tree.map(np.asarray, waiting[0]), waiting[1]
    waiting = part
  if waiting is not None:
    yield jax.tree.map(np.asarray, waiting[0]), waiting[1]


THREADS = min(4, os.cpu_count() or 1)
"""That read or write pictures beside a device's computations."""


def ahead(
  function: Callable[[Any], Any], items: Iterable[Any], depth: int, threads: int = THREADS
) -> Generator[Any, None, None]:
  """Yields function(item) in the order of the items, up to `depth` of which threads work on."""
  pool = ThreadPoolExecutor(threads)
  waiting: deque[Future[Any]] = deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) > depth:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)

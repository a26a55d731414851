"""Rows of a large input in device batches of one size, so that a function compiles once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import operator
from typing import Any

import jax
import numpy as np

from .errors import InputError


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


def filled(count: int, size: int | None) -> Iterator[tuple[np.ndarray, int]]:
  """Yields the rows of each device batch, all of one length, and how many of them count.

  Args:
    count: Number of rows.
    size: Rows of a batch; None takes all at once. A batch is never larger than `count`.

  Yields:
    Row numbers [B], the last batch filled up by repeating its last row; and the number of rows
    that are not such repetitions.
  """
  size = min(size or count, count)
  for start in range(0, count, size):
    yield np.minimum(np.arange(start, start + size), count - 1), min(size, count - start)


def in_batches(function: Callable[[Any], Any], rows: Any, batch_size: int | None) -> np.ndarray:
  """Returns function(rows) as a NumPy array, computed at the highest matmul precision.

  Args:
    function: Maps arrays [B, ...] to arrays [B, ...], row by row.
    rows: [N, ...].
    batch_size: Rows at a time; None takes all at once.

  Raises:
    InputError: A batch size that is not an integer of at least 1.
  """
  found = []
  for batch, kept in filled(len(rows), check_batch_size(batch_size)):
    with jax.default_matmul_precision("highest"):
      found.append(np.asarray(function(rows[batch]))[:kept])
  return np.concatenate(found)

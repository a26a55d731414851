"""Long inputs through a compiled function, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .targets import check_batch_size


def in_batches(function: Callable[[Any], Any], rows: Any, batch_size: int | None) -> np.ndarray:
  """Returns function(rows) as a NumPy array, computed at the highest matmul precision.

  Args:
    function: Maps arrays [B, ...] to arrays [B, ...], row by row.
    rows: [N, ...]; the last one is repeated, so that every batch compiles alike.
    batch_size: Rows at a time; None takes all at once.

  Raises:
    InputError: A batch size that is no integer of at least 1.
  """
  size = min(check_batch_size(batch_size) or len(rows), len(rows))
  found = []
  for start in range(0, len(rows), size):
    batch = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
    with jax.default_matmul_precision("highest"):
      found.append(np.asarray(function(batch))[: len(rows) - start])
  return np.concatenate(found)

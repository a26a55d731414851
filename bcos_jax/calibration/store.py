"""Activations that are kept, in memory up to a budget and in files beyond it."""

from __future__ import annotations

import dataclasses
import mmap
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Filed:
  """An array in a file, which does not know all data types, and its own."""

  path: pathlib.Path
  dtype: np.dtype


Stored = np.ndarray | Filed

_SMALL = 2**16  # Bytes of arrays that are not worth pages of their own.


class Store:
  """Keeps arrays.

  Files are read as a whole rather than mapped: what is mapped counts as memory of the process.

  Attributes:
    used: Bytes of the arrays in memory.
  """

  def __init__(self, memory: float, folder: pathlib.Path | None = None):
    """Begins with nothing.

    Args:
      memory: Bytes of arrays that stay in memory, where there is a folder for the others.
      folder: For files; None keeps all in memory.
    """
    self._memory, self._folder = memory, folder
    self.used, self._made = 0, 0

  def put(self, array: np.ndarray) -> Stored:
    """Keeps an array until it is dropped."""
    if self._folder is None or self.used + array.nbytes <= self._memory:
      self.used += array.nbytes
      return _in_own_pages(array)
    self._folder.mkdir(parents=True, exist_ok=True)
    filed = Filed(self._folder / f"{self._made:07d}.npy", array.dtype)
    self._made += 1
    np.save(filed.path, array)
    return filed

  def get(self, stored: Stored) -> np.ndarray:
    """Returns an array that is kept."""
    return np.load(stored.path).view(stored.dtype) if isinstance(stored, Filed) else stored

  def drop(self, stored: Stored) -> None:
    """Forgets an array."""
    if isinstance(stored, Filed):
      stored.path.unlink()
    else:
      self.used -= stored.nbytes


def _in_own_pages(array: np.ndarray) -> np.ndarray:
  """Returns a copy in pages of its own, which go back to the system when it is dropped.

  Between results that live for a moment, arrays of a few megabytes that stay would keep the C
  library from giving its heap back: three times the memory was seen.
  """
  if array.nbytes < _SMALL:
    return array
  copy = np.ndarray(array.shape, array.dtype, buffer=mmap.mmap(-1, array.nbytes))
  copy[...] = array
  return copy

"""Zip archives of PyTorch: the program of a pickle, and the storages of its tensors."""

from __future__ import annotations

from collections.abc import Callable
import functools
import math
import pathlib
import zipfile

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import DAMAGED, LazyTensor

_MOST_PROGRAM = 256_000_000


class Archive:
  """The zip archive: its program, and its storages, read on demand."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    try:
      # Kept open: rereading the directory for each tensor would take longer than the tensor.
      self._zip = zipfile.ZipFile(path)
      self._sizes = {info.filename: info.file_size for info in self._zip.infolist()}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
      raise damaged(path, error) from error
    programs = [n for n in self._sizes if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(programs) != 1:
      raise InputError(
        f"{str(path)!r} is a zip archive with {len(programs)} data.pkl, expected one.",
        "Give a file written by torch.save.",
      )
    self.root = programs[0].removesuffix("data.pkl")
    self.scripted = f"{self.root}constants.pkl" in self._sizes
    if self._sizes[programs[0]] > _MOST_PROGRAM:
      raise damaged(path, f"its data.pkl has {self._sizes[programs[0]]} bytes")
    order = f"{self.root}byteorder"
    if order in self._sizes and self.bytes("byteorder") != b"little":
      raise InputError(
        f"{str(path)!r} was written on a big-endian machine.", "Save it as safetensors there."
      )
    # Tensors that share a storage follow each other: the last one is kept.
    self.storage = functools.lru_cache(maxsize=1)(self._storage)

  def bytes(self, name: str) -> bytes:
    """Reads an entry; its checksum is compared."""
    try:
      return self._zip.read(self.root + name)
    except Exception as error:  # zipfile raises many kinds for damaged entries
      raise damaged(self.path, error) from error

  def size(self, key: str) -> int | None:
    """Returns the bytes of a storage, or None if there is no such storage."""
    return self._sizes.get(f"{self.root}data/{key}")

  def _storage(self, key: str) -> bytes:
    return self.bytes(f"data/{key}")


def damaged(path: pathlib.Path, what: object) -> InputError:
  return InputError(f"{str(path)!r} is not a complete PyTorch file: {what}.", DAMAGED)


def strided_tensor(
  storage: Callable[[], np.ndarray],
  most: int,
  dtype: np.dtype,
  offset: int,
  size: tuple[int, ...],
  stride: tuple[int, ...],
) -> LazyTensor:
  """Returns a tensor that is a view of a storage, as PyTorch describes it.

  Args:
    storage: Reads the numbers of the storage.
    most: How many these are.
    dtype: Theirs.
    offset: Of the first number of the tensor.
    size: Its shape.
    stride: Its steps, in numbers.

  Raises:
    ValueError: It reaches beyond its storage, or is of another size by far.
  """
  numbers = (offset, *size, *stride)
  if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
    raise ValueError(f"tensor of size {size}, stride {stride}, offset {offset}")
  count = math.prod(size)
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
  if count and (last >= most or (count > most and count > 1 << 24)):
    raise ValueError(f"tensor of size {size} in a storage of {most} elements")

  def read() -> np.ndarray:
    if not count:
      return np.empty(size, dtype)
    strides = [step * dtype.itemsize for step in stride]
    return np.array(np.lib.stride_tricks.as_strided(storage()[offset:], size, strides), order="C")

  return LazyTensor(size, dtype, read)

"""Safetensors files, read and written one tensor at a time.

The format (github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the
header, then the bytes of all tensors without gaps. Nothing in it is code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np

from ..errors import InputError

_DTYPES: dict[str, np.dtype] = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U64": np.dtype(np.uint64),
  "U32": np.dtype(np.uint32),
  "U16": np.dtype(np.uint16),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_HEADER = 100_000_000
DAMAGED = "The file is damaged or incomplete: copy or download it again."


@dataclasses.dataclass(frozen=True)
class LazyTensor:
  """A tensor of a file: its shape and dtype are known, its values are read on demand.

  Attributes:
    shape: Its shape.
    dtype: Its NumPy dtype; bfloat16 is that of ml_dtypes.
    read: Returns its numbers, reading the file each time.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def ndim(self) -> int:
    """Number of axes."""
    return len(self.shape)

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes of its numbers."""
    return self.size * self.dtype.itemsize

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    """Reads the tensor; NumPy calls this."""
    array = self.read()
    return array if dtype is None else array.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class FileTensor(LazyTensor):
  """A tensor whose bytes lie in one piece in a file, so that a part of it can be read.

  Attributes:
    path: The file.
    offset: Of its first byte.
  """

  path: pathlib.Path = pathlib.Path()
  offset: int = 0

  def __getitem__(self, index: Any) -> np.ndarray:
    """Returns a copy of a part; only its bytes are read."""
    if not self.ndim or not self.size:
      return self.read()[index]
    mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
    return np.array(mapped[index], order="C")


def read_safetensors(path: str | os.PathLike) -> dict[str, FileTensor]:
  """Opens a safetensors file: key -> tensor, none of which is read yet.

  Raises:
    InputError: The file is missing, empty, truncated, or its header is not in order.
  """
  path = pathlib.Path(path)
  try:
    with path.open("rb") as file:
      total = os.fstat(file.fileno()).st_size
      length = int.from_bytes(file.read(8), "little")
      if total < 10 or not 2 <= length <= min(total - 8, _MOST_HEADER):
        raise _damaged(path, f"{total} bytes do not hold its header")
      text = file.read(length)
  except OSError as error:
    raise InputError(
      f"Cannot read {str(path)!r}: {error.strerror or error}.", "Check the path."
    ) from error
  try:
    entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    entries.pop("__metadata__", None)
    tensors = {key: _tensor(path, 8 + length, entry) for key, entry in entries.items()}
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise _damaged(path, f"its header is invalid ({error})") from error
  _check_cover(path, tensors, 8 + length, total)
  return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  names = [name for name, _ in pairs]
  if len(set(names)) != len(names):
    raise ValueError(f"{max(names, key=names.count)!r} is there twice")
  return dict(pairs)


def _tensor(path: pathlib.Path, start: int, entry: Mapping[str, Any]) -> FileTensor:
  if entry.keys() != {"dtype", "shape", "data_offsets"}:
    raise ValueError(f"an entry has {sorted(entry)}")
  dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
  if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
    raise ValueError(f"shape {shape}, offsets {[begin, end]}")
  if math.prod(shape) * dtype.itemsize != end - begin:
    raise ValueError(f"{entry['dtype']} {shape} in {end - begin} bytes")
  offset = start + begin

  def read() -> np.ndarray:
    array = np.empty(shape, dtype)
    with path.open("rb") as file:
      file.seek(offset)
      if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
        raise _damaged(path, "it ends before its last tensor")
    return array

  return FileTensor(tuple(shape), dtype, read, path, offset)


def _check_cover(path: pathlib.Path, tensors: Mapping[str, FileTensor], start: int, total: int):
  """Tensors must follow each other without gaps or overlaps, up to the end of the file."""
  ordered = sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes))
  for key, tensor in ordered:
    if tensor.offset != start:
      raise _damaged(path, f"{key!r} starts at byte {tensor.offset}, expected {start}")
    start += tensor.nbytes
  if start != total:
    raise _damaged(path, f"it has {total} bytes, its header promises {start}")


def _damaged(path: pathlib.Path, what: str) -> InputError:
  return InputError(f"{str(path)!r} is not a complete safetensors file: {what}.", DAMAGED)


def write_safetensors(
  path: str | os.PathLike,
  tensors: Mapping[str, Any],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes arrays to a safetensors file, one after the other: no second copy of all is made.

  Args:
    path: The file; overwritten.
    tensors: Key -> NumPy or JAX array, or anything with shape and dtype that NumPy can read.
    metadata: Strings for the header.

  Raises:
    OSError: The file cannot be written.
  """
  dtypes = {key: np.dtype(tensor.dtype) for key, tensor in tensors.items()}
  # Large elements first keeps every tensor aligned, as the safetensors library does.
  order = sorted(tensors, key=lambda key: (-dtypes[key].itemsize, key))
  header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
  begin = 0
  for key in order:
    shape = list(tensors[key].shape)
    end = begin + math.prod(shape) * dtypes[key].itemsize
    header[key] = {"dtype": _NAMES[dtypes[key]], "shape": shape, "data_offsets": [begin, end]}
    begin = end
  text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
  text += b" " * (-len(text) % 8)
  # The next tensor is read, from a file or a device, while one is written.
  with futures.ThreadPoolExecutor(1) as reader, open(path, "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for array in _one_ahead(reader, (tensors[key] for key in order)):
      file.write(array.reshape(-1).view(np.uint8).data)


def _one_ahead(reader: futures.Executor, tensors: Iterable[Any]) -> Iterator[np.ndarray]:
  pending: futures.Future | None = None
  for tensor in tensors:
    coming = reader.submit(_fetched, tensor)
    if pending is not None:
      yield pending.result()
    pending = coming
  if pending is not None:
    yield pending.result()


def _fetched(tensor: Any) -> np.ndarray:
  return np.asarray(jax.device_get(tensor), order="C")

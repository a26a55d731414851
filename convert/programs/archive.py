"""A reader of `.pt2` archives, which `torch.export.save` writes: no PyTorch, no pickle.

Such an archive is a zip file: the program as JSON, the tensors as raw bytes, and a JSON table of
their shapes. Tensors that were pickled are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, BinaryIO
import zipfile

import ml_dtypes
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import DAMAGED

from ..files.archives import strided_tensor

DTYPES: dict[int, np.dtype] = {
  number: np.dtype(dtype)
  for number, dtype in {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float16,
    7: np.float32,
    8: np.float64,
    12: np.bool_,
    13: ml_dtypes.bfloat16,
    28: np.uint16,
    34: np.uint32,
    35: np.uint64,
  }.items()
}
"""NumPy dtype of each of PyTorch's `ScalarType`s that arrays of JAX can have."""

SCHEMA = 8
"""Major version of the JSON that is read here, torch._export.serde.schema.SCHEMA_VERSION."""

_SAVE_AGAIN = (
  "Load it with torch.export.load and save it with torch.export.save, both of PyTorch 2.13."
)
IN_MEMORY = "The program"
"""What an archive is called that is no file."""

_MOST_PROGRAM = 512_000_000


@dataclasses.dataclass(frozen=True)
class Stored:
  """The tensors of an archive.

  Attributes:
    tensors: Name -> its numbers.
    places: Name -> where they lie; names at one place are one tensor.
  """

  tensors: Mapping[str, np.ndarray]
  places: Mapping[str, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class ArchiveContents:
  """What an archive holds.

  Attributes:
    name: Of the file, for messages.
    program: The exported program, as JSON.
    weights: Parameters and persistent buffers, by the module's names.
    constants: Other buffers and constants.
  """

  name: str
  program: Mapping[str, Any]
  weights: Stored
  constants: Stored


def read_archive(source: str | os.PathLike | BinaryIO) -> ArchiveContents:
  """Reads an archive.

  Args:
    source: A path, or an open binary file.

  Raises:
    InputError: There is no such file, it is damaged, of another format or version, or holds
      pickled tensors or dtypes that JAX has not.
  """
  name = repr(os.fspath(source)) if isinstance(source, str | os.PathLike) else IN_MEMORY
  try:
    with zipfile.ZipFile(pathlib.Path(source) if isinstance(source, str) else source) as file:
      return _Archive(name, file).contents()
  except InputError:
    raise
  except zipfile.BadZipFile as error:
    raise InputError(
      f"{name} is not a .pt2 archive: {error}.", "Give what torch.export.save wrote."
    ) from error
  except OSError as error:
    raise InputError(
      f"Cannot read {name}: {error.strerror or error}.", "Check the path."
    ) from error
  except Exception as error:  # damaged JSON and zip entries raise any Python exception
    what = " ".join(str(error).split()) or type(error).__name__
    raise InputError(f"{name} is not a complete .pt2 archive: {what}.", DAMAGED) from error


class _Archive:
  """The entries of a zip file, below the folder that all of them are in."""

  def __init__(self, name: str, file: zipfile.ZipFile):
    self.name, self._file = name, file
    self._sizes = {info.filename: info.file_size for info in file.infolist()}
    found = [n for n in self._sizes if n == "archive_format" or n.endswith("/archive_format")]
    self._root = found[0].removesuffix("archive_format") if found else ""
    # Tensors that share a storage follow each other: the last one is kept.
    self._storage = functools.lru_cache(maxsize=1)(self._bytes)

  def contents(self) -> ArchiveContents:
    self._check_format()
    models = [
      name.removeprefix(f"{self._root}models/").removesuffix(".json")
      for name in self._sizes
      if name.startswith(f"{self._root}models/") and name.endswith(".json")
    ]
    if len(models) != 1:
      raise InputError(
        f"{self.name} holds {len(models)} programs, expected one.",
        "Save one exported program with torch.export.save.",
      )
    program = self._json(f"models/{models[0]}.json")
    self._check_version(program)
    return ArchiveContents(
      name=self.name,
      program=program,
      weights=self._stored("weights", models[0]),
      constants=self._stored("constants", models[0]),
    )

  def _check_format(self) -> None:
    if any(n.endswith("serialized_exported_program.json") for n in self._sizes):
      raise InputError(
        f"{self.name} is of the format of older versions of PyTorch, whose weights are a pickle.",
        _SAVE_AGAIN,
      )
    if f"{self._root}archive_format" not in self._sizes:
      raise InputError(
        f"{self.name} is a zip archive, but no .pt2: it has no archive_format.",
        "Give what torch.export.save wrote; a state dict is read by convert.from_pretrained.",
      )
    stated = {
      entry: self._bytes(entry).decode()
      for entry in ("archive_format", "archive_version", "byteorder")
      if f"{self._root}{entry}" in self._sizes
    }
    wanted = {"archive_format": "pt2", "archive_version": "0", "byteorder": "little"}
    for entry, value in stated.items():
      if value != wanted[entry]:
        raise InputError(
          f"{self.name} has {entry} {value!r}, expected {wanted[entry]!r}.", _SAVE_AGAIN
        )

  def _check_version(self, program: Mapping[str, Any]) -> None:
    version = program["schema_version"]
    if version["major"] != SCHEMA:
      raise InputError(
        f"{self.name} has schema version {version['major']}.{version['minor']} (PyTorch "
        f"{program.get('torch_version', 'unknown')}), expected {SCHEMA}.",
        _SAVE_AGAIN,
      )

  def _bytes(self, entry: str) -> bytes:
    return self._file.read(self._root + entry)

  def _json(self, entry: str) -> Any:
    if self._sizes[self._root + entry] > _MOST_PROGRAM:
      raise ValueError(f"{entry} has {self._sizes[self._root + entry]} bytes")
    return json.loads(self._bytes(entry))

  def _stored(self, folder: str, model: str) -> Stored:
    if f"{self._root}data/{folder}/{model}.pt" in self._sizes:
      raise InputError(
        f"The {folder} of {self.name} are a pickle, as older versions of PyTorch save them.",
        _SAVE_AGAIN,
      )
    table = self._json(f"data/{folder}/{model}_{folder}_config.json")
    tensors: dict[str, np.ndarray] = {}
    places: dict[str, tuple[Any, ...]] = {}
    for name, entry in table["config"].items():
      if entry["use_pickle"]:
        raise InputError(
          f"{name} of {self.name} is pickled, which only its own class can read.",
          "Export the network with plain tensors instead of subclasses and custom objects.",
        )
      places[name] = (entry["path_name"], json.dumps(entry["tensor_meta"]))
      tensors[name] = self._tensor(f"data/{folder}/{entry['path_name']}", name, entry)
    return Stored(tensors, places)

  def _tensor(self, entry: str, name: str, described: Mapping[str, Any]) -> np.ndarray:
    meta = described["tensor_meta"]
    dtype = dtype_of(meta["dtype"], name)
    return strided_tensor(
      lambda: np.frombuffer(self._storage(entry), dtype),
      self._sizes[self._root + entry] // dtype.itemsize,
      dtype,
      meta["storage_offset"]["as_int"],
      tuple(length["as_int"] for length in meta["sizes"]),
      tuple(step["as_int"] for step in meta["strides"]),
    ).read()


def dtype_of(number: int, what: str) -> np.dtype:
  """Returns the dtype of a number of PyTorch's `ScalarType`.

  Raises:
    InputError: JAX has none for it here: complex numbers, 8-bit floats.
  """
  if number not in DTYPES:
    raise InputError(
      f"{what} has the dtype number {number} of PyTorch's ScalarType, which is not supported.",
      f"Export the network in float32; known are {', '.join(map(str, DTYPES.values()))}.",
    )
  return DTYPES[number]

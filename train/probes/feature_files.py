"""Feature files: one folder per split, written atomically.

A folder holds `values.npy`, `labels.npy`, `examples.npy`, and `about.json`, their origin.
An existing folder is complete: interrupted writes leave none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import json
import pathlib
import tempfile
from typing import Any, BinaryIO

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.inputs import Preprocess

ARRAYS = ("values", "labels", "examples")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of a batch: values float32 [n, D], labels int32 [n], numbers of the examples int64 [n]."""

_ABOUT = "about.json"


def write(place: pathlib.Path, about: Mapping[str, Any], rows: Iterator[Rows]) -> None:
  """Writes batch after batch, and moves the folder into place once all is there.

  Args:
    place: The folder; not there yet.
    about: Plain values that describe the origin of the features.
    rows: Batches.

  Raises:
    InputError: It cannot be written.
  """
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".features-") as temporary:
      staged = pathlib.Path(temporary) / "whole"
      staged.mkdir()
      labels, examples, shape = [], [], (0, 0)
      with open(staged / "values.npy", "wb") as file:
        for values, *rest in rows:
          if not labels:
            _header(file, (0, values.shape[1]))
          file.write(np.ascontiguousarray(values).data)
          labels.append(rest[0])
          examples.append(rest[1])
          shape = (shape[0] + len(values), values.shape[1])
        file.seek(0)
        _header(file, shape)
      np.save(staged / "labels.npy", np.concatenate(labels))
      np.save(staged / "examples.npy", np.concatenate(examples))
      kept = {**about, "shape": shape}
      (staged / _ABOUT).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
      _move(staged, place)
  except OSError as error:
    raise InputError(
      f"Cannot write features to {str(place)!r}: {error.strerror or error}.",
      "Choose a writable folder on a disk with free space.",
    ) from error


def _header(file: BinaryIO, shape: tuple[int, int]) -> None:
  """Writes the header of an .npy file; NumPy leaves room in it for a longer first axis."""
  np.lib.format.write_array_header_1_0(
    file, {"descr": "<f4", "fortran_order": False, "shape": shape}
  )


def _move(staged: pathlib.Path, place: pathlib.Path) -> None:
  try:
    staged.rename(place)
  except OSError:
    if not place.is_dir():  # Else another program was first; `_read` compares what it wrote.
      raise


def read(place: pathlib.Path, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns values (mapped from the file), labels and examples of a folder.

  Raises:
    InputError: `about` is not what it was written with, or a file is missing or damaged.
  """
  try:
    kept = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
    shape = tuple(kept.pop("shape"))
    arrays = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise _no_features(place, f"{type(error).__name__}: {error}") from error
  if isinstance(kept.get("preprocess"), dict):
    # Written before a field was added, whose default changes nothing.
    kept["preprocess"] = {**dataclasses.asdict(Preprocess()), **kept["preprocess"]}
  for key, wanted in about.items():
    if kept.get(key) != wanted:
      raise InputError(
        f"{str(place)!r} holds other features: {key} is {kept.get(key)!r}, expected {wanted!r}.",
        "Give another folder for features, or delete this one.",
      )
  lengths = {len(array) for array in arrays.values()}
  if arrays["values"].shape != shape or lengths != {shape[0]}:
    raise _no_features(place, f"arrays of {sorted(lengths)} rows, expected {shape[0]}")
  # Small, and read again and again.
  arrays |= {name: np.asarray(arrays[name]) for name in ("labels", "examples")}
  return arrays


def _no_features(place: pathlib.Path, why: str) -> InputError:
  return InputError(
    f"{str(place)!r} holds no features that can be read: {' '.join(why.split())}.",
    "Delete the folder to recompute them, or choose another one.",
  )

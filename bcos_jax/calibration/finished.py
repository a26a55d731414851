"""What an interrupted calibration goes on from: a file for each map that is finished."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any
import zipfile

import jax
import numpy as np

from ..errors import RunError
from .shares import Shares

_ABOUT = "about"  # No leaf is called so: all are in a collection.


def key_of(models: Any, trees: Any, settings: Any, shares: Shares) -> str:
  """Returns what tells calibrations apart: a hash of the networks, the inputs and the settings.

  Args:
    models: Values whose text says all about them.
    trees: Trees of arrays, of which each process may have others.
    settings: A frozen dataclass of numbers and texts.
    shares: How inputs are split over processes.
  """
  said = re.sub(r" at 0x[0-9a-f]+", "", repr(models))
  digest = hashlib.sha256(f"{said}\n{settings!r}".encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
    array = np.ascontiguousarray(leaf)
    digest.update(f"{path}{array.dtype}{array.shape}".encode())
    digest.update(array.view(np.uint8).data if array.size else b"")  # bfloat16 has no buffer
  every = shares.gathered(np.frombuffer(digest.digest(), np.uint8)[None])
  return hashlib.sha256(every.tobytes()).hexdigest()[:16]


class FinishedMaps:
  """Finished maps of a calibration, in a folder that all processes see.

  Attributes:
    activations: Folder of this process's activations; None without a folder.
    done: How many maps are finished, in their order.
  """

  def __init__(self, folder: str | os.PathLike | None, key: str, shares: Shares):
    """Looks for what is finished; what interrupted runs left of activations is removed."""
    self._folder = None if folder is None else pathlib.Path(folder) / key
    self._writes = jax.process_index() == 0 or len(shares.counts) == 1
    self.activations, self.done = None, 0
    if self._folder is None:
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    self.activations = self._folder / f"activations-{jax.process_index()}"
    self.forget_activations()
    mine = 0
    while self._writes and self._read(mine) is not None:
      mine += 1
    self.done = int(shares.total(mine))

  def load(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the changed variables and figures of a finished map or block.

    Raises:
      RunError: This process does not see it.
    """
    found = self._read(number)
    if found is None:
      raise RunError(
        f"Process {jax.process_index()} cannot read {str(self._path(number))!r}, which another "
        "one, or an earlier run, has written.",
        "Give a folder that all processes see, or begin with an empty one.",
      )
    return found

  def save(self, number: int, changed: Mapping[str, Any], figures: Any) -> None:
    """Records a finished map or block. A reader, and a crash, see all of it or nothing.

    Args:
      number: In their order.
      changed: Variables by path.
      figures: A dataclass of plain values.
    """
    if self._folder is None or not self._writes:
      return
    arrays: dict[str, Any] = {path: np.asarray(array) for path, array in changed.items()}
    arrays[_ABOUT] = np.asarray(json.dumps(dataclasses.asdict(figures)))
    temporary = self._folder / f"{number}.tmp"
    with temporary.open("wb") as file:
      np.savez(file, **arrays)
    os.replace(temporary, self._path(number))

  def forget_activations(self) -> None:
    """Removes the files of activations."""
    if self.activations is not None:
      shutil.rmtree(self.activations, ignore_errors=True)

  def _path(self, number: int) -> pathlib.Path:
    assert self._folder is not None
    return self._folder / f"{number:05d}.npz"

  def _read(self, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    try:
      with np.load(self._path(number)) as file:
        leaves = {name: file[name] for name in file.files}
        return leaves, json.loads(str(leaves.pop(_ABOUT)))
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
      return None  # Nothing, or what a machine that went down left of a file.

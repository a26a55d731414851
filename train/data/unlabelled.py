"""Unlabelled pictures: files in a folder tree, and WebDataset shards (tar files).

A shard is indexed once, by its headers, and its pictures are read at random, without unpacking.
Captions and other members beside the pictures are skipped. Which pictures are held out depends
on their names alone, so it is the same on every machine and process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import os
import pathlib
import tarfile
from typing import Any

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.pictures import SUFFIXES, find_pictures

from .folders import checked_folder, name_hash
from .sources import Dataset

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Unlabelled:
  """Pictures as byte ranges of files, read on demand: {"image", "label": 0, "name"}."""

  def __init__(self, paths: Sequence[str], where: np.ndarray):
    """Takes files, and for each picture int64 [N, 3]: number of its file, offset and size."""
    self._paths, self._where = tuple(paths), where

  def __len__(self) -> int:
    return len(self._where)

  def __getitem__(self, index: int) -> dict[str, Any]:
    number, offset, size = self._where[index].tolist()
    path = self._paths[number]
    with open(path, "rb") as file:
      file.seek(offset)
      image = file.read(size)
    name = f"{path} at byte {offset}" if path.endswith(".tar") else path
    return {"image": image, "label": 0, "name": name}

  def take(self, rows: np.ndarray) -> Unlabelled:
    """Returns some of the pictures, by their numbers."""
    return Unlabelled(self._paths, self._where[rows])


def read_unlabelled(folder: str | os.PathLike, *, held_out: float) -> tuple[Dataset, Dataset]:
  """Scans a folder of pictures and shards, without opening the pictures.

  Args:
    folder: Pictures and uncompressed tar files may lie at any depth.
    held_out: Share to evaluate on, in (0, 1): at least one picture, and not all.

  Returns:
    Pictures to train on and those held out; `label_names` is empty.

  Raises:
    InputError: There is no such folder, fewer than two pictures, a share outside (0, 1), a shard
      that is compressed or broken.
  """
  folder = checked_folder(folder, held_out)
  paths, where, hashes = [], [], []
  for path, pieces in _files(folder):
    for name, offset, size in pieces:
      where.append((len(paths), offset, size))
      hashes.append(name_hash(name))
    paths.append(str(path))
  if len(where) < 2:
    raise InputError(
      f"{str(folder)!r} holds {len(where)} pictures, expected at least 2.",
      f"Expected files such as {', '.join(sorted(SUFFIXES)[:4])}, or tar files of them.",
    )
  whole = Unlabelled(paths, np.array(where, np.int64))
  order = np.argsort(np.array(hashes), kind="stable")
  count = min(max(round(held_out * len(order)), 1), len(order) - 1)
  train, test = np.sort(order[count:]), np.sort(order[:count])
  return (
    Dataset(f"{folder}:train", whole.take(train), ()),
    Dataset(f"{folder}:test", whole.take(test), ()),
  )


def _files(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[tuple[str, int, int]]]]:
  """Yields files and their pictures: name within the folder, offset, size."""
  names, others = find_pictures(folder)
  for name in names:
    path = folder / name
    yield path, [(name, 0, path.stat().st_size)]
  for name in others:
    if name.endswith(_COMPRESSED):
      raise InputError(
        f"{str(folder / name)!r} is compressed; shards are read at random.",
        "Decompress it to a .tar file, which is hardly larger, or move it elsewhere.",
      )
    if name.endswith(".tar"):
      yield folder / name, list(_members(folder, name))


def _members(folder: pathlib.Path, shard: str) -> Iterator[tuple[str, int, int]]:
  try:
    with tarfile.open(folder / shard, "r:") as tar:
      for member in tar:
        # Else it keeps all headers. Typeshed does not have the attribute.
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
        if member.isfile() and pathlib.PurePosixPath(member.name).suffix.lower() in SUFFIXES:
          yield f"{shard}/{member.name}", member.offset_data, member.size
  except (tarfile.TarError, EOFError) as error:
    raise InputError(
      f"{str(folder / shard)!r} is not a complete tar file: {error}.", "Download it again."
    ) from error

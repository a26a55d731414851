"""Picture folders as a data set: a folder per class, or a table of files and labels.

Which pictures are held out depends on their names alone, so it is the same on every machine and
process, whatever the order in which a file system lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import glob
import hashlib
import os
import pathlib
from typing import Any
import warnings

import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.pictures import SUFFIXES, find_pictures

from .sources import Dataset
from .tables import read_table

TRAIN_FOLDERS = ("train", "training")
HELD_OUT_FOLDERS = ("val", "validation", "valid", "test")  # The first that exists is taken.
_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
  """What a folder holds.

  Attributes:
    folder: The folder.
    label_names: Names of the classes, sorted.
    multi_label: Whether a picture may have several labels, or none.
    train: Names of the training pictures, relative to the folder, sorted.
    held_out: Those of the pictures to evaluate on.
    labels: By name: the numbers of its classes.
    ignored: Number of files that are not pictures.
    split: Whether the folder itself says which pictures are held out.
  """

  folder: pathlib.Path
  label_names: tuple[str, ...]
  multi_label: bool
  train: tuple[str, ...]
  held_out: tuple[str, ...]
  labels: dict[str, tuple[int, ...]]
  ignored: int
  split: bool = False

  def dataset(self, split: str) -> Dataset:
    """Returns the split "train" or "all", or under any other name what is held out."""
    every = tuple(sorted((*self.train, *self.held_out)))
    names = {"train": self.train, "all": every}.get(split, self.held_out)
    labels = _to_array([self.labels[name] for name in names], self.label_names, self.multi_label)
    return Dataset(
      f"{self.folder}:{split}",
      Files(self.folder, names, labels),
      self.label_names,
      labels=labels,
      multi_label=self.multi_label,
    )


class Files:
  """Picture files, read on demand: {"image": bytes, "label", "name"}."""

  def __init__(self, folder: pathlib.Path, names: Sequence[str], labels: np.ndarray):
    """Takes names relative to the folder, and their labels: int [N], or uint8 [N, C]."""
    self._folder, self._names, self._labels = folder, names, labels

  def __len__(self) -> int:
    return len(self._names)

  @property
  def labels(self) -> np.ndarray:
    """All labels."""
    return self._labels

  def name_of(self, index: int) -> str:
    """Returns a file's name, without opening it."""
    return self._names[index]

  def relabelled(self, places: Sequence[int], count: int) -> Files:
    """Returns the files with other numbers of classes: class i becomes places[i], of `count`."""
    if self._labels.ndim == 1:
      labels = np.array(places, self._labels.dtype)[self._labels]
    else:
      labels = np.zeros((len(self._labels), count), self._labels.dtype)
      labels[:, list(places)] = self._labels
    return Files(self._folder, self._names, labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    name = self._names[index]
    return {
      "image": (self._folder / name).read_bytes(),
      "label": self._labels[index],
      "name": name,
    }


def read_folder(
  folder: str | os.PathLike,
  *,
  labels: str | os.PathLike = "",
  held_out: float = 0.2,
  pattern: str = "",
) -> Pictures:
  """Scans a folder of pictures, without opening them.

  Without `labels`, the folder holds one folder per class, or `train` and one of `val`,
  `validation`, `valid` and `test`, with one folder per class each. Subfolders are allowed. Hidden
  files and broken links are skipped; other files that are not pictures are counted.

  Args:
    folder: The folder.
    labels: A table of file names and labels, see `tables.read_table`; "" for folders per class.
    held_out: Share of every class that is held out where the folder has no such split itself. A
      class with two pictures or more has at least one on each side (with several labels per
      picture: as far as that is possible).
    pattern: Takes only pictures that match, or lie in folders that do, such as "*/1*.png"; relative
      to the folder. "" takes all.

  Returns:
    What it holds. Classes without pictures are left out, with a warning; so are warned about
    classes without a held-out or training picture.

  Raises:
    InputError: There is no such folder, no picture or a single class; the table names files that
      are not there; a held-out class that training does not have.
  """
  folder = checked_folder(folder, held_out)
  names, others = _find(folder, pattern)
  parts = _split_folders(names)
  if labels:
    named, multi_label = read_table(labels, folder)
    names = [name for name in sorted(named) if not pattern or name in names]
  else:
    named, multi_label = _labels_by_folder(folder, names, 1 if parts else 0), False
  label_names = tuple(sorted({label for several in named.values() for label in several}))
  _check_classes(folder, label_names, multi_label)
  number = {label: i for i, label in enumerate(label_names)}
  numbers = {name: tuple(sorted(number[label] for label in named[name])) for name in names}
  train, test = _by_folder(names, parts) if parts else (names, [])
  own_split = bool(test)
  if not own_split:
    train, test = split(numbers, held_out)
  _check_split(train, test, numbers, label_names)
  return Pictures(
    folder=folder,
    label_names=label_names,
    multi_label=multi_label,
    train=tuple(train),
    held_out=tuple(test),
    labels=numbers,
    ignored=len(others),
    split=own_split,
  )


def _find(folder: pathlib.Path, pattern: str) -> tuple[list[str], list[str]]:
  """Returns the pictures of a folder, those that match if there is a pattern, and other files."""
  names, others = find_pictures(folder)
  if not names:
    raise InputError(
      f"{str(folder)!r} holds no pictures ({len(others)} other files).",
      f"Expected files such as {', '.join(sorted(SUFFIXES)[:4])}, in one folder per class.",
    )
  if not pattern:
    return names, others
  matched = {*map(pathlib.PurePath, glob.glob(pattern, root_dir=folder, recursive=True))}
  found = [name for name in names if matched & {(p := pathlib.PurePath(name)), *p.parents}]
  if not found:
    raise InputError(
      f"No picture in {str(folder)!r} matches {pattern!r}.", "Check the pattern and its folder."
    )
  return found, others


def checked_folder(folder: str | os.PathLike, held_out: float) -> pathlib.Path:
  """Returns a folder that exists; InputError if it does not, or for a share outside (0, 1)."""
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise InputError(
      f"No folder {str(folder)!r}.",
      "Give the folder of your pictures (--config.data.folder in recipes).",
    )
  if not 0 < held_out < 1:
    raise InputError(
      f"data.held_out={held_out}; expected a share between 0 and 1.",
      "Use 0.2 to hold out one picture in five.",
    )
  return folder


def split(labels: dict[str, tuple[int, ...]], share: float) -> tuple[list[str], list[str]]:
  """Holds out a share of every class, chosen by a hash of the names.

  Args:
    labels: Numbers of the classes of each picture, by name.
    share: To hold out, in (0, 1).

  Returns:
    Names to train on and names that are held out, sorted. Of a class with n pictures, n * share
    are held out, rounded, but at least one and at most n - 1. Classes are served from the rarest
    on, so with several labels per picture a frequent class may get another share.
  """
  members: dict[int, list[str]] = {}
  for name in sorted(labels, key=name_hash):
    for label in labels[name] or (-1,):
      members.setdefault(label, []).append(name)
  side: dict[str, bool] = {}
  for label in sorted(members, key=lambda label: (len(members[label]), label)):
    of_class = members[label]
    wanted = min(max(round(share * len(of_class)), 1), len(of_class) - 1)
    missing = wanted - sum(side.get(name, False) for name in of_class)
    for name in of_class:
      if name not in side:
        side[name] = missing > 0
        missing -= side[name]
  train, test = (sorted(n for n in side if side[n] is wanted) for wanted in (False, True))
  return train, test


def class_weights(labels: np.ndarray, power: float) -> np.ndarray:
  """Returns how often each picture is to be drawn, relative to the others.

  Args:
    labels: Class numbers int [N], or 0 and 1 [N, C].
    power: 0 draws every picture equally often, 1 every class.

  Returns:
    float64 [N]: (pictures of the class) ** -power; of several classes, the rarest counts. Pictures
    without any label are a class of their own.
  """
  if labels.ndim == 1:
    return np.bincount(labels)[labels].astype(np.float64) ** -power
  unlabelled = ~np.asarray(labels.any(axis=1))
  table = np.concatenate([labels.astype(bool), unlabelled[:, None]], axis=1)
  return np.where(table, table.sum(axis=0), np.inf).min(axis=1) ** -power


def name_hash(name: str) -> bytes:
  """Returns eight bytes that depend on nothing but a picture's name."""
  # Names may hold bytes that are not UTF-8; surrogateescape keeps them.
  return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _split_folders(names: Iterable[str]) -> tuple[str, ...]:
  """Returns (training folder, held-out folder if there is one), or () if it is not split."""
  first = {name.partition("/")[0] for name in names if "/" in name}
  train = [name for name in first if name.lower() in TRAIN_FOLDERS]
  test = [name for wanted in HELD_OUT_FOLDERS for name in sorted(first) if name.lower() == wanted]
  known = {*TRAIN_FOLDERS, *HELD_OUT_FOLDERS}
  if len(train) != 1 or any(name.lower() not in known for name in first):
    return ()
  return (train[0], *test[:1])


def _by_folder(names: Iterable[str], parts: tuple[str, ...]) -> Iterator[list[str]]:
  names = list(names)
  for i in range(2):
    yield [name for name in names if len(parts) > i and name.startswith(f"{parts[i]}/")]


def _labels_by_folder(
  folder: pathlib.Path, names: Iterable[str], depth: int
) -> dict[str, tuple[str, ...]]:
  loose = [name for name in names if name.count("/") <= depth]
  if loose:
    raise InputError(
      f"{len(loose)} pictures in {str(folder)!r} are in no folder of a class: {_some(loose)}.",
      "Put each picture in a folder named after its class, or give a table of labels with "
      "--labels=FILE (in recipes --config.data.labels).",
    )
  empty = _folders(folder, depth) - {"/".join(name.split("/")[: depth + 1]) for name in names}
  if empty:
    warnings.warn(
      f"Skipped, as they hold no pictures: the classes {_some(sorted(empty))}.", stacklevel=3
    )
  return {name: (name.split("/")[depth],) for name in names}


def _folders(folder: pathlib.Path, depth: int) -> set[str]:
  """Returns the visible folders `depth` levels below, as names relative to the folder."""
  found = (path for path in folder.glob("/".join("*" * (depth + 1))) if path.is_dir())
  names = (path.relative_to(folder).as_posix() for path in found)
  return {name for name in names if not any(part.startswith(".") for part in name.split("/"))}


def _check_classes(folder: pathlib.Path, label_names: Sequence[str], multi_label: bool) -> None:
  if len(label_names) < (1 if multi_label else 2):
    raise InputError(
      f"The pictures of {str(folder)!r} have {len(label_names)} classes: {_some(label_names)}; "
      "expected at least 2.",
      "Make one folder per class, or give a table: --labels (in recipes --config.data.labels).",
    )


def _check_split(
  train: Sequence[str],
  test: Sequence[str],
  labels: dict[str, tuple[int, ...]],
  label_names: Sequence[str],
) -> None:
  for names, what in ((train, "train on"), (test, "evaluate on")):
    if not names:
      raise InputError(f"There are no pictures to {what}.", "Add some: two per class suffice.")
  trained, tested = ({label for name in part for label in labels[name]} for part in (train, test))
  unknown = [label_names[i] for i in sorted(tested - trained)]
  if unknown:
    raise InputError(
      f"Held out but not trained on are the classes {_some(unknown)}.",
      "Add training pictures of them, or remove their folders.",
    )
  if trained - tested:
    alone = [label_names[i] for i in sorted(trained - tested)]
    warnings.warn(
      f"Trained on but not evaluated, for lack of pictures, are the classes {_some(alone)}.",
      stacklevel=3,
    )


def _to_array(
  labels: Sequence[tuple[int, ...]], label_names: Sequence[str], multi_label: bool
) -> np.ndarray:
  if not multi_label:
    return np.array([label for (label,) in labels], np.int32)
  table = np.zeros((len(labels), len(label_names)), np.uint8)
  for row, several in zip(table, labels, strict=True):
    row[list(several)] = 1
  return table


def _some(names: Sequence[str]) -> str:
  more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
  return ", ".join(map(repr, names[:_SHOWN])) + more

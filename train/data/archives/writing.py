"""Folders of data sets that are made from archives: complete, or not there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from typing import TypeVar

import tensorflow_datasets as tfds
from tensorflow_datasets.core import constants

from bcos_jax.errors import InputError, unknown_name

from ..sources import DATA_DIR_VARIABLE, quiet

Builder = TypeVar("Builder", bound=tfds.core.GeneratorBasedBuilder)

_DISK_SHARE = 2.1  # TFDS sorts the examples on disk before it writes them.


def write(
  kind: type[Builder],
  make: Callable[[str], Builder],
  *,
  data_dir: str,
  splits: Sequence[str],
  size: int,
  config: str = "",
  around: Callable[[Builder], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> pathlib.Path:
  """Writes a data set in a private folder and moves it into place in one step.

  Args:
    kind: Class of its builder, with name and version.
    make: Returns the builder that writes into a folder.
    data_dir: Where data sets are kept, see `sources.open_dataset`.
    splits: What is written; where the data set is there already, it must have them.
    size: Bytes of its examples, about.
    config: Name of the configuration, where the data set has several.
    around: What surrounds the writing, such as a progress bar, given the builder.

  Returns:
    The folder of the data set; if it is there already, nothing is done.

  Raises:
    InputError: Too little space; a folder that cannot be written; a data set without those splits.
  """
  root = root_of(data_dir)
  final = root / kind.name / config / str(kind.VERSION)
  if final.is_dir():
    _check_there(final, splits)
    return final
  with said(kind.name, root):
    final.parent.mkdir(parents=True, exist_ok=True)
    _check_space(root, size)
    with tempfile.TemporaryDirectory(prefix=f".{kind.name}-", dir=root) as folder:
      builder = make(folder)
      with around(builder), quiet():
        builder.download_and_prepare()
      os.rename(builder.data_path, final)
  return final


def check_splits(name: str, splits: Sequence[str], known: Collection[str]) -> None:
  """Raises InputError for a split that a data set has not."""
  for split in splits:
    if split not in known:
      raise unknown_name(f"split of {name!r}", split, known)


def root_of(data_dir: str) -> pathlib.Path:
  """Returns the folder where data sets are kept, see `sources.open_dataset`."""
  root = data_dir or os.environ.get(DATA_DIR_VARIABLE, "") or constants.DATA_DIR
  return pathlib.Path(root).expanduser()


@contextlib.contextmanager
def said(name: str, root: pathlib.Path) -> Iterator[None]:
  """Says what keeps a data set from being written, in the words of `InputError`."""
  try:
    yield
  except OSError as error:
    if error.errno == errno.ENOSPC:
      raise _too_full(root, "nothing is left") from error
    raise InputError(
      f"Cannot write {name} to {str(root)!r}: {error}.",
      f"Give --data_dir or ${DATA_DIR_VARIABLE} a folder that can be written.",
    ) from error


def _check_there(folder: pathlib.Path, splits: Sequence[str]) -> None:
  there = tfds.builder_from_directory(folder).info.splits
  missing = [split for split in splits if split not in there]
  if missing:
    raise InputError(
      f"{str(folder)!r} was prepared without {', '.join(missing)}.",
      "Remove that folder, or choose another --data_dir.",
    )


def _check_space(root: pathlib.Path, size: int) -> None:
  free = shutil.disk_usage(root).free
  if free < _DISK_SHARE * size:
    raise _too_full(root, f"{free / 1e9:,.0f} GB are free, {_DISK_SHARE * size / 1e9:,.0f} needed")


def _too_full(root: pathlib.Path, what: str) -> InputError:
  return InputError(
    f"The disk of {str(root)!r} is too full: {what}.",
    "Choose --data_dir on a larger disk; half of the space is freed at the end.",
  )

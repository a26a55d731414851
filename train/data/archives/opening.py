"""Folders, tar and zip archives, read alike by the names of the files inside."""

from __future__ import annotations

import contextlib
import pathlib
import tarfile
from typing import Any, Self
import zipfile
import zlib

from bcos_jax.errors import InputError


class Source:
  """The files of a folder or an archive, each read when it is asked for.

  A context manager, which closes the archive. Names are with slashes, relative to the folder.
  """

  def __init__(self, path: pathlib.Path):
    """Opens `path`, a folder, a .tar (also packed), .tgz or .zip.

    Raises:
      InputError: There is none, or it is truncated or something else.
    """
    self.path = path = path.expanduser()
    self._tar: tarfile.TarFile | None = None
    self._zip: zipfile.ZipFile | None = None
    self._members: dict[str, Any] = {}  # what `read` takes: a path, or a member of the archive
    if not path.exists():
      raise InputError(f"No file or folder {str(path)!r}.", "Check the path given as --source.")
    with self._blamed():
      if path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file())
        self._members = {file.relative_to(path).as_posix(): file for file in found}
      elif zipfile.is_zipfile(path):
        self._zip = zipfile.ZipFile(path)
        self._members = {one.filename: one for one in self._zip.infolist() if not one.is_dir()}
      else:
        self._tar = tarfile.open(path)  # closed by `__exit__`
        self._members = {one.name: one for one in self._tar if one.isfile()}

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_) -> None:
    for archive in (self._tar, self._zip):
      if archive is not None:
        archive.close()

  @property
  def names(self) -> tuple[str, ...]:
    """Names of all files, sorted."""
    return tuple(sorted(self._members))

  def read(self, name: str) -> bytes:
    """Returns the content of a file.

    Raises:
      InputError: The archive has no such file, or it cannot be read.
    """
    if name not in self._members:
      raise InputError(
        f"{str(self.path)!r} holds no {name!r}.", "Give --source the complete archive or folder."
      )
    with self._blamed(name):
      member = self._members[name]
      if self._zip is not None:
        return self._zip.read(member)
      if self._tar is not None:
        file = self._tar.extractfile(member)
        assert file is not None, "only files are members"
        content = file.read()
        if len(content) != member.size:
          raise EOFError(f"{member.size:,} bytes expected, {len(content):,} are there")
        return content
      return member.read_bytes()

  def ending(self, end: str) -> str:
    """Returns the name of the one file whose path ends so, whole folders and names counting.

    Raises:
      InputError: None, or several.
    """
    found = [name for name in self.names if f"/{name}".endswith(f"/{end}")]
    if len(found) != 1:
      what = f"{len(found)} files {end!r}: {', '.join(found[:2])}" if found else f"no {end!r}"
      raise InputError(
        f"{str(self.path)!r} holds {what}.", "Give --source the official archive, or its folder."
      )
    return found[0]

  def below(self, folder: str) -> list[str]:
    """Returns the names of the files in a folder that may lie in others, sorted."""
    return [name for name in self.names if f"/{folder}/" in f"/{name}"]

  def broken(self, what: str, name: str = "") -> InputError:
    """Returns the error that says what is wrong with the archive, or with a file in it."""
    where = f"{self.path}: {name}" if name else str(self.path)
    return InputError(
      f"{where!r} is truncated or of another version: {what}.", "Download it again."
    )

  @contextlib.contextmanager
  def _blamed(self, name: str = ""):
    try:
      yield
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
      raise self.broken(f"reading it says {str(error).rstrip('.')!r}", name) from error

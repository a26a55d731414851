"""Atomic writes of result files."""

from __future__ import annotations

import os
import pathlib
import tempfile

from ..errors import InputError


def check_folder(path: str | os.PathLike) -> pathlib.Path:
  """Returns `path` if a file can be written there; creates its folder. Call before the work.

  Raises:
    InputError: `path` is a folder, or its folder cannot be made or written.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    raise InputError(
      f"{str(path)!r} is a folder, expected the path of a file.",
      f"For example: {str(path / 'explanation.png')!r}.",
    )
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
      pass
  except OSError as error:
    raise InputError(
      f"Cannot write in the folder {str(path.parent)!r}: {error.strerror}.",
      "Choose a writable folder.",
    ) from error
  return path


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file so that readers, and a crash, see the old one or the whole new one."""
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(content)
    umask = os.umask(0)  # the only way to read it: mkstemp's own files are private
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)
    os.replace(name, path)
  except BaseException:
    os.unlink(name)
    raise

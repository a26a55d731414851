"""Atomic writes of result files."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import pathlib
import tempfile
import threading
from typing import BinaryIO

from ..errors import InputError

_LONGEST = 255  # bytes of a name, on all common file systems
_READING_UMASK = threading.Lock()
_TEMPORARY = 40  # bytes that are added to the name of what is being written


def check_name(path: str | os.PathLike, *, room: int = 0) -> None:
  """Checks that a file or folder may have this name; nothing is looked up.

  Args:
    path: The whole path.
    room: Bytes that are added to its last part.

  Raises:
    InputError: A control character such as a line break, or a part that is too long.
  """
  text = os.fspath(path)
  if any(ord(character) < 32 or ord(character) == 127 for character in text):
    raise InputError(
      f"{text[:80]!r} has a control character, expected the name of a file or folder.",
      "Give a name of letters, digits and signs.",
    )
  *others, last = pathlib.PurePath(text).parts or ("",)
  for part, most in (*((other, _LONGEST) for other in others), (last, _LONGEST - room)):
    if (length := len(os.fsencode(part))) > most:
      raise InputError(
        f"The name '{part[:40]}...' has {length} bytes, expected at most {most}.",
        "Choose a shorter name.",
      )


def check_new(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of what is to be written, if its folder is there or can be made.

  Raises:
    InputError: A name that cannot be, a file among its folders, or a folder that is read-only.
  """
  check_name(path, room=_TEMPORARY)
  path = pathlib.Path(path)
  nearest = next(folder for folder in path.absolute().parents if folder.exists())
  if not nearest.is_dir():
    raise InputError(
      f"Cannot write {str(path)!r}: {str(nearest)!r} is a file, expected a folder.",
      "Choose another place.",
    )
  if not os.access(nearest, os.W_OK | os.X_OK):
    raise InputError(
      f"Cannot write {str(path)!r}: {str(nearest)!r} is read-only.", "Choose a writable folder."
    )
  return path


def check_folder(path: str | os.PathLike) -> pathlib.Path:
  """Returns `path` if a file can be written there; creates its folder. Call before the work.

  Raises:
    InputError: `path` is a folder, or its folder cannot be made or written.
  """
  path = check_new(path)
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


def check_page(path: str | os.PathLike) -> pathlib.Path:
  """Returns `path` if an HTML page can be written there, which replaces nothing but such a page.

  Raises:
    InputError: Another kind of file, or see `check_folder`.
  """
  path = check_new(path)
  if not path.is_dir() and path.suffix.lower() not in (".html", ".htm"):
    raise InputError(
      f"The report {str(path)!r} is an HTML page, expected a name that ends in .html.",
      f"For example: {str(path.with_name(f'{path.stem}.html'))!r}.",
    )
  return check_folder(path)


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file so that readers, and a crash, see the old one or the whole new one."""
  with writing(path) as file:
    file.write(content)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[BinaryIO]:
  """Yields a file to write into, which takes the place of `path` as a whole, or not at all."""
  handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      yield file
    os.chmod(name, 0o666 & ~_umask())
    os.replace(name, path)
  except BaseException:
    os.unlink(name)
    raise


def _umask() -> int:
  """Returns the process' umask, which mkstemp's own files, private ones, do not follow."""
  with _READING_UMASK:  # setting it is the only way to read it
    umask = os.umask(0)
    os.umask(umask)
  return umask

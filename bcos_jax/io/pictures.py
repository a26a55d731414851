"""Picture files of a user: single ones, folders, patterns such as `*.jpg`, and lists in a file."""

from __future__ import annotations

from collections.abc import Iterable
import csv
import glob
import os
import pathlib

from ..errors import InputError

SUFFIXES = frozenset(
  f".{suffix}"
  for suffix in "png jpg jpeg jpe jfif webp bmp gif tif tiff ppm pgm pbm pnm tga avif jp2".split()
)
LISTS = (".txt", ".csv", ".tsv")
RESULTS, JOURNAL = "explanations.json", "explanations.journal"
"""A folder with a file of such a name holds explanations, not pictures to explain."""


def find_pictures(folder: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns the sorted names, with /, of all pictures below a folder, and of other files.

  Raises:
    InputError: A folder cannot be read, whose pictures would be missing without a word.
  """
  names, others = [], []
  for place, folders, files in os.walk(folder, onerror=_unreadable, followlinks=True):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    for file in files:
      path = pathlib.Path(place, file)
      if file.startswith(".") or not path.is_file():
        continue
      kind = names if _is_picture(path) else others
      kind.append(path.relative_to(folder).as_posix())
  return sorted(names), sorted(others)


def _unreadable(error: OSError) -> None:
  raise InputError(
    f"Cannot read the folder {str(error.filename)!r}: {error.strerror}.",
    "Make it readable, or leave it out.",
  ) from error


def _is_picture(path: pathlib.Path) -> bool:
  if path.suffix:
    return path.suffix.lower() in SUFFIXES
  from PIL import Image

  try:  # Without a suffix the first bytes tell.
    with Image.open(path):
      return True
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
    return False


def expanded(sources: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
  """Returns the picture files that sources name, in their order; a folder's sorted by name.

  Args:
    sources: Files; folders, with all pictures below them; patterns with * ? [ ], ** for folders of
      any depth; and lists: a file .txt, .csv or .tsv whose first column names files, relative to
      its own folder or the working one. Folders that hold explanations are passed over.

  Raises:
    InputError: A file that is not there; a folder, pattern or list without pictures.
  """
  found: list[pathlib.Path] = []
  for source in sources:
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
      found += _of_folder(path)
    elif path.is_file():
      found += _of_list(path) if path.suffix.lower() in LISTS else [path]
    elif glob.has_magic(str(path)):
      found += _of_pattern(str(path))
    else:
      raise InputError(f"No picture at {os.fspath(source)!r}.", "Check the path.")
  return found


def _of_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  names, others = find_pictures(folder)
  files = map(pathlib.PurePosixPath, others)
  results = {file.parent for file in files if file.name in (RESULTS, JOURNAL)}
  results.discard(pathlib.PurePosixPath("."))
  kept = [name for name in names if not results & {*pathlib.PurePosixPath(name).parents}]
  if not kept:
    also = f" ({len(others)} other files)" if others else ""
    raise InputError(
      f"{str(folder)!r} holds no pictures{also}.",
      f"Give a folder with files such as {', '.join(sorted(SUFFIXES)[:4])}.",
    )
  return [folder / name for name in kept]


def _of_pattern(pattern: str) -> list[pathlib.Path]:
  paths = map(pathlib.Path, sorted(glob.glob(pattern, recursive=True)))
  found = [path for path in paths if path.is_file() and _is_picture(path)]
  if not found:
    raise InputError(f"No picture matches {pattern!r}.", "Check the pattern and its folder.")
  return found


def _of_list(file: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of the first column; a first line that names none is a heading."""
  try:
    with file.open(encoding="utf-8-sig", newline="") as opened:
      delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
      rows = [row[0].strip() for row in csv.reader(opened, delimiter=delimiter) if row]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"Cannot read {str(file)!r}: {error}.", "Save it as text in UTF-8.") from error
  names = [name for name in rows if name]
  places = [_beside(file, name) for name in names]
  if len(places) > 1 and places[0] is None:
    names, places = names[1:], places[1:]
  missing = [name for name, place in zip(names, places, strict=True) if place is None]
  if missing or not places:
    raise InputError(
      f"{len(missing)} of {len(names)} files that {str(file)!r} names are not there: "
      f"{', '.join(map(repr, missing[:5]))}.",
      "Name picture files in the first column, relative to the list's folder.",
    )
  return [place for place in places if place is not None]


def _beside(file: pathlib.Path, name: str) -> pathlib.Path | None:
  for path in (file.parent / name, pathlib.Path(name).expanduser()):
    if path.is_file():
      return path
  return None

"""What a job over many pictures has finished, so that the same job goes on from there.

A journal is a file of JSON lines. The first one holds the settings of the job; each of the others
holds a finished picture, with the sizes and checksums of its files. A last line that was cut short
does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from typing import Any, BinaryIO
import zlib

Line = dict[str, Any]


class Journal:
  """Lines about pictures, which are on the disk and not in memory."""

  def __init__(self, file: BinaryIO):
    """Goes on with a file of complete lines."""
    self._file = file
    self._places: dict[str, int] = {}
    self._seeking = threading.Lock()

  @classmethod
  def temporary(cls) -> Journal:
    """Returns a journal that ends with the process."""
    return cls(tempfile.TemporaryFile())

  @classmethod
  def opened(cls, path: pathlib.Path, settings: Mapping[str, Any]) -> Journal:
    """Returns the journal of a job; an empty one if there is none, or it is of another job."""
    path.touch()
    journal = cls(path.open("r+b"))
    first = {"settings": json.loads(json.dumps(dict(settings)))}
    if not journal._read(first):
      journal._write(first)
    return journal

  def _read(self, first: Line) -> bool:
    """Finds the lines of a job that begins with this one; whatever else there is is cut off."""
    place = 0
    for text in self._file:
      line = _parsed(text)
      if line is None or (not place and line != first):
        break
      if place:
        self._places[line["stem"]] = place
      place += len(text)
    self._file.seek(place)
    self._file.truncate()
    return place > 0

  def _write(self, line: Line) -> int:
    with self._seeking:
      place = self._file.seek(0, os.SEEK_END)
      self._file.write(json.dumps(line).encode() + b"\n")
      self._file.flush()
    return place

  def add(self, line: Line) -> None:
    """Adds a picture; what was said of the same `stem` before does not count any more."""
    self._places[line["stem"]] = self._write(line)

  def get(self, stem: str) -> Line | None:
    """Returns what is known of a picture."""
    if stem not in self._places:
      return None
    with self._seeking:
      self._file.seek(self._places[stem])
      return json.loads(self._file.readline())

  def close(self) -> None:
    self._file.close()


def _parsed(text: bytes) -> Line | None:
  try:
    line = json.loads(text) if text.endswith(b"\n") else None
  except ValueError:
    return None
  return line if isinstance(line, dict) else None


def digest(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file, '' if it cannot be read."""
  try:
    with open(path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError:
    return ""


def checksum(content: bytes) -> list[int]:
  """Returns the size and the CRC-32 of a file's content."""
  return [len(content), zlib.crc32(content)]


def intact(folder: pathlib.Path, files: Mapping[str, list[int]]) -> bool:
  """Whether all files, by name, are in a folder as they were written."""
  for name, (size, _) in files.items():  # sizes first: they cost nothing
    try:
      if (folder / name).stat().st_size != size:
        return False
    except OSError:
      return False
  return all(checksum((folder / name).read_bytes()) == known for name, known in files.items())

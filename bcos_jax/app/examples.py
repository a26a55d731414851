"""Examples to begin with: pictures or texts of a folder, by default of the bundle's."""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
from typing import TYPE_CHECKING

from ..errors import InputError
from .pictures import Limits, read_bytes

if TYPE_CHECKING:
  from PIL import Image

MOST = 12
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_TEXTS = (".txt",)


def examples(
  folder: str | os.PathLike | None, own: Sequence[pathlib.Path], limits: Limits
) -> tuple[tuple[str, Image.Image], ...]:
  """Returns (name, picture) of the first pictures of a folder, by name.

  Args:
    folder: Of picture files; None takes those of the network, if there are any; "" takes none.
    own: Files that came with the network.
    limits: Of pictures; they hold for examples, too.

  Raises:
    InputError: There is no such folder, it has no pictures, or one cannot be read.
  """
  found = []
  for path in _files(folder, own, _PICTURES, "pictures"):
    try:
      found.append((path.stem, read_bytes(path.read_bytes(), limits)))
    except InputError as error:
      raise InputError(f"{path}: {error.cause}", "Remove it from the folder.") from None
  return tuple(found)


def text_examples(
  folder: str | os.PathLike | None, own: Sequence[pathlib.Path], most: int
) -> tuple[tuple[str, str], ...]:
  """Returns (name, text) of the first text files of a folder; arguments as for `examples`.

  Args:
    folder: Of text files in UTF-8.
    own: Files that came with the network.
    most: Most characters of a text.
  """
  found = []
  for path in _files(folder, own, _TEXTS, "texts (.txt)"):
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if text and len(text) <= most:
      found.append((path.stem, text))
  return tuple(found)


def _files(folder, own, suffixes: tuple[str, ...], kind: str) -> list[pathlib.Path]:
  if folder == "":
    return []
  if folder is not None:
    place = pathlib.Path(folder)
    if not place.is_dir():
      raise InputError(
        f"--examples={str(place)!r} is not a folder.", f"Give a folder of {kind}, or omit it."
      )
    own = sorted(path for path in place.iterdir() if path.is_file())
  found = [path for path in own if path.suffix.lower() in suffixes]
  if folder is not None and not found:
    raise InputError(
      f"The folder --examples={str(folder)!r} has no {kind}.",
      f"Put {kind} there, or leave --examples out.",
    )
  return found[:MOST]

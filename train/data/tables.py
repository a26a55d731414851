"""Label tables: file name, one label or several."""

from __future__ import annotations

import csv
import os
import pathlib
import re

from bcos_jax.errors import InputError

_SHOWN = 5


def read_table(
  table: str | os.PathLike, folder: pathlib.Path
) -> tuple[dict[str, tuple[str, ...]], bool]:
  """Reads which picture has which labels.

  Args:
    table: A CSV file, or a TSV file (its first line has a tab), in UTF-8; in the working folder or
      in `folder`. Its first column names a file relative to `folder`; its second holds a label,
      or several separated by | or ;. A first line that names no file is a heading.
    folder: Of the pictures.

  Returns:
    The labels of each file, and whether any has several. Only then may a picture have none.

  Raises:
    InputError: The table cannot be read; a file is missing or named twice; a label is missing.
  """
  rows = _rows(_find(table, folder))
  if len(rows) > 1 and not (folder / rows[0][1][0]).is_file():
    rows = rows[1:]
  missing = [row[0] for _, row in rows if not (folder / row[0]).is_file()]
  if missing or not rows:
    raise InputError(
      f"{len(missing)} of {len(rows)} files that {os.fspath(table)!r} names are not in"
      f" {str(folder)!r}: {', '.join(map(repr, missing[:_SHOWN]))}.",
      "The first column holds file names relative to the folder.",
    )
  labels: dict[str, tuple[str, ...]] = {}
  lines: dict[str, int] = {}
  for line, (file, text) in rows:
    name = pathlib.PurePath(file).as_posix()
    if name in labels:
      raise InputError(
        f"{os.fspath(table)!r} names {name!r} in lines {lines[name]} and {line}.",
        "Give each picture one line, with its labels separated by |.",
      )
    given = (label.strip() for label in re.split(r"[|;]", text))
    labels[name] = tuple(sorted({label for label in given if label}))
    lines[name] = line
  several = any(len(given) > 1 for given in labels.values())
  bare = [name for name, given in labels.items() if not given]
  if bare and not several:
    raise InputError(
      f"{os.fspath(table)!r} gives no label in line {lines[bare[0]]} ({bare[0]!r}).",
      "Add one, or remove the line.",
    )
  return labels, several


def _find(table: str | os.PathLike, folder: pathlib.Path) -> pathlib.Path:
  for path in (pathlib.Path(table).expanduser(), folder / table):
    if path.is_file():
      return path
  raise InputError(
    f"No table of labels {os.fspath(table)!r}, neither here nor in {str(folder)!r}.",
    "Give a CSV or TSV file as --labels (in recipes --config.data.labels).",
  )


def _rows(path: pathlib.Path) -> list[tuple[int, tuple[str, str]]]:
  """Returns (line number, (file name, labels)) of every line that is not empty."""
  try:
    # Excel writes a byte order mark at the beginning, which utf-8-sig removes.
    with path.open(encoding="utf-8-sig", newline="") as file:
      delimiter = "\t" if "\t" in file.readline() else ","
      file.seek(0)
      reader = csv.reader(file, delimiter=delimiter)
      rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise InputError(f"Cannot read {str(path)!r}: {error}.", "Save it as CSV in UTF-8.") from error
  for line, row in rows:
    if len(row) < 2 or not row[0].strip():
      raise InputError(
        f"Line {line} of {str(path)!r} is {row!r}; expected a file name and labels.",
        "Separate the two by a comma or a tab, several labels by |.",
      )
  return [(line, (row[0].strip(), row[1])) for line, row in rows]

"""Labelled texts from TFDS, tables, JSON lines and Hugging Face data sets on disk."""

from __future__ import annotations

from collections.abc import Sequence
import csv
import dataclasses
import gzip
import json
import os
import pathlib
import re
from typing import Any
import zlib

import numpy as np
import tensorflow_datasets as tfds

from bcos_jax.errors import InputError, requires, unknown_name

from ..folders import split as split_by_name
from ..sources import open_builder, open_split
from .review_dataset import Reviews

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {"reviews": Reviews}
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class TextDataset:
  """Texts in memory, or as random access.

  Attributes:
    name: For messages, such as "reviews:test".
    texts: The texts.
    labels: int32 [N], numbers of `label_names`; None where texts are not labelled.
    label_names: Name of each class; () without labels.
    spans: For each text, int [S, 2], (begin, end) in characters of what decides; None where
      nobody marked it.
  """

  name: str
  texts: Sequence[str]
  labels: np.ndarray | None
  label_names: tuple[str, ...]
  spans: Sequence[np.ndarray] | None = None

  def __len__(self) -> int:
    return len(self.texts)

  def chosen(self, rows: np.ndarray, name: str) -> TextDataset:
    """Returns some of the texts, by their numbers, under another name."""
    rows = np.asarray(rows).tolist()
    return dataclasses.replace(
      self,
      name=name,
      texts=[self.texts[i] for i in rows],
      labels=None if self.labels is None else self.labels[rows],
      spans=None if self.spans is None else [self.spans[i] for i in rows],
    )


def open_texts(name: str, split: str, data_dir: str = "", *, text: str = "text") -> TextDataset:
  """Opens a split of a TFDS text data set stored as array_record, and reads it.

  Args:
    name: A TFDS name such as "reviews", "reviews/plain" or "imdb_reviews".
    split: A TFDS split such as "train" or "train[:10%]".
    data_dir: As for `sources.open_dataset`.
    text: Name of the feature with the text; AG News has "description".

  Raises:
    InputError: if it is unknown, not prepared, has no such split or text, or cannot be written.
  """
  builder = open_builder(name, data_dir, BUILDERS)
  described: Any = builder.info.features
  features = dict(described.items())
  if text not in features:
    raise InputError(
      f"Data set {name!r} has the features {sorted(features)}; expected a text {text!r}.",
      "Name the feature: --config.data.text to train, --text to evaluate.",
    )
  source = open_split(builder, name, split)
  records = [source[i] for i in range(len(source))]
  label = features.get("label")
  labels, names = None, ()
  if isinstance(label, tfds.features.ClassLabel):
    labels = np.array([record["label"] for record in records], np.int32)
    labels, names = (None, ()) if (labels < 0).all() else (labels, tuple(label.names))
  return _checked(
    TextDataset(
      f"{name}:{split}",
      [_string(record[text]) for record in records],
      labels,
      names,
      [record["spans"] for record in records] if "spans" in features else None,
    )
  )


def read_texts(
  path: str | os.PathLike,
  *,
  text: str = "text",
  label: str | None = "label",
  label_names: Sequence[str] | None = None,
) -> TextDataset:
  """Reads texts from a file.

  Args:
    path: A table with a heading in its first line, .csv or .tsv, quotes being part of the text in
      .tsv as in GLUE's; or one JSON object a line, .jsonl or .json; in UTF-8, also packed as .gz.
    text: Name of the column, or key, of the text.
    label: Of the label, a word or a number; None reads texts without labels. A key "spans" of JSON
      lines, a list of [begin, end] in characters, is read as well.
    label_names: The classes in order, those of training for data to test on; None takes the
      labels that occur, sorted.

  Raises:
    InputError: No such file, a file that is truncated or not text, a column that is missing, an
      empty text, or an unknown label; all with the line.
  """
  path = pathlib.Path(path).expanduser()
  kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
  readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _json_rows, ".json": _json_rows}
  if kind not in readers:
    raise unknown_name(f"ending of {str(path)!r}", kind, readers)
  try:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
      rows = readers[kind](file, str(path), "\t" if kind == ".tsv" else ",")
  except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
    raise InputError(
      f"Cannot read {str(path)!r}: {error}.", "Check that it is complete and saved in UTF-8."
    ) from error
  return from_rows(str(path), rows, text=text, label=label, label_names=label_names)


def read_hugging_face(
  folder: str | os.PathLike,
  split: str = "train",
  *,
  text: str = "text",
  label: str | None = "label",
) -> TextDataset:
  """Reads a data set that `save_to_disk` of Hugging Face's `datasets` wrote.

  Args:
    folder: That it was written to.
    split: Which part, where it has several.
    text: Name of the column of the text.
    label: Of the label; None reads texts without labels.

  Raises:
    InputError: `datasets` is not installed, there is no such folder, split or column, or one of
      the problems of `read_texts`.
  """
  requires("datasets", "Data sets of Hugging Face")
  import datasets

  if not pathlib.Path(folder).is_dir():
    raise InputError(
      f"No folder {os.fspath(folder)!r}.", "Pass the folder that save_to_disk wrote."
    )
  try:
    loaded = datasets.load_from_disk(os.fspath(folder))
  except Exception as error:  # any error of damaged files
    raise InputError(
      f"{os.fspath(folder)!r} cannot be read: {' '.join(str(error).split())[:200]}",
      "Pass the complete folder that save_to_disk wrote.",
    ) from error
  if hasattr(loaded, "keys"):
    if split not in loaded:
      raise unknown_name(f"split of {os.fspath(folder)!r}", split, loaded.keys())
    loaded = loaded[split]
  names = getattr(loaded.features.get(label), "names", None) if label else None
  rows = [(number, dict(row)) for number, row in enumerate(loaded)]
  if names:
    for _, row in rows:
      row[label] = names[row[label]] if 0 <= row[label] < len(names) else row[label]
  where = f"{os.fspath(folder)}:{split}"
  return from_rows(where, rows, text=text, label=label, label_names=names)


def from_rows(
  where: str,
  rows: Sequence[tuple[int, dict[str, Any]]],
  *,
  text: str = "text",
  label: str | None = "label",
  label_names: Sequence[str] | None = None,
) -> TextDataset:
  """Makes a data set of (line number, record); arguments and errors as for `read_texts`."""
  if not rows:
    raise InputError(f"{where!r} holds no texts.", "Expected one per line.")
  for number, row in rows:
    for column in (text, label) if label else (text,):
      if row.get(column) is None:
        raise InputError(
          f"Line {number} of {where!r} has no {column!r}; it has {sorted(map(str, row))}.",
          "Name the columns: --config.data.text and --config.data.label to train, --text and "
          "--label to evaluate.",
        )
    if not isinstance(row[text], str):
      kind = type(row[text]).__name__
      raise InputError(
        f"Line {number} of {where!r} has a {kind} as {text!r}, expected a text.",
        "Join the pieces into one text.",
      )
    if not row[text].strip():
      raise InputError(f"Line {number} of {where!r} has an empty text.", "Remove the line.")
  labels, names = None, ()
  if label:
    labels, names = _numbered(
      where, [(n, _label(where, n, row[label])) for n, row in rows], label_names
    )
  spans = None
  # A table cannot hold spans; a column of that name is something else.
  if any(isinstance(row.get("spans"), list) for _, row in rows):
    spans = [_spans(where, number, row) for number, row in rows]
  return TextDataset(where, [row[text] for _, row in rows], labels, names, spans)


def _label(where: str, number: int, label: Any) -> str:
  if isinstance(label, bool) or not isinstance(label, str | int | float):
    raise InputError(
      f"Line {number} of {where!r} has the label {label!r}, expected a word or a number.",
      "For example: 1, or positive.",
    )
  whole = isinstance(label, float) and label.is_integer()
  return str(int(label) if whole else label).strip()


def _spans(where: str, number: int, row: dict[str, Any]) -> np.ndarray:
  spans = row.get("spans") or []
  pairs = isinstance(spans, list) and all(
    isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
    for span in spans
  )
  if not pairs:
    raise InputError(
      f"Line {number} of {where!r} has the spans {spans!r:.60}, expected [[begin, end], ...].",
      "Count characters of the text from 0; the end is exclusive.",
    )
  return np.array(spans, np.int32).reshape(-1, 2)


def renumbered(dataset: TextDataset, names: Sequence[str]) -> TextDataset:
  """Returns a data set whose labels count by other names of the same classes.

  Args:
    dataset: With labels.
    names: Of the classes, as a network or other data number them. Where either names are mere
      numbers, such as LABEL_0 or 0, the order of both counts.

  Raises:
    InputError: A class of the data set is not among them.
  """
  own = dataset.label_names
  if not set(own) <= set(names):
    if _numbers(own) or _numbers(names):
      return dataset
    raise InputError(
      f"{dataset.name} has the classes {', '.join(own)}; expected {', '.join(names)}.",
      "Use data with the same class names.",
    )
  numbers = np.array([list(names).index(name) for name in own], np.int32)
  labels = None if dataset.labels is None else numbers[dataset.labels]
  return dataclasses.replace(dataset, labels=labels, label_names=tuple(names))


def _numbers(names: Sequence[str]) -> bool:
  return all(re.fullmatch(r"(?i)(label_?)?\d+", name) for name in names)


def hold_out(dataset: TextDataset, share: float = 0.2) -> tuple[TextDataset, TextDataset]:
  """Returns (the rest, a share of every class), chosen by a hash of the texts.

  Equal texts are on the same side, so that none is trained on and tested.

  Raises:
    InputError: No share between 0 and 1.
  """
  if not 0 < share < 1:
    raise InputError(f"data.held_out={share}; expected a share between 0 and 1.", "Use 0.2.")
  labels = np.zeros(len(dataset), int) if dataset.labels is None else dataset.labels
  kinds = {text: (int(label),) for text, label in zip(dataset.texts, labels, strict=True)}
  held = set(split_by_name(kinds, share)[1])
  side = np.array([text in held for text in dataset.texts])
  rest, out = np.flatnonzero(~side), np.flatnonzero(side)
  if not len(rest) or not len(out):
    raise InputError(
      f"Of {len(dataset)} texts of {dataset.name}, {len(out)} would be held out and {len(rest)} "
      "left, expected some of both.",
      "Give more texts of each class, or another --config.data.held_out.",
    )
  return dataset.chosen(rest, f"{dataset.name}:train"), dataset.chosen(out, f"{dataset.name}:test")


def _csv_rows(file: Any, where: str, delimiter: str) -> list[tuple[int, dict[str, Any]]]:
  quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
  reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
  heading = next(reader, [])
  rows = []
  for row in reader:
    if not row:
      continue
    if len(row) != len(heading):
      raise InputError(
        f"Line {reader.line_num} of {where!r} has {len(row)} columns, expected {len(heading)}: "
        f"{heading}.",
        "Put texts with separators in double quotes, and name the file .csv.",
      )
    rows.append((reader.line_num, dict(zip(heading, row, strict=True))))
  return rows


def _json_rows(file: Any, where: str, _: str) -> list[tuple[int, dict[str, Any]]]:
  rows = []
  for number, line in enumerate(file, 1):
    if not line.strip():
      continue
    try:
      record = json.loads(line)
    except json.JSONDecodeError as error:
      raise InputError(
        f"Line {number} of {where!r} is not valid JSON: {error}.",
        "Write one object per line; if it is the last line, the file may be truncated.",
      ) from error
    if not isinstance(record, dict):
      raise InputError(
        f"Line {number} of {where!r} is a {type(record).__name__}, expected an object.",
        'For example: {"text": "lovely", "label": "positive"}.',
      )
    rows.append((number, record))
  return rows


def _numbered(
  where: str, labels: list[tuple[int, str]], names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
  known = tuple(names) if names else tuple(sorted({label for _, label in labels}))
  number = {name: i for i, name in enumerate(known)}
  for line, label in labels:
    if label not in number:
      problem = unknown_name(f"label in line {line} of {where!r}", label, known)
      raise InputError(problem.cause, problem.fix)
  if len(known) < 2:
    raise InputError(
      f"{where!r} has the label {', '.join(map(repr, known))} only, expected at least 2.",
      "Add texts of another.",
    )
  return np.array([number[label] for _, label in labels], np.int32), known


def _string(value: Any) -> str:
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _checked(dataset: TextDataset) -> TextDataset:
  empty = [i for i, text in enumerate(dataset.texts) if not text.strip()]
  if empty:
    raise InputError(
      f"{len(empty)} texts of {dataset.name} are empty, such as {empty[:_SHOWN]}.",
      "Prepare the data set without them.",
    )
  return dataset

"""The training and the evaluation part of texts, from whatever a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from bcos_jax.errors import InputError

from .text_sources import TextDataset, hold_out, open_texts, read_hugging_face, read_texts

_ENDINGS = tuple(
  ending + packed for packed in ("", ".gz") for ending in (".jsonl", ".json", ".csv", ".tsv")
)
_HUGGING_FACE = ("dataset_dict.json", "dataset_info.json")


def open_text_splits(data: Any, *, labelled: bool = True) -> tuple[TextDataset, TextDataset]:
  """Opens the texts that the section `data` of a recipe names.

  `folder` is a file of texts, of which a share is held out; a folder with a file for each split,
  such as train.csv and test.csv; or what `save_to_disk` of Hugging Face wrote. Without it, `name`
  is a TFDS name.

  Args:
    data: The section.
    labelled: Whether labels are needed.

  Raises:
    InputError: See `text_sources`; texts without labels, or nothing is named.
  """
  if data.folder:
    splits = _of_folder(data, data.label if labelled else None)
  elif data.name:
    splits = tuple(
      open_texts(data.name, split, data.data_dir, text=data.text)
      for split in (data.train_split, data.test_split)
    )
  else:
    raise InputError(
      "Neither folder nor name of the texts is set.",
      "Set --config.data.folder to a file or folder, or --config.data.name to a TFDS name.",
    )
  for dataset in splits:
    if labelled and dataset.labels is None:
      raise InputError(
        f"{dataset.name} has no labels, which the objective 'text' learns.",
        "Name another split, or set --config.objective.name=masked_lm.",
      )
  return splits


def open_text_split(
  where: str,
  split: str,
  data_dir: str = "",
  *,
  text: str = "text",
  label: str = "label",
  label_names: Sequence[str] | None = None,
) -> TextDataset:
  """Opens one part of texts, to evaluate on.

  Args:
    where: A file of texts, all of which are read; a folder, as for `open_text_splits`; or a TFDS
      name.
    split: Its part.
    data_dir: Folder of TFDS data sets.
    text, label: Columns, keys or features of text and label; TFDS knows its own labels.
    label_names: The classes of files in order; None takes those that occur, sorted.

  Raises:
    InputError: See `text_sources`.
  """
  path, columns = pathlib.Path(where).expanduser(), {"text": text, "label": label}
  if path.is_dir() and any((path / name).is_file() for name in _HUGGING_FACE):
    return read_hugging_face(path, split, **columns)
  if path.exists() or path.suffix in _ENDINGS:
    file = _file(path, split) if path.is_dir() else path
    return read_texts(file, **columns, label_names=label_names)
  return open_texts(where, split, data_dir, text=text)


def _of_folder(data: Any, label: str | None) -> tuple[TextDataset, TextDataset]:
  path = pathlib.Path(data.folder).expanduser()
  columns = {"text": data.text, "label": label}
  if path.is_file():
    return hold_out(read_texts(path, **columns), data.held_out)
  if any((path / name).is_file() for name in _HUGGING_FACE):
    train, test = (
      read_hugging_face(path, split, **columns) for split in (data.train_split, data.test_split)
    )
    return train, test
  train = read_texts(_file(path, data.train_split), **columns)
  names = train.label_names or None
  return train, read_texts(_file(path, data.test_split), **columns, label_names=names)


def _file(folder: pathlib.Path, split: str) -> pathlib.Path:
  for ending in _ENDINGS:
    if (folder / f"{split}{ending}").is_file():
      return folder / f"{split}{ending}"
  raise InputError(
    f"{str(folder)!r} is neither a file of texts nor a folder with {split}.csv, .tsv or .jsonl.",
    "Give one of them as --config.data.folder, and the splits' names as --config.data.train_split "
    "and test_split.",
  )

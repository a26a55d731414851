"""The training and evaluation splits of texts, from any source that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
from typing import Any

from bcos_jax.errors import InputError, unknown_name

from .sources import TextDataset, hold_out, open_texts, read_hugging_face, read_texts, renumbered

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
    train, test = (
      open_texts(data.name, split, data.data_dir, text=data.text)
      for split in (data.train_split, data.test_split)
    )
    splits = train, test
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
  split: str = "",
  data_dir: str = "",
  *,
  text: str = "text",
  label: str = "label",
  label_names: Sequence[str] = (),
  held_out: float = 0.2,
) -> TextDataset:
  """Opens one part of texts, to evaluate on.

  Args:
    where: A file of texts; a folder, as for `open_text_splits`; or a TFDS name.
    split: Its part; "" takes "test", and all of a file. Of a file, "train" and "test" are what a
      run trains on and holds out.
    data_dir: Folder of TFDS data sets.
    text: Column, key or feature of the text.
    label: The same of the label; TFDS knows its own labels.
    label_names: The classes of the network, in order; () where they are not known.
    held_out: The share that the run held out of a file.

  Raises:
    InputError: See `text_sources`; classes that the network does not have.
  """
  path, columns = pathlib.Path(where).expanduser(), {"text": text, "label": label}
  if path.is_dir() and any((path / name).is_file() for name in _HUGGING_FACE):
    found = read_hugging_face(path, split or "test", **columns)
  elif path.is_dir():
    found = read_texts(_file(path, split or "test"), **columns)
  elif path.is_file() or path.name.endswith(_ENDINGS):
    found = read_texts(path, **columns)
    if split:
      parts = dict(zip(("train", "test"), hold_out(found, held_out), strict=True))
      if split not in parts:
        raise unknown_name(f"part of {where!r}", split, parts)
      found = parts[split]
  else:
    found = open_texts(where, split or "test", data_dir, text=text)
  return renumbered(found, label_names) if label_names and found.label_names else found


def _of_folder(data: Any, label: str | None) -> tuple[TextDataset, TextDataset]:
  path = pathlib.Path(data.folder).expanduser()
  columns = {"text": data.text, "label": label}
  if path.is_file():
    return hold_out(read_texts(path, **columns), data.held_out)
  if any((path / name).is_file() for name in _HUGGING_FACE):
    train, test = (
      read_hugging_face(path, split, **columns) for split in (data.train_split, data.test_split)
    )
    return train, renumbered(test, train.label_names) if label else test
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

"""The training and evaluation splits of a recipe."""

from __future__ import annotations

from typing import Any

from bcos_jax.configs.sections import KEYS
from bcos_jax.errors import InputError

from .folders import read_folder
from .sources import Dataset, open_dataset
from .unlabelled import read_unlabelled


def open_splits(data: Any) -> tuple[Dataset, Dataset]:
  """Opens the training and the evaluation split that the section `data` of a recipe names.

  Raises:
    InputError: See `read_folder`, `read_unlabelled` and `sources.open_dataset`; or options that do
      not fit together.
  """
  if data.folder and data.unlabelled:
    return read_unlabelled(data.folder, held_out=data.held_out)
  if data.folder:
    pictures = read_folder(data.folder, labels=data.labels, held_out=data.held_out)
    if pictures.split and data.held_out != KEYS["data.held_out"].default:
      raise InputError(
        f"data.held_out={data.held_out} does nothing: {data.folder!r} is split itself, and holds "
        f"out {len(pictures.held_out)} pictures.",
        "Leave out --config.data.held_out.",
      )
    return pictures.dataset("train"), pictures.dataset("test")
  if not data.name:
    raise InputError(
      "Neither folder nor name of the data is set.",
      "Set --config.data.folder to your pictures, or --config.data.name to a TFDS name.",
    )
  train, test = (
    open_dataset(data.name, split, data.data_dir) for split in (data.train_split, data.test_split)
  )
  return train, test

"""Pictures to measure a network on: a user's folder or a TFDS data set, with the network's classes.

A network that was trained on pictures in a folder is measured on those that its training held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import glob
import pathlib
from typing import Any

from bcos_jax.configs.sections import KEYS
from bcos_jax.errors import InputError
from bcos_jax.io.pictures import LISTS

from .folders import Files, read_folder
from .sources import BUILDERS, Dataset, open_dataset

SPLITS = ("train", "test", "all")
_KEPT = ("folder", "labels", "held_out", "damaged")


def trained_on(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns how a bundle's training read its folder of pictures; empty if it read none.

  Args:
    config: Of the bundle. Its recipe is not run: it may be a file of somebody else's code.
  """
  provenance = config.get("provenance", {})
  found = {f"data.{key}": value for key, value in provenance.get("data", {}).items()}
  words = [str(word) for word in provenance.get("overrides", ())]
  for i, word in enumerate(words):
    key, equals, value = word.removeprefix("--config.").partition("=")
    if key in [f"data.{kept}" for kept in _KEPT]:
      found.setdefault(key, value if equals else words[i + 1] if i + 1 < len(words) else "")
  return found if found.get("data.folder") else {}


def described(data: Any) -> dict[str, Any]:
  """Returns what a bundle keeps of the section `data` of its recipe, see `trained_on`."""
  return {key: data.get(key) for key in _KEPT} if data.folder else {}


def located(name: str) -> tuple[pathlib.Path, str, str] | None:
  """Returns the folder, table of labels and pattern of a user's pictures; None for TFDS names.

  Args:
    name: A folder; a table of labels beside its pictures; or a pattern with * ? [ ], below its
      folder.
  """
  path = pathlib.Path(name).expanduser()
  if name.partition("/")[0] in BUILDERS:
    return None
  if path.is_dir():
    return path, "", ""
  if path.is_file() and path.suffix.lower() in LISTS:
    return path.parent, str(path.absolute()), ""
  if not glob.has_magic(name):
    return None
  plain = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
  return (plain, "", str(path.relative_to(plain))) if plain.is_dir() else None


def open_measured(
  name: str,
  split: str = "",
  data_dir: str = "",
  *,
  labels: str = "",
  held_out: float | None = None,
  trained: Mapping[str, Any] | None = None,
) -> tuple[Dataset, str]:
  """Opens a split of a folder of pictures or of a TFDS data set.

  Args:
    name: A folder, as `read_folder` takes it, a table of labels beside its pictures, a pattern of
      pictures in such a folder, or a TFDS name.
    split: Of a folder "train", "test" (held out) or "all"; by default what is held out, where the
      folder says so or the network was trained on pictures in a folder, else all. A TFDS split
      otherwise, by default "test".
    data_dir: Of TFDS data sets.
    labels: A table of labels for the pictures of a folder.
    held_out: Share that training held out; None takes what it had, or its default.
    trained: From `trained_on`.

  Returns:
    The data set, and what it is in words.

  Raises:
    InputError: See `read_folder` and `open_dataset`; or options that do nothing.
  """
  place = located(name)
  if place is None:
    for option, given in (("labels", labels), ("held_out", held_out)):
      if given not in ("", None):
        raise InputError(
          f"--{option}={given} does nothing: {name!r} is no folder of pictures.",
          f"Leave out --{option}, or choose a --split.",
        )
    dataset = open_dataset(name, split or "test", data_dir)
    return dataset, "images"
  folder, table, pattern = place
  trained = trained or {}
  if table and labels:
    raise InputError(f"{name!r} and --labels={labels} are both tables.", "Leave out --labels.")
  if split not in ("", *SPLITS):
    raise InputError(
      f"--split={split} of a folder, expected {', '.join(SPLITS)}.", "For example: --split=all."
    )
  default = float(trained.get("data.held_out", KEYS["data.held_out"].default))
  share = default if held_out is None else held_out
  table = table or labels or trained.get("data.labels", "")
  pictures = read_folder(folder, labels=table, held_out=share, pattern=pattern)
  if pictures.split and held_out is not None:
    raise InputError(
      f"--held_out={held_out} does nothing: {name!r} is split itself.", "Leave out --held_out."
    )
  asked = split or ("test" if pictures.split or trained else "all")
  total = len(pictures.train) + len(pictures.held_out)
  said = {"all": "images", "train": f"training images of {total}"}
  dataset = pictures.dataset(asked)
  return dataset, said.get(asked, f"held-out images of {total} (--split=all takes all)")


def with_classes_of(dataset: Dataset, labels: Sequence[str], count: int) -> Dataset:
  """Returns a data set with the classes of a network, in its order.

  Args:
    dataset: Its classes are found by name among those of the network, some of which it may lack.
      Where no name is known, they are taken in their order.
    labels: Names of the network's classes, () where they are not known.
    count: Their number.

  Raises:
    InputError: Classes that the network does not have.
  """
  own = dataset.label_names
  source: Any = dataset.source
  unknown = [name for name in own if name not in labels]
  in_order = not labels or len(unknown) == len(own)
  if len(own) == count and (in_order or tuple(own) == tuple(labels)):
    return dataset
  if in_order:
    raise InputError(
      f"The network has {count} classes, {dataset.name} has {len(own)}.",
      "Evaluate a network trained on this data set, or name the folders by its classes.",
    )
  if unknown:
    near = difflib.get_close_matches(unknown[0], labels, n=1, cutoff=0.7)
    hint = f"Did you mean {near[0]!r}?" if near else "Remove them, or rename their folders."
    shown = ", ".join(map(repr, unknown[:5]))
    raise InputError(f"The network has no classes {shown}, which {dataset.name} has.", hint)
  if not isinstance(source, Files):
    raise InputError(
      f"The network has {count} classes, {dataset.name} has {len(own)}.",
      "Evaluate a network trained on this data set.",
    )
  places = [labels.index(name) for name in own]
  changed = source.relabelled(places, count)
  return dataclasses.replace(
    dataset, source=changed, label_names=tuple(labels), labels=changed.labels
  )

"""Data sets by name, with random access to encoded examples."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import dataclasses
import io
import os
import pathlib
import re
import tempfile
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds

from bcos_jax.cache import cache_folder
from bcos_jax.errors import InputError, unknown_name

from .digits import Digits
from .part_scenes import PartScenesBuilder
from .shape_scenes import ShapeScenes

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
  "digits": Digits,
  "part_scenes": PartScenesBuilder,
  "shape_scenes": ShapeScenes,
}
DATA_DIR_VARIABLE = "BCOS_JAX_DATA_DIR"


class Records(Protocol):
  """Random access to examples, by number."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One split of a data set.

  Attributes:
    name: For messages, such as "digits:test".
    source: Random access to {"image": bytes of a picture file, "label": int, or 0s and 1s [C]}.
      Where objects are marked, "mask" holds the bytes of one too: 1 on the labelled object.
    label_names: Name of each class.
    labels: All labels, int [N] or uint8 [N, C]; None where they are only known by reading.
    multi_label: Whether a picture may have several labels, or none.
  """

  name: str
  source: Records
  label_names: tuple[str, ...]
  labels: np.ndarray | None = None
  multi_label: bool = False

  def __len__(self) -> int:
    return len(self.source)


def open_dataset(name: str, split: str, data_dir: str = "") -> Dataset:
  """Opens a split of a TFDS image data set stored as array_record.

  The data sets of this project (`BUILDERS`) are prepared on first use. Others must have been
  prepared with `file_format="array_record"`.

  Args:
    name: A TFDS name such as "digits", "shape_scenes/128" or "imagenet2012".
    split: A TFDS split such as "train" or "train[:10%]".
    data_dir: Where data sets are kept; "" takes $BCOS_JAX_DATA_DIR, else, for the data sets of
      this project, the user's cache folder and, for others, TFDS' own default.

  Returns:
    The data set.

  Raises:
    InputError: if it is unknown, not prepared, has no such split, or cannot be written.
  """
  builder = open_builder(name, data_dir, BUILDERS)
  described: Any = builder.info.features
  features = dict(described.items())
  label = features.get("label")
  if not isinstance(label, tfds.features.ClassLabel) or "image" not in features:
    raise InputError(
      f"Data set {name!r} has the features {sorted(features)}; expected a class 'label' and an"
      " 'image'.",
      "Choose an image classification data set.",
    )
  encoded = {
    key: tfds.decode.SkipDecoding()
    for key, feature in features.items()
    if isinstance(feature, tfds.features.Image)
  }
  source = open_split(builder, name, split, encoded)
  return Dataset(f"{name}:{split}", source, tuple(label.names))


def open_builder(
  name: str, data_dir: str, own: dict[str, type[tfds.core.GeneratorBasedBuilder]]
) -> tfds.core.DatasetBuilder:
  """Returns the builder of a data set that is prepared; those of `own` are prepared first.

  Args:
    name: A TFDS name.
    data_dir: As for `open_dataset`.
    own: Data sets of this project, by name.

  Raises:
    InputError: It is unknown, not prepared, or cannot be written.
  """
  data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE, "")
  base, _, variant = name.partition("/")
  if not re.fullmatch(r"[a-zA-Z]\w*(:\d\S*)?", base) or not re.fullmatch(r"[\w./:-]*", variant):
    raise InputError(
      f"There is no file or folder {name!r}, and it is not the name of a data set.",
      "Use an existing file, or a TFDS name such as imdb_reviews.",
    )
  if base not in own:
    return _found(name, data_dir, own)
  root = pathlib.Path(data_dir or cache_folder("data")).expanduser()
  return _prepared(own[base], root, variant)


def open_split(
  builder: tfds.core.DatasetBuilder, name: str, split: str, decoders: dict[str, Any] | None = None
) -> Records:
  """Returns a split of a prepared data set, or raises InputError if it has no such split."""
  try:
    read: Any = builder.as_data_source  # a decorator of TFDS hides its arguments
    return read(split, decoders=decoders)
  except (ValueError, KeyError) as error:
    raise unknown_name(f"split of {name!r}", split, builder.info.splits) from error


def with_label_noise(dataset: Dataset, share: float, seed: int) -> Dataset:
  """Returns a data set with a share of its labels redrawn, all classes equally likely.

  A network that is trained on random labels is what the explanations of a trained one are checked
  against (arXiv 1810.03292, section 5).

  Args:
    dataset: With one label per picture.
    share: In [0, 1]; 0 returns the data set as it is.
    seed: Of the labels; that of an example depends on its number alone.

  Raises:
    InputError: A share outside [0, 1], or pictures with several labels.
  """
  if not 0 <= share <= 1:
    raise InputError(f"data.label_noise={share}, expected a share in [0, 1].", "Use 0 for none.")
  if not share:
    return dataset
  if dataset.multi_label:
    raise InputError(
      f"Pictures of {dataset.name} may have several labels, which label noise cannot replace.",
      "Set --config.data.label_noise=0.",
    )
  random = np.random.default_rng(seed)
  drawn = random.integers(len(dataset.label_names), size=len(dataset))
  kept = random.random(len(dataset)) >= share
  labels = None if dataset.labels is None else np.where(kept, dataset.labels, drawn)
  return dataclasses.replace(
    dataset,
    name=f"{dataset.name} with label noise",
    source=_Relabelled(dataset.source, drawn, kept),
    labels=labels,
  )


@dataclasses.dataclass(frozen=True)
class _Relabelled:
  """Examples with other labels where they are not `kept`."""

  source: Records
  labels: np.ndarray
  kept: np.ndarray

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self.source[index]
    return record if self.kept[index] else {**record, "label": int(self.labels[index])}


def _prepared(
  kind: type[tfds.core.GeneratorBasedBuilder], root: pathlib.Path, variant: str
) -> tfds.core.DatasetBuilder:
  """Prepares a data set of this project unless it is there.

  It is written in a private folder and moved into place in one step, so an interruption leaves
  nothing half-made and of two processes the first wins.
  """
  variants = [config.name for config in kind.BUILDER_CONFIGS]
  if variant and variant not in variants:
    raise unknown_name(f"variant of {kind.name!r}", variant, variants)
  final = pathlib.Path(_builder(kind, root, variant).data_path)
  if not final.is_dir():
    try:
      final.parent.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory(prefix=f".{kind.name}-", dir=root) as folder:
        builder = _builder(kind, folder, variant)
        with quiet():
          builder.download_and_prepare()
        _move(pathlib.Path(builder.data_path), final)
    except OSError as error:
      raise InputError(
        f"Cannot write the data set {kind.name!r} to {str(root)!r}: {error}.",
        f"Set --config.data.data_dir or ${DATA_DIR_VARIABLE} to a folder that can be written.",
      ) from error
  return _builder(kind, root, variant)


def _builder(
  kind: type[tfds.core.GeneratorBasedBuilder], root: Any, variant: str
) -> tfds.core.DatasetBuilder:
  return kind(config=variant or None, data_dir=os.fspath(root), file_format="array_record")


def _move(made: pathlib.Path, final: pathlib.Path) -> None:
  try:
    os.rename(made, final)
  except OSError:
    if not final.is_dir():  # Else another process was first, with the same content.
      raise


def _found(name: str, data_dir: str, own: Iterable[str]) -> tfds.core.DatasetBuilder:
  try:
    builder = tfds.builder(name, data_dir=data_dir or None, file_format="array_record")
  except tfds.core.DatasetNotFoundError as error:
    raise unknown_name("data set", name, own) from error
  if not builder.info.splits:
    raise InputError(
      f"Data set {name!r} is not prepared in {str(builder.data_path)!r}.",
      'Prepare it there with TFDS and file_format="array_record", or set --config.data.data_dir.',
    )
  return builder


@contextlib.contextmanager
def quiet():
  """Swallows TFDS' own messages and progress bars; exceptions pass."""
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    yield

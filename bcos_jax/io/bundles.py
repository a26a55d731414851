"""Saved networks: a bundle is a folder with `model.safetensors` and `config.json`.

The configuration holds everything that a network needs beside its weights: architecture, layer
family, input encoding, preprocessing, labels, and where it came from. Nothing in it is code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from flax import linen as nn
from flax import traverse_util
import numpy as np

from .. import models, ops
from ..errors import InputError, unknown_name
from ..inputs import Preprocess
from ..variables import abstract_variables, differences
from .default_reading import default_preprocess
from .files import check_new
from .placement import Placement, placed
from .tensor_files import read_safetensors, write_safetensors

FORMAT = 1
_KEYS = {*"format architecture fields ops preprocess provenance labels module".split()}
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
TOKENIZER, EXAMPLES = "tokenizer", "examples"  # folders, where there are any
CLOSED_FORM = ("closed_form.png", "closed_form.html")  # explanations before and after, likewise
_SHOWN = 5  # problems in a message; a wrong network has hundreds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
  """A network with all that belongs to it.

  Attributes:
    model: The Flax module.
    variables: Its variables.
    preprocess: From a picture to an array in [0, 1], as its evaluation does it; None for networks
      that read text.
    labels: Names of the classes, or () where they are not known.
    config: Format, architecture, fields, ops, preprocess and provenance, as plain values.
    extras: Tensors of the source checkpoint that the network has no use for, by source key; kept
      so that converting back gives the very same file.
    tokenizer: Files of the tokenizer of a language model, by name; empty where there is none.
    examples: Files of pictures or texts to try the network on, or ().
  """

  model: nn.Module
  variables: Mapping[str, Any]
  preprocess: Preprocess | None
  labels: tuple[str, ...] = ()
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  extras: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  tokenizer: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
  examples: tuple[pathlib.Path, ...] = ()


def make_bundle(
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  preprocess: Preprocess | None = None,
  labels: Sequence[str] = (),
  provenance: Mapping[str, Any] | None = None,
  extras: Mapping[str, np.ndarray] | None = None,
  tokenizer: Mapping[str, bytes] | None = None,
) -> Bundle:
  """Returns a bundle in memory; arguments as for `save`.

  Raises:
    InputError: The labels do not fit the classes, or the variables do not fit the model.
  """
  name, fields = models.describe(model)
  labels = _checked_labels(model, labels)
  _check_variables(model, variables, "The variables")
  if preprocess is None and _reads_images(model):
    preprocess = default_preprocess(model)
  config = {
    "format": FORMAT,
    "architecture": name,
    "fields": fields,
    "ops": ops.to_dict(dataclasses.replace(model.ops, detach=False)),
    "preprocess": None if preprocess is None else dataclasses.asdict(preprocess),
    "provenance": dict(provenance or {}),
  }
  if not models.architecture_of(model).own and (module := _module(model)):
    config["module"] = module  # what to import before the bundle is read
  config = json.loads(json.dumps(config))
  return Bundle(
    model=model,
    variables=variables,
    preprocess=preprocess,
    labels=labels,
    config=config,
    extras=dict(extras or {}),
    tokenizer=dict(tokenizer or {}),
  )


def _module(model: nn.Module) -> str:
  own = isinstance(model, models.BaseNetwork)
  return model.imported_from if own else type(model).__module__


def _reads_images(model: nn.Module) -> bool:
  """Whether the input is an encoded image; token ids are integers."""
  return model.reads == "images"


def _checked_labels(model: nn.Module, labels: Sequence[str]) -> tuple[str, ...]:
  labels = tuple(map(str, labels))
  if labels and len(labels) != model.num_classes:
    raise InputError(
      f"Got {len(labels)} labels for {model.num_classes} classes.",
      "Give one label per class, or none.",
    )
  return labels


def save(
  folder: str | os.PathLike,
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  preprocess: Preprocess | None = None,
  labels: Sequence[str] = (),
  provenance: Mapping[str, Any] | None = None,
  extras: Mapping[str, np.ndarray] | None = None,
  tokenizer: Mapping[str, bytes] | None = None,
  examples: Iterable[str | os.PathLike] = (),
) -> pathlib.Path:
  """Writes a bundle: the folder is complete or it is not there.

  Args:
    folder: Where to; replaced if it is a bundle already.
    model: The network.
    variables: Its variables.
    preprocess: How its evaluation reads pictures; None derives it from `model.image_size`,
      where the network reads images.
    labels: Names of the classes, in order.
    provenance: Plain values that record the origin of the network.
    extras: See `Bundle`.
    tokenizer: See `Bundle`.
    examples: See `Bundle`; they are copied.

  Returns:
    The folder.

  Raises:
    InputError: The folder cannot be written or holds something else; bad labels or variables.
  """
  bundle = make_bundle(
    model,
    variables,
    preprocess=preprocess,
    labels=labels,
    provenance=provenance,
    extras=extras,
    tokenizer=tokenizer,
  )
  folder = check_replaceable(folder)
  leaves: dict[Any, Any] = traverse_util.flatten_dict(bundle.variables, sep="/")
  leaves |= {f"extras/{key}": leaf for key, leaf in bundle.extras.items()}
  with replacing(folder) as staged:
    write_safetensors(staged / _WEIGHTS, leaves)
    config = {**bundle.config, "labels": list(bundle.labels)}
    (staged / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_files(staged / TOKENIZER, bundle.tokenizer)
    write_files(staged / EXAMPLES, {p.name: p.read_bytes() for p in map(pathlib.Path, examples)})
  return folder


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields an empty folder that takes the place of another at the end, unless something fails.

  Raises:
    InputError: The folder cannot be written.
  """
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
      staged = pathlib.Path(temporary) / "bundle"
      staged.mkdir()
      yield staged
      _replace(folder, staged, pathlib.Path(temporary) / "replaced")
  except OSError as error:
    raise InputError(
      f"Cannot write {str(folder)!r}: {error.strerror or error}.",
      "Choose a writable folder on a disk with free space.",
    ) from error


def write_files(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes files by name into a folder, which is made if there are any."""
  for name, content in files.items():
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def check_replaceable(folder: str | os.PathLike) -> pathlib.Path:
  """Returns the folder, if a bundle may be written there.

  Raises:
    InputError: It holds something that is not a bundle, or cannot be made.
  """
  folder = check_new(folder)
  if folder.exists() and not is_bundle(folder) and (not folder.is_dir() or any(folder.iterdir())):
    raise InputError(f"{str(folder)!r} exists and is not a bundle.", "Choose a new folder.")
  return folder


def is_bundle(folder: pathlib.Path) -> bool:
  """Whether a folder holds a bundle and nothing else, so that no other files are overwritten."""
  found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  if found - {TOKENIZER, EXAMPLES, *CLOSED_FORM} != {_WEIGHTS, _CONFIG}:
    return False
  return has_bundle_config(folder)


def has_bundle_config(folder: pathlib.Path) -> bool:
  """Whether a folder's configuration is that of a bundle, whatever else is there.

  Repositories of the Hugging Face hub have files of the same names.
  """
  try:
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return False
  return isinstance(config, dict) and {"format", "architecture", "ops"} <= config.keys()


def _replace(folder: pathlib.Path, staged: pathlib.Path, aside: pathlib.Path):
  if folder.exists():
    folder.rename(aside)
  try:
    staged.rename(folder)
  except BaseException:
    if aside.exists():
      aside.rename(folder)
    raise


def load(folder: str | os.PathLike, *, sharding: Placement | None = None) -> Bundle:
  """Reads a bundle.

  Args:
    folder: What `save` wrote.
    sharding: Where to put the variables: one sharding for all, a tree of shardings like the
      variables, or a function (path, shape) -> sharding, where a path is
      `collection/module/.../leaf`. Each device gets its shards straight from the file, so that no
      device and no process holds a full copy. None gives NumPy arrays.

  Raises:
    InputError: A file is missing, truncated or from a later format; tensors do not fit the
      architecture that the configuration names; a sharding that does not fit.
  """
  folder = pathlib.Path(folder)
  bundle = without_weights(folder)
  model = bundle.model
  try:
    tensors = read_safetensors(folder / _WEIGHTS)
  except InputError as error:
    raise InputError(
      f"Cannot read {_WEIGHTS} in {str(folder)!r}: {error.cause}",
      "The file is missing or damaged: copy or save the bundle again.",
    ) from error
  extras = {
    key.removeprefix("extras/"): tensors.pop(key).read()
    for key in list(tensors)
    if key.startswith("extras/")
  }
  _check_variables(
    model, traverse_util.unflatten_dict(tensors, sep="/"), f"The tensors in {str(folder)!r}"
  )
  variables = placed(traverse_util.unflatten_dict(tensors, sep="/"), sharding)
  return dataclasses.replace(bundle, variables=variables, extras=extras)


def without_weights(folder: str | os.PathLike) -> Bundle:
  """Reads a bundle but for its weights: its variables are empty. Errors as for `load`."""
  folder = pathlib.Path(folder)
  config = _read_config(folder)
  try:
    _check_registered(folder, config)
    model = models.create(
      config["architecture"],
      ops=ops.from_dict(config["ops"]),
      **{
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["fields"].items()
      },
    )
    preprocess = Preprocess(**config["preprocess"]) if _reads_images(model) else None
    labels = _checked_labels(model, config.pop("labels"))
  except (KeyError, TypeError) as error:
    raise InputError(
      f"{_CONFIG} in {str(folder)!r} is incomplete: {error}.", "Save the network again."
    ) from error
  return Bundle(
    model=model,
    variables={},
    preprocess=preprocess,
    labels=labels,
    config=config,
    tokenizer={path.name: path.read_bytes() for path in _files(folder / TOKENIZER)},
    examples=tuple(_files(folder / EXAMPLES)),
  )


def _check_registered(folder: pathlib.Path, config: Mapping[str, Any]):
  name, module = config["architecture"], config.get("module")
  if not models.is_registered(name):
    raise InputError(
      f"{str(folder)!r} holds the architecture {name!r}, which is not registered.",
      f"Import the module that registers it first ({module or 'your own'}); commands take "
      f"--import={module or 'MODULE'}.",
    )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  if not (folder / _CONFIG).is_file():
    raise InputError(
      f"{str(folder)!r} is not a bundle: it has no {_CONFIG}.",
      "Give a folder written by bcos_jax.save or `bcos-jax`.",
    )
  try:
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    version = config["format"]
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise InputError(
      f"Cannot read {_CONFIG} in {str(folder)!r}: {error}.",
      "The file is damaged: copy or save the bundle again.",
    ) from error
  if version != FORMAT:
    raise InputError(
      f"{str(folder)!r} has bundle format {version}, expected {FORMAT}.", "Update bcos_jax."
    )
  if strange := sorted(config.keys() - _KEYS):
    raise unknown_name(f"key of {_CONFIG} in {str(folder)!r}", strange[0], _KEYS)
  return config


def _check_variables(model: nn.Module, variables: Mapping[str, Any], whose: str):
  wanted: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  given: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  problems = differences(wanted, given)
  if problems:
    shown = "; ".join(problems[:_SHOWN])
    if len(problems) > _SHOWN:
      shown += f"; and {len(problems) - _SHOWN} more problems"
    raise InputError(
      f"{whose} do not fit {models.describe(model)[0]}: {shown}.",
      "Use the variables of this architecture, layer family and class count.",
    )


def check_writable(folder: str | os.PathLike) -> pathlib.Path:
  """Creates a folder and proves that it can be written to, before any work is done.

  Raises:
    InputError: It cannot.
  """
  folder = check_new(folder)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    probe = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix=".probe-"))
    shutil.rmtree(probe)
  except OSError as error:
    cause = f"Cannot write to {str(folder)!r}: {error.strerror or error}."
    raise InputError(cause, "Choose a writable folder.") from error
  return folder

"""Output formats of conversions, written atomically."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import tempfile

import jax

from bcos_jax.errors import InputError, unknown_name
from bcos_jax.io import bundles, hub
from bcos_jax.io.bundles import Bundle
from bcos_jax.io.files import check_name, check_new
from bcos_jax.io.tensor_files import write_safetensors

from .programs.networks import state_dict_of
from .readers import writing
from .state_dict import to_state_dict
from .tables.keys import all_layouts

BUNDLE, ORBAX, STATE_DICT = "bundle", "orbax", "state_dict"
_VARIABLES = "variables"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def names() -> tuple[str, ...]:
  """Returns what may be written.

  A bundle, an Orbax checkpoint, every layout of checkpoints, and for networks that were read from
  programs of PyTorch the names of their own modules.
  """
  return (BUNDLE, ORBAX, STATE_DICT, *all_layouts())


def check(destination: str | os.PathLike, to: str) -> pathlib.Path:
  """Returns the path of a target, if it may be written.

  Raises:
    InputError: An unknown kind of target, or a place that holds something else.
  """
  path = check_new(destination)
  if to not in names():
    raise unknown_name("target", to, names())
  check_name(path)
  if to == BUNDLE:
    return bundles.check_replaceable(path)
  if path.exists():
    raise InputError(f"{str(path)!r} exists.", "Choose a new name, or remove it first.")
  if _is_file(path) and to == ORBAX:
    raise InputError(f"{str(path)!r} names a file.", "An Orbax checkpoint is a folder.")
  return path


def write(bundle: Bundle, destination: str | os.PathLike, to: str = BUNDLE) -> pathlib.Path:
  """Writes a network.

  Args:
    bundle: The network.
    destination: A folder; or, for a layout, a name that ends in .safetensors. A folder
      for the layout 'huggingface' also gets the configuration that the network came with.
    to: One of `names()`.

  Returns:
    What was written.

  Raises:
    InputError: The network has no such layout, or the place cannot be written.
  """
  path = check(destination, to)
  if to == BUNDLE:
    return bundles.save(
      path,
      bundle.model,
      bundle.variables,
      preprocess=bundle.preprocess,
      labels=bundle.labels,
      provenance=bundle.config["provenance"],
      extras=bundle.extras,
      tokenizer=bundle.tokenizer,
      examples=bundle.examples,
    )
  with _staged(path) as staged:
    if to == ORBAX:
      _write_orbax(bundle, staged)
    else:
      _write_layout(bundle, staged, to, _is_file(path))
  return path


def _write_layout(bundle: Bundle, staged: pathlib.Path, to: str, as_file: bool):
  state = state_dict_of(bundle) if to == STATE_DICT else to_state_dict(bundle, to)
  # transformers asks for the framework's name.
  about = {"format": "pt"}
  if as_file:
    write_safetensors(staged, state, about)
    return
  staged.mkdir()
  write_safetensors(staged / _WEIGHTS, state, about)
  about = bundle.config["provenance"]
  config = writing.config_of(bundle) if to == writing.LAYOUT else None
  if config is None and to == about.get("source") and about.get("source_config") is not None:
    config = {**about["source_config"], **writing.classes_of(bundle, about["source_config"])}
  if config is None:
    return
  _write_json(staged / _CONFIG, config)
  if (preprocessor := writing.preprocessor_of(bundle)) is not None and to == writing.LAYOUT:
    _write_json(staged / hub.PREPROCESSOR, preprocessor)
  bundles.write_files(staged, bundle.tokenizer)


def _write_orbax(bundle: Bundle, staged: pathlib.Path):
  import orbax.checkpoint as ocp

  staged.mkdir()
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(
      (staged / _VARIABLES).absolute(), jax.tree.map(jax.numpy.asarray, dict(bundle.variables))
    )
  _write_json(staged / _CONFIG, {**bundle.config, "labels": list(bundle.labels)})


def _write_json(path: pathlib.Path, value: object):
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _is_file(path: pathlib.Path) -> bool:
  return path.suffix == ".safetensors"


@contextlib.contextmanager
def _staged(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary path that is renamed to the target only on success."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
      staged = pathlib.Path(temporary) / path.name
      yield staged
      staged.rename(path)
  except OSError as error:
    raise InputError(
      f"Cannot write {str(path)!r}: {error.strerror or error}.",
      "Choose a writable folder on a disk with free space.",
    ) from error

"""Opening of networks, whatever they were saved by."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings

from ..errors import InputError
from ..io import bundles, hub
from ..io.placement import Placement, placed
from ..io.tensor_files import read_safetensors
from .network import Network


def load(
  source: str | os.PathLike,
  *,
  download: bool = False,
  sharding: Placement | None = None,
  architecture: str | None = None,
  layout: str | None = None,
) -> Network:
  """Opens a network.

  Args:
    source: A bundle, what `save` wrote; a folder of Hugging Face or timm; a checkpoint file
      (.safetensors, .pth and others), beside its config.json or with `architecture`; a program of
      PyTorch (.pt2), which is given colours in [0, 1]; or a hub id, `owner/name` or
      `owner/name@revision` ("hf:owner/name" where a folder of that name exists).
    download: Lets a hub id be fetched; otherwise it must be in the cache.
    sharding: Where to put the variables, see `io.bundles.load`. None gives NumPy arrays.
    architecture: Name of the architecture, where the source does not say it.
    layout: How a checkpoint names its tensors; None finds out.

  Returns:
    The network with its preprocessing, labels and tokenizer.

  Raises:
    InputError: The source is missing or damaged, or of no known kind; see `convert`.
  """
  path = located(source, download=download)
  if holds_bundle(path):
    for name, value in (("architecture", architecture), ("layout", layout)):
      if value is not None:
        raise InputError(
          f"{name}={value!r} would do nothing: {str(source)!r} is a bundle, which says it.",
          f"Leave out {name}.",
        )
    return Network.of(bundles.load(path, sharding=sharding))
  bundle = _converted(path, str(source), architecture, layout)
  if sharding is not None:
    bundle = dataclasses.replace(bundle, variables=placed(bundle.variables, sharding))
  return Network.of(bundle)


def located(source: str | os.PathLike, *, download: bool = False) -> pathlib.Path:
  """Returns the file or folder that a source names; of a hub id, its folder in the cache.

  Args:
    source: As for `load`.
    download: As for `load`.

  Raises:
    InputError: There is none.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_file() and bundles.has_bundle_config(path.parent):
    path = path.parent  # a file of a bundle
  if path.exists():
    return path
  if not hub.is_meant(str(source)):
    raise hub.no_path(str(source))
  return hub.snapshot(str(source), download=download)


def holds_bundle(path: pathlib.Path) -> bool:
  """Whether a folder is to be read as a bundle: it is one, or no checkpoint of another kind."""
  if not path.is_dir():
    return False
  if bundles.has_bundle_config(path) or _has_leaves(path / hub.WEIGHTS[0]):
    return True
  return not any((path / name).is_file() for name in (*hub.WEIGHTS, *hub.CONFIGS))


def _has_leaves(weights: pathlib.Path) -> bool:
  """Whether a file names its tensors as bundles do, though its configuration is damaged."""
  try:
    return any(key.startswith("params/") for key in read_safetensors(weights))
  except InputError:
    return False


def _converted(
  path: pathlib.Path, source: str, architecture: str | None, layout: str | None
) -> bundles.Bundle:
  from .. import convert

  if path.suffix == convert.SUFFIX and path.is_file():
    return _exported(path, source, {"architecture": architecture, "layout": layout})
  if not pathlib.Path(source).expanduser().exists():
    return convert.from_pretrained(source, architecture, layout=layout)  # in the cache by now
  if path.is_file() and architecture is None and (path.parent / "config.json").is_file():
    # A file beside its configuration, as the hub has it, is read like its folder.
    if path.name in hub.WEIGHTS:
      path = path.parent
  return convert.from_pretrained(path, architecture, layout=layout)


def _exported(path: pathlib.Path, source: str, given: dict[str, str | None]) -> bundles.Bundle:
  from .. import convert

  for name, value in given.items():
    if value is not None:
      raise InputError(
        f"{name}={value!r} would do nothing: {source!r} is a program, whose network is in it.",
        f"Leave out {name}.",
      )
  warnings.warn(
    f"{path.name} does not say how pictures are normalised, and is given colours in [0, 1]. If it "
    f"wants others: bcos-jax convert {path.name} BUNDLE --mean=0.485,0.456,0.406 "
    "--std=0.229,0.224,0.225",
    stacklevel=4,
  )
  return convert.from_exported(path)

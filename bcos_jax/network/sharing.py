"""Networks for others: a folder or a repository of the hub that holds a bundle and its card."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import re
import tempfile
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..io import bundles, upload
from . import card, showing

if TYPE_CHECKING:
  from .network import Network

CARD = "README.md"
_OWN = {"model.safetensors", "config.json", CARD, showing.FIGURE}
_FOLDERS = {bundles.TOKENIZER, bundles.EXAMPLES}
_ABSOLUTE = re.compile(r"(--[\w.]+=)?(?:~|[A-Za-z]:)?[/\\].*?([^/\\]*)[/\\]*", re.DOTALL)


def save(
  network: Network,
  folder: str | os.PathLike,
  *,
  name: str = "",
  examples: Any = None,
  stated: card.Stated,
  overwrite: bool = False,
) -> pathlib.Path:
  """Writes what `Network.save_pretrained` says."""
  folder = _checked(pathlib.Path(folder), overwrite)
  if name:
    upload.check_id(name)
  with bundles.replacing(folder) as staged:
    _write(network, staged, name or folder.absolute().name, examples, stated)
  return folder


def push(
  network: Network,
  name: str,
  *,
  private: bool | None = None,
  examples: Any = None,
  stated: card.Stated,
  overwrite: bool = False,
) -> str:
  """Uploads what `Network.push_to_hub` says, and returns the address of the commit."""
  where = upload.destination(name, private=private, overwrite=overwrite)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / "repository"
    _write(network, folder, where.id, examples, stated)
    stale = [file for file in where.files if _is_own(file) and not (folder / file).exists()]
    message = f"A {network.name} network of bcos_jax"
    return upload.push(folder, where, stale=stale, message=message)


def _write(
  network: Network, folder: pathlib.Path, name: str, examples: Any, stated: card.Stated
) -> None:
  """Writes a bundle and its card into an empty folder."""
  provenance = published(network.config["provenance"])
  network = dataclasses.replace(network, config={**network.config, "provenance": provenance})
  shown = showing.show(network, examples)
  bundles.save(
    folder,
    network.model,
    network.variables,
    preprocess=network.preprocess,
    labels=network.labels,
    provenance=provenance,
    extras=network.extras,
    tokenizer=network.tokenizer,
    examples=network.examples,
  )
  text = card.write(network, name, shown, stated)
  (folder / CARD).write_text(text, encoding="utf-8")
  if shown and shown.figure:
    (folder / showing.FIGURE).write_bytes(shown.figure)


def published(value: Any) -> Any:
  """Returns plain values whose absolute paths are cut to their last part: others need no more."""
  if isinstance(value, Mapping):
    return {key: published(one) for key, one in value.items()}
  if isinstance(value, list | tuple):
    return [published(one) for one in value]
  if isinstance(value, str) and (found := _ABSOLUTE.fullmatch(value)):
    return (found[1] or "") + found[2]
  return value


def _is_own(file: str) -> bool:
  first, _, rest = file.partition("/")
  return first in _FOLDERS if rest else file in _OWN


def _checked(folder: pathlib.Path, overwrite: bool) -> pathlib.Path:
  """Returns the folder if it may be written: new, a bundle, or one written here before."""
  held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
  if CARD not in held or held - _OWN - _FOLDERS or not bundles.has_bundle_config(folder):
    return bundles.check_replaceable(folder)
  if not overwrite:
    raise InputError(
      f"{str(folder)!r} holds a network and its card already.",
      "Choose a new folder, or pass overwrite=True.",
    )
  return folder

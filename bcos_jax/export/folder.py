"""Exported folders: the file that runs, a manifest that describes it, and a page for people.

The manifest, `manifest.json`, has the format's version, the hash of the file, every input and
output, the preprocessing of pictures, the labels, and what was checked when it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
import os
import pathlib
from typing import Any

from ..errors import InputError
from ..io import bundles
from ..io.files import check_new

FORMAT = 1
MANIFEST, README, TOKENIZER = "manifest.json", "README.md", "tokenizer"


def check_destination(folder: str | os.PathLike) -> pathlib.Path:
  """Returns the folder, if an export may be written there: it is new, empty, or an older export.

  Raises:
    InputError: It holds something else, or cannot be made.
  """
  folder = check_new(folder)
  if folder.exists() and not is_export(folder) and (not folder.is_dir() or any(folder.iterdir())):
    raise InputError(f"{str(folder)!r} exists and is not an export.", "Choose a new folder.")
  return folder


def is_export(folder: pathlib.Path) -> bool:
  """Whether a folder holds an export and nothing else, so that no other files are overwritten."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    listed = {MANIFEST, *manifest["files"]}
  except (OSError, ValueError, KeyError, TypeError):
    return False
  found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
  return found <= listed


def write(folder: pathlib.Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
  """Writes files by path and the manifest that lists them; the folder is complete or not there."""
  with bundles.replacing(folder) as staged:
    for name, content in files.items():
      path = staged / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
    listed = {
      name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
      for name, content in files.items()
    }
    text = json.dumps({"format": FORMAT, **manifest, "files": listed}, indent=2)
    (staged / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read(folder: str | os.PathLike) -> dict[str, Any]:
  """Returns the manifest of an export, its files compared with their hashes.

  Raises:
    InputError: No export, one of another version, or a file that is damaged.
  """
  folder = pathlib.Path(folder)
  if not (folder / MANIFEST).is_file():
    raise InputError(
      f"{str(folder)!r} is not an export: it has no {MANIFEST}.",
      "Give a folder written by bcos-jax export.",
    )
  try:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    version, listed = manifest["format"], manifest["files"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"Cannot read {MANIFEST} in {str(folder)!r}: {error}.", "Export the network again."
    ) from error
  if version != FORMAT:
    raise InputError(
      f"{str(folder)!r} has export format {version}, expected {FORMAT}.",
      "Update bcos_jax, or export the network again.",
    )
  for name, told in listed.items():
    path = folder / name
    content = path.read_bytes() if path.is_file() else None
    if content is None or hashlib.sha256(content).hexdigest() != told["sha256"]:
      what = "missing" if content is None else "damaged, or another file"
      raise InputError(f"{name} in {str(folder)!r} is {what}.", "Copy or export it again.")
  return manifest

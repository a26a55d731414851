"""A page that explains pictures in a browser, offline: the ONNX file, a runtime, a few scripts.

Browsers let a page from the disk load scripts and nothing else, so that the network and the
runtime's files are scripts too: gzipped, and written as base64.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
import gzip
import io
import json
import os
import pathlib
import tarfile
from typing import Any

from ..errors import InputError
from ..network import Network

RUNTIME = "onnxruntime-web"
VERSION = "1.30.0"
_MODULE, _WASM = "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
_SCRIPT = "ort.wasm.min.js"
_FILES = (_SCRIPT, _MODULE, _WASM)
_ASSETS = pathlib.Path(__file__).parent / "assets"
_CHUNK = 3 * 2**20  # bytes behind a string; browsers limit those of strings
_EXAMPLES, _LONGEST = 6, 512  # pictures, and pixels of a side


def files(
  network: Network, manifest: Mapping[str, Any], model: bytes, runtime: str | os.PathLike
) -> dict[str, bytes]:
  """Returns the files of the page by path; open index.html.

  Args:
    network: Whose examples are offered.
    manifest: Of the export.
    model: Content of the ONNX file.
    runtime: The npm package onnxruntime-web: its folder, one with node_modules, or a .tgz.

  Raises:
    InputError: No such package, or another version.
  """
  read = _package(runtime)
  parts = {
    "version": VERSION,
    "module": packed(read(f"dist/{_MODULE}")),
    "wasm": packed(read(f"dist/{_WASM}")),
  }
  about = {"manifest": manifest, "examples": _examples(network), "model": packed(model)}
  made = {path.name: path.read_bytes() for path in sorted(_ASSETS.iterdir()) if path.is_file()}
  made["network.js"] = f"const NETWORK = {json.dumps(about)};\n".encode()
  made["runtime/files.js"] = f"const RUNTIME = {json.dumps(parts)};\n".encode()
  made[f"runtime/{_SCRIPT}"] = read(f"dist/{_SCRIPT}")
  made["runtime/package.json"] = read("package.json")
  return made


def check_runtime(runtime: str | os.PathLike | None) -> None:
  """Checks that a package is there and of the right version, before any work is done.

  Raises:
    InputError: It is not.
  """
  if runtime is None:
    raise InputError(
      f"A page for browsers needs the npm package {RUNTIME} {VERSION}, and none is given.",
      f"Run npm pack {RUNTIME}@{VERSION}, and give the file as "
      f"--onnxruntime_web={RUNTIME}-{VERSION}.tgz.",
    )
  _package(runtime)


def _package(runtime: str | os.PathLike) -> Any:
  """Returns what reads a file of the package, by its path there."""
  path = pathlib.Path(runtime)
  if path.is_file():
    read = _of_archive(path)
  else:
    inside = path / "node_modules" / RUNTIME
    root = inside if inside.is_dir() else path

    def read(name: str) -> bytes:
      return (root / name).read_bytes()

  try:
    told = json.loads(read("package.json"))
    name, version = told["name"], told["version"]
    for each in _FILES:
      read(f"dist/{each}")
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{str(path)!r} is not the npm package {RUNTIME}: {error}.",
      f"Run npm pack {RUNTIME}@{VERSION}, and give the file that it writes.",
    ) from error
  if (name, version) != (RUNTIME, VERSION):
    raise InputError(
      f"{str(path)!r} is {name} {version}, expected {RUNTIME} {VERSION}.",
      f"Run npm pack {RUNTIME}@{VERSION}, and give the file that it writes.",
    )
  return read


def _of_archive(path: pathlib.Path) -> Any:
  wanted = {f"package/{name}" for name in ("package.json", *(f"dist/{n}" for n in _FILES))}
  try:
    with tarfile.open(path) as archive:
      found = {
        member.name.removeprefix("package/"): stream.read()
        for member in archive
        if member.name in wanted and (stream := archive.extractfile(member)) is not None
      }
  except (tarfile.TarError, OSError, EOFError) as error:
    raise InputError(
      f"Cannot read {str(path)!r}: {error}.",
      f"Run npm pack {RUNTIME}@{VERSION}, and give the file that it writes.",
    ) from error
  return found.__getitem__


def packed(content: bytes) -> list[str]:
  """Returns bytes as strings: gzipped, in parts, as base64."""
  small = gzip.compress(content, 6, mtime=0)
  starts = range(0, len(small), _CHUNK)
  return [base64.b64encode(small[start : start + _CHUNK]).decode() for start in starts]


def _examples(network: Network) -> list[dict[str, str]]:
  """Returns the pictures that came with a network, small, as data of a page."""
  from PIL import Image

  found = []
  for path in network.examples[:_EXAMPLES]:
    try:
      with Image.open(path) as picture:
        seen = picture.convert("RGB")
    except OSError:  # a file of texts
      continue
    seen.thumbnail((_LONGEST, _LONGEST))
    buffer = io.BytesIO()
    seen.save(buffer, format="PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    found.append({"name": path.stem, "url": url})
  return found

"""Results that say what they were measured on, so that anybody can recompute them.

A result names the network, the data and the settings by their hashes, and has a seal: a hash of
all else in it, which shows that nothing was edited. It is no proof of who measured: that is what
recomputing is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import hashlib
import json
import math
import pathlib
import platform
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from bcos_jax import __version__
from bcos_jax.errors import InputError
from bcos_jax.io import files
from bcos_jax.io.bundles import Bundle

FORMAT = 1
KIND = "bcos_jax benchmark"
_KEYS = {"kind", "format", "network", "data", "settings", "versions", "scores", "skipped"}
_LEAST = 1e-9  # absolute difference below which numbers are equal


def hash_of_network(bundle: Bundle) -> str:
  """Returns the hash of a network's weights, architecture, layers and preprocessing."""
  found = hashlib.sha256()
  kept = ("architecture", "fields", "ops", "preprocess")
  found.update(_canonical({key: bundle.config.get(key) for key in kept}))
  flat: dict[Any, Any] = traverse_util.flatten_dict(bundle.variables, sep="/")
  for path in sorted(flat):
    leaf = np.ascontiguousarray(flat[path])
    found.update(f"{path} {leaf.dtype} {leaf.shape}\n".encode())
    found.update(leaf.tobytes())
  return found.hexdigest()


def hash_of_arrays(*arrays: np.ndarray) -> str:
  """Returns the hash of arrays, their types and shapes included."""
  found = hashlib.sha256()
  for array in arrays:
    found.update(f"{array.dtype} {array.shape}\n".encode())
    found.update(np.ascontiguousarray(array).tobytes())
  return found.hexdigest()


def versions() -> dict[str, str]:
  """Returns what computed: numbers may differ in the last digits elsewhere."""
  return {
    "bcos_jax": __version__,
    "jax": jax.__version__,
    "numpy": np.__version__,
    "python": platform.python_version(),
    "device": jax.devices()[0].device_kind,
  }


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a result with its seal; NaN becomes None, which JSON has."""
  plain = {"kind": KIND, "format": FORMAT, **_plain(content)}
  return {**plain, "seal": hashlib.sha256(_canonical(plain)).hexdigest()}


def write(path: pathlib.Path, result: Mapping[str, Any]) -> None:
  """Writes a result as JSON."""
  text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
  files.write(path, text.encode())


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a result.

  Raises:
    InputError: No such file, not a result, of another format, or edited.
  """
  try:
    result = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise InputError(
      f"There is no file {str(path)!r}.", "Give what `bcos-jax benchmark --output` wrote."
    ) from None
  except (ValueError, OSError) as error:
    raise InputError(
      f"{str(path)!r} cannot be read as JSON: {error}.",
      "Give what `bcos-jax benchmark --output` wrote.",
    ) from error
  if not isinstance(result, dict) or result.get("kind") != KIND:
    raise InputError(
      f"{str(path)!r} is no result of a benchmark.",
      "Give what `bcos-jax benchmark --output` wrote.",
    )
  if result.get("format") != FORMAT:
    raise InputError(
      f"{str(path)!r} has format {result.get('format')!r}, expected {FORMAT}.",
      "Read it with the version of bcos_jax that wrote it.",
    )
  content = {key: value for key, value in result.items() if key != "seal"}
  broken = hashlib.sha256(_canonical(content)).hexdigest() != result.get("seal")
  if broken or not content.keys() >= _KEYS:
    raise InputError(
      f"{str(path)!r} was edited after it was written: its seal is broken.",
      "Measure again with `bcos-jax benchmark`.",
    )
  return result


def check_same(path: pathlib.Path, result: Mapping[str, Any], now: Mapping[str, Any]) -> None:
  """Checks that a result was measured on a network and on data.

  Args:
    path: Where the result is, for messages.
    result: From `read`.
    now: The same fields, of the network and the data that there are.

  Raises:
    InputError: Another network, or other pictures.
  """
  for what, why in (
    ("network", "Give the network that was measured."),
    ("data", "Give the same --dataset, --split and --data_dir, unchanged."),
  ):
    before, after = (one[what]["sha256"] for one in (result, now))
    if before != after:
      raise InputError(
        f"{str(path)!r} is of another {what}: its hash is {before[:12]}, that of "
        f"{now[what]['name']!r} is {after[:12]}.",
        why,
      )


def differences(
  before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float
) -> Iterator[str]:
  """Yields what differs between two trees of scores, beyond a relative tolerance, line by line."""
  old, new = (dict(_leaves(scores)) for scores in (before, after))
  for path in sorted({*old, *new}):
    first, second = old.get(path, "missing"), new.get(path, "missing")
    numbers = isinstance(first, int | float) and isinstance(second, int | float)
    if numbers and math.isclose(first, second, rel_tol=tolerance, abs_tol=_LEAST):
      continue
    if first != second:
      yield f"{path}: {first} in the file, {second} now"


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
  """Yields what a tree of mappings ends in, with the names on the way."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f"{path}{name} ")
    else:
      yield path + name, value


def _canonical(content: Any) -> bytes:
  return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain(content: Any) -> Any:
  """Returns values that JSON has: tuples become lists, and what is not finite None."""
  if isinstance(content, Mapping):
    return {str(key): _plain(value) for key, value in content.items()}
  if isinstance(content, list | tuple):
    return [_plain(value) for value in content]
  if isinstance(content, np.generic):
    return _plain(content.item())
  if isinstance(content, float) and not math.isfinite(content):
    return None
  return content

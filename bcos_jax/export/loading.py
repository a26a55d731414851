"""Exported explanations, read and run: the same results by whatever runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from ..errors import InputError
from ..inputs import Preprocess
from . import folder as folders
from . import onnx_file, stablehlo

_READERS = {"stablehlo": stablehlo.reader, "onnx": onnx_file.reader}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
  """An exported explanation.

  Attributes:
    manifest: What `manifest.json` says.
    run: (*inputs, as the manifest lists them) -> results by name.
  """

  manifest: Mapping[str, Any]
  run: Callable[..., Mapping[str, Any]] = dataclasses.field(repr=False)

  @property
  def labels(self) -> tuple[str, ...]:
    """Names of the classes; () where they are not known."""
    return tuple(self.manifest["labels"])

  @property
  def preprocess(self) -> Preprocess | None:
    """From a picture to an array, as the network's evaluation does it; None for texts."""
    told = self.manifest["preprocess"]
    return None if told is None else Preprocess(**told)

  def __call__(
    self, inputs: Any, target: int | np.ndarray | None = None, *, mask: Any = None
  ) -> dict[str, np.ndarray]:
    """Returns what was asked for when it was exported.

    Args:
      inputs: Pictures [N, H, W, colors] in [0, 1], or token ids [N, L].
      target: Class to explain, one for all or ints [N]; None for the predicted ones.
      mask: Of texts, zero where there is padding, [N, L]; None for no padding.

    Raises:
      InputError: Arrays of another shape, or a class that there is not.
    """
    first = np.asarray(inputs)
    given = {"ids": first, "images": first}
    given["mask"] = np.ones(first.shape, np.int32) if mask is None else np.asarray(mask)
    classes = np.asarray(-1 if target is None else target)
    given["target"] = np.broadcast_to(classes, first.shape[:1]) if not classes.ndim else classes
    if target is not None and "target" not in {each["name"] for each in self.manifest["inputs"]}:
      raise InputError("A target is given, the export holds logits alone.", "Omit target.")
    self._check_target(given["target"], target is not None)
    arrays = [self._checked(each, given[each["name"]]) for each in self.manifest["inputs"]]
    return {name: np.asarray(value) for name, value in self.run(*arrays).items()}

  def _check_target(self, classes: np.ndarray, given: bool) -> None:
    count = self.manifest["classes"]
    fits = np.issubdtype(classes.dtype, np.integer) and (not given or classes.min() >= 0)
    if not fits or classes.max() >= count:
      raise InputError(
        f"target is {classes.tolist()!r:.60}, expected classes from 0 to {count - 1}.",
        "Count classes from 0.",
      )

  def _checked(self, told: Mapping[str, Any], array: np.ndarray) -> np.ndarray:
    expected = [array.shape[:1] if isinstance(n, str) else (n,) for n in told["shape"]]
    if array.shape != tuple(n for part in expected for n in part):
      shape = ", ".join(map(str, told["shape"]))
      raise InputError(
        f"{told['name']} has shape {array.shape}, expected [{shape}].",
        "See the table of inputs in README.md of the export.",
      )
    if told["dtype"] == "float32" and not np.issubdtype(array.dtype, np.floating):
      raise InputError(
        f"{told['name']} has dtype {array.dtype}, expected floats in [0, 1].",
        "Divide 8-bit pictures by 255.",
      )
    return array.astype(told["dtype"])


def load(folder: str | os.PathLike) -> Exported:
  """Reads an export of StableHLO or ONNX; its files are compared with their hashes.

  Raises:
    InputError: No export, a damaged one, one of another version, or one for browsers; packages
      that it needs are not installed.
  """
  manifest = folders.read(folder)
  kind = manifest.get("kind")
  if kind not in _READERS:
    raise InputError(
      f"{str(folder)!r} is an export for {kind!r}, expected one of {', '.join(_READERS)}.",
      "Open its index.html in a browser; or export the network again with --to=onnx.",
    )
  content = (pathlib.Path(folder) / manifest["file"]).read_bytes()
  return Exported(manifest=manifest, run=_READERS[kind](content))

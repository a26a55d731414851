"""What is checked before an export is written: that it computes what the network does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ..errors import RunError
from .programs import PREDICTED, ExportProgram

TOLERANCE = 1e-5
"""Of the largest contribution, and of the largest logit: what other runtimes may differ by."""

_DERIVED = ("picture", "probabilities")


def example(program: ExportProgram, model: Any) -> dict[str, np.ndarray]:
  """Returns fixed random inputs of a program: two, or as many as its batch."""
  rng, count = np.random.default_rng(0), program.batch or 2
  found: dict[str, np.ndarray] = {}
  for name, spec in program.inputs.items():
    shape = (count, *spec.shape[1:])
    if name == "images":
      found[name] = rng.random(shape, np.float32)
    elif name == "mask":
      ends = rng.integers(max(shape[1] // 2, 1), shape[1] + 1, (count, 1))
      found[name] = (np.arange(shape[1]) < ends).astype(np.int32)
    elif name == "ids":
      found[name] = rng.integers(0, model.vocab_size, shape).astype(np.int32)
    else:
      found[name] = np.array([PREDICTED, *[0] * (count - 1)], np.int32)
  return found


def differences(
  program: ExportProgram, run: Callable[..., Mapping[str, Any]], inputs: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Returns by how much each result differs from the program's own, on this machine.

  Contributions are compared with the largest of them, likewise the other results; values and
  residuals, which are sums over all pixels, with the sum of the contributions' sizes.
  """
  ours = jax.tree.map(np.asarray, jax.jit(program.function)(*inputs.values()))
  theirs = {name: np.asarray(value) for name, value in run(*inputs.values()).items()}
  largest = {name: float(np.abs(value).max()) for name, value in ours.items()}
  mass = 0.0
  if "contributions" in ours:
    mass = float(np.abs(ours["contributions"]).reshape(len(ours["value"]), -1).sum(1).max())
  mass = max(mass, largest.get("value", 0.0))
  found = {}
  for name, value in ours.items():
    scale = mass if name in ("value", "residual") else largest[name]
    gap = np.abs(value.astype(np.float64) - theirs[name]).max()
    found[name] = float(gap / scale) if scale else float(gap)
  return found


def check(found: Mapping[str, float], tolerance: float, what: str) -> None:
  """Refuses an export that differs from the network.

  Where rounding may differ, what the picture and the probabilities are made of decides: the one
  divides small numbers where nothing is seen, the others are exponentials of logits of any size.

  Raises:
    RunError: The first result that differs, and by how much.
  """
  for name, gap in found.items():
    most = 1.0 if tolerance and name in _DERIVED else tolerance
    if not gap <= most:
      raise RunError(
        f"The exported {name} differs from the network's by {gap:.1e} of its largest number, "
        f"expected at most {most:.0e} ({what}).",
        "Nothing is written. Export it as another kind, and report it.",
      )

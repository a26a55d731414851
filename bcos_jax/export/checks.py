"""What is checked before an export is written: that it computes what the network does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
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


def compared(
  program: ExportProgram,
  run: Callable[..., Mapping[str, Any]],
  inputs: Mapping[str, np.ndarray],
  *,
  exact: bool,
  where: str,
) -> dict[str, float]:
  """Returns by how much the results of an exported program differ from its own, see `gaps`.

  A runtime that rounds otherwise may differ by `TOLERANCE`, or by as much as the network's own
  results change when colours are rounded to the next number: networks whose signals have faded
  amplify rounding. The picture and the probabilities are not judged then, but what they are made
  of: the one divides small numbers where nothing is seen, the others are exponentials of logits of
  any size.

  Args:
    program: The program.
    run: What was exported.
    inputs: Inputs of both.
    exact: Whether every bit has to be the same.
    where: What runs it, in words.

  Raises:
    RunError: The first result that differs, and by how much.
  """
  compute = jax.jit(program.function)
  ours = compute(*inputs.values())
  found = gaps(ours, run(*inputs.values()))
  most = dict.fromkeys(found, 0.0 if exact else TOLERANCE)
  if not exact:
    most |= dict.fromkeys(_DERIVED, math.inf)
    if "images" in inputs and not all(gap <= most[name] for name, gap in found.items()):
      near = {**inputs, "images": np.nextafter(inputs["images"], np.float32(0.5))}
      own = gaps(ours, compute(*near.values()))
      most = {name: max(most[name], own[name]) for name in found}
  for name, gap in found.items():
    if not gap <= most[name]:
      raise RunError(
        f"The exported {name} differs from the network's by {gap:.1e} of its largest number, "
        f"expected at most {most[name]:.0e} ({where}).",
        "Nothing is written. Export it as another kind, and report it.",
      )
  return found


def gaps(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, float]:
  """Returns the largest differences of results.

  Contributions are compared with the largest of them, likewise the other results; values and
  residuals, which are sums over all pixels, with the sum of the contributions' sizes.
  """
  arrays = {name: np.asarray(value, np.float64) for name, value in ours.items()}
  largest = {name: float(np.abs(value).max()) for name, value in arrays.items()}
  mass = largest.get("value", 0.0)
  if "contributions" in arrays:
    each = np.abs(arrays["contributions"]).reshape(len(arrays["value"]), -1).sum(1)
    mass = max(mass, float(each.max()))
  found = {}
  for name, value in arrays.items():
    scale = mass if name in ("value", "residual") else largest[name]
    gap = float(np.abs(value - np.asarray(theirs[name], np.float64)).max())
    found[name] = gap / scale if scale else gap
  return found

"""Classes by name: what a user calls a class, found among a network's labels."""

from __future__ import annotations

from collections.abc import Sequence
import difflib
from typing import Any

import numpy as np

from ..errors import InputError

_NEAR = 0.7
"""Likeness, in [0, 1], from which on another name is worth suggesting."""


def class_of(target: Any, labels: Sequence[str], count: int) -> int:
  """Returns the number of a class.

  Args:
    target: Its name, one of the names that its label lists ("tabby" of "tabby, tabby cat"), in any
      case; or its number, also as text.
    labels: Names of the classes, () where they are not known.
    count: Number of classes.

  Raises:
    InputError: An unknown or ambiguous name, with the nearest one if any is near; or a number out
      of range.
  """
  if isinstance(target, str):
    if target in labels:
      return labels.index(target)
    found = [i for i, label in enumerate(labels) if _is_called(label, target)]
    if len(found) == 1:
      return found[0]
    if found:
      named = ", ".join(repr(labels[i]) for i in found[:5])
      raise InputError(f"{len(found)} classes are called {target!r}: {named}.", "Give the number.")
    if not target.strip().lstrip("-").isdecimal():
      raise _unknown(target, labels, count)
  elif isinstance(target, bool) or not isinstance(target, int | np.integer):
    raise InputError(f"The class is {target!r}, expected a name or a number.", "For example: 0.")
  if not 0 <= int(target) < count:
    raise InputError(
      f"Class {target} does not exist, expected 0 to {count - 1}.",
      "Give a class of this network, by name or number.",
    )
  return int(target)


def classes_of(target: Any, labels: Sequence[str], count: int, inputs: int) -> np.ndarray | None:
  """Returns the classes of N inputs, int32 [N] or [N, K]; None for the predicted ones.

  Args:
    target: None, one class for all, or one, or a list of K, for each input; see `class_of`.
    labels: Names of the classes.
    count: Their number.
    inputs: N.

  Raises:
    InputError: As `class_of`; or not one for each input.
  """
  if target is None:
    return None
  if isinstance(target, str) or np.ndim(target) == 0:
    return np.full(inputs, class_of(target, labels, count), np.int32)
  several = list(target)
  if len(several) != inputs:
    raise InputError(
      f"{len(several)} targets for {inputs} inputs, expected one for all or one for each.",
      "Give one class, or a list as long as the inputs.",
    )
  rows = [
    class_of(one, labels, count)
    if isinstance(one, str) or np.ndim(one) == 0
    else [class_of(part, labels, count) for part in one]
    for one in several
  ]
  if len({np.shape(row) for row in rows}) != 1:
    raise InputError("The inputs have different numbers of targets.", "Give K for each.")
  return np.array(rows, np.int32)


def named_classes(labels: Sequence[str], logits: Any) -> tuple[str, ...]:
  """Returns the labels if they are those of the outputs."""
  fits = getattr(logits, "ndim", 0) == 2 and logits.shape[1] == len(labels)
  return tuple(labels) if fits else ()


def _is_called(label: str, name: str) -> bool:
  return name.strip().casefold() in [part.strip().casefold() for part in (label, *label.split(","))]


def _unknown(target: str, labels: Sequence[str], count: int) -> InputError:
  near = difflib.get_close_matches(target, labels, n=1, cutoff=_NEAR)
  if near:
    return InputError(f"Unknown class {target!r}.", f"Did you mean {near[0]!r}?")
  if not labels:
    return InputError(
      f"Unknown class {target!r}: the network does not know the names of its classes.",
      f"Give a number, 0 to {count - 1}.",
    )
  shown = ", ".join(map(repr, labels[:8]))
  more = f" and {count - 8} more" if count > 8 else ""
  return InputError(f"Unknown class {target!r}.", f"The network knows {shown}{more}.")

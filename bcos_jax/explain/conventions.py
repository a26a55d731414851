"""The B-cos authors' convention of contributions, beside the one that adds up to the output."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from ..inputs import Encoding

Explained = TypeVar("Explained")
NAME = "normalisation"
"""The residual that the published convention leaves."""


def as_published(explained: Explained, encoding: Encoding) -> Explained:
  """Returns an explanation by the convention of the code of B-cosification (arXiv 2411.00715).

  There the network's input is [x, 1 - x], which it normalises itself: a pixel's contribution is
  [x, 1 - x] times the gradient at it, W / std. With the normalised input z = ([x, 1 - x] - mean) /
  std that the network's layers see, sum(z * W) is the output's linear part, so that the published
  contributions exceed it by sum(mean * W / std), whatever the picture shows. That is the residual
  `normalisation`, negative here. Published grid pointing scores and coloured pictures are of these
  contributions and weights.

  Encodings that are not normalised, as those of B-cos v2, and that have no complements, as those of
  conventional networks, have one convention; their explanations are returned as they are.

  Args:
    explained: An `Explanation` of pictures.
    encoding: The network's, `model.ops.encoding`.

  Returns:
    The explanation with `inputs` [x, 1 - x] and `weights` of these; contributions and all
    residuals still add up to the value.

  Raises:
    InputError: Not an explanation of pictures.
  """
  ex: Any = explained
  if not hasattr(ex, "images") or not hasattr(ex, "weights"):
    raise InputError(
      f"The published convention is of explanations of pictures, got {type(ex).__name__}.",
      "Omit it.",
    )
  if encoding.pairing != "negated":
    return explained
  mean, std = (np.array(numbers, np.float32) for numbers in (encoding.mean, encoding.std))
  images = np.asarray(ex.images, np.float32)
  inputs = np.concatenate([images, 1 - images], axis=-1)
  weights = np.asarray(ex.weights) / np.tile(std, 2)
  seen = inputs if weights.ndim == inputs.ndim else inputs[:, None]
  contributions = (seen * weights).sum(axis=-1)
  residual = np.asarray(ex.value) - contributions.sum(axis=(-2, -1), dtype=np.float64)
  offset = (weights * np.concatenate([mean, 1 - mean])).sum(axis=(-3, -2, -1), dtype=np.float64)
  kept = {name: part for name, part in ex.residuals.items() if name != "unexplained"}
  kept[NAME] = np.float32(-offset)
  rest = residual - sum(np.asarray(part, np.float64) for part in kept.values())
  return dataclasses.replace(
    ex,
    inputs=inputs,
    weights=weights,
    contributions=contributions,
    residual=np.float32(residual),
    residuals={**kept, "unexplained": np.float32(rest)},
  )

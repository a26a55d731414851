"""Retrieval of images by texts, and of texts by images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError


def retrieve(scores: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
  """Returns the k columns that score highest in each row, best first.

  Rows of `scores` are images and columns texts: texts for each image. Give `scores.T` to find
  images for each text.

  Args:
    scores: [N, P] similarities or logits.
    k: How many to return, at most P.

  Returns:
    (columns, int [N, k]; their scores [N, k]). Of equal scores, the first column comes first.

  Raises:
    InputError: Scores that are not a finite matrix, or k out of range.
  """
  scores = _checked(scores)
  _check_k(k, scores.shape[1])
  found = np.argsort(-scores, axis=1, kind="stable")[:, :k]
  return found, np.take_along_axis(scores, found, axis=1)


def recall(scores: Any, image_of: Any, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
  """Returns recall at k both ways: how often the k best hold something that belongs.

  An image may have several texts; one of them among its k best is enough. Equal scores count
  against the one that belongs, so that a constant network is not rewarded.

  Args:
    scores: [N, P] similarities of N images and P texts.
    image_of: [P] ints, the image that each text belongs to.
    ks: Values of k.

  Returns:
    'image_to_text@k' and 'text_to_image@k' to shares in [0, 1]. Images without a text are not
    counted.

  Raises:
    InputError: Scores that are not a finite matrix, pairs that do not fit them, or k out of range.
  """
  scores = _checked(scores)
  image_of = np.asarray(image_of)
  count, texts = scores.shape
  if image_of.shape != (texts,) or not np.issubdtype(image_of.dtype, np.integer):
    raise InputError(
      f"image_of is {image_of.dtype} {image_of.shape}, expected integers ({texts},).",
      "Pass the index of the image that each text belongs to.",
    )
  if image_of.min() < 0 or image_of.max() >= count:
    raise InputError(
      f"image_of spans {image_of.min()} to {image_of.max()}, expected 0 to {count - 1}.",
      "Count images from 0.",
    )
  own = image_of[None, :] == np.arange(count)[:, None]
  asked = own.any(axis=1)
  best = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
  # How many that do not belong are at least as good as the best that does.
  ahead = {
    "image_to_text": ((scores >= best) & ~own).sum(axis=1)[asked],
    "text_to_image": ((scores >= scores[image_of, np.arange(texts)]) & ~own).sum(axis=0),
  }
  for k in ks:
    _check_k(k, max(scores.shape))
  return {f"{way}@{k}": float((rank < k).mean()) for way, rank in ahead.items() for k in ks}


def _checked(scores: Any) -> np.ndarray:
  scores = np.asarray(scores)
  if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
    raise InputError(
      f"The scores have shape {scores.shape} or are not all finite, expected numbers [N, P].",
      "Give Towers.logits of images and texts.",
    )
  return scores


def _check_k(k: int, most: int) -> None:
  if not 1 <= k <= most:
    raise InputError(f"k is {k}, expected 1 to {most}.", "Choose a k in this range.")

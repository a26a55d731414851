"""Which texts share a device batch, and at which length.

Every length and every number of texts is another program to compile. So texts are cut or padded to
few lengths, and batches filled up to few sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import sys

import numpy as np

from ..batches import filled
from ..errors import InputError
from .texts import TextExplanation


def edges_for(length: int, buckets: Sequence[int], longest: int) -> list[int]:
  """Returns the lengths to compile for, up to the first that holds `length`."""
  if not len(buckets):
    return [length]
  edges = sorted({min(int(b), longest) for b in buckets if b > 0})
  return [*(e for e in edges if e < length), next((e for e in edges if e >= length), length)]


def padded(array: np.ndarray, length: int, fill: int) -> np.ndarray:
  """Returns an array [N, L] with more columns on the right, up to a length."""
  return np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=fill)


def chunks(
  mask: np.ndarray, edges: Sequence[int], batch_size: int | None, rounded: bool
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
  """Cuts texts into device batches.

  Args:
    mask: [N, L], zero on padding.
    edges: Lengths to compile for, rising.
    batch_size: Most texts at a time; None for no limit.
    rounded: Whether batches are filled up to powers of two.

  Yields:
    (length, numbers of the texts of a batch, the same filled up by the last of them).

  Raises:
    InputError: Several lengths, and padding on the left.
  """
  for length, rows in _bucketed(mask, edges):
    size = min(batch_size or len(rows), len(rows))
    if rounded:
      size = min(batch_size or sys.maxsize, 1 << (size - 1).bit_length())
    for places, kept in filled(len(rows), size, exact=rounded):
      yield length, rows[places[:kept]], rows[places]


def _bucketed(mask: np.ndarray, edges: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
  """Yields lengths, and the texts that are to be cut or padded to them."""
  if len(edges) == 1:
    yield edges[0], np.arange(len(mask))
    return
  own = mask.sum(axis=1)
  if not all(row[:count].all() for row, count in zip(mask, own, strict=True)):
    raise InputError(
      "Texts have padding on the left, expected it on the right.",
      "Pad on the right, or omit buckets.",
    )
  place = np.searchsorted(edges, own)
  for index, edge in enumerate(edges):
    if (rows := np.flatnonzero(place == index)).size:
      yield edge, rows


def resized(ex: TextExplanation, length: int) -> TextExplanation:
  """Returns an explanation cut to a length, or with zeros up to it."""
  if length == ex.ids.shape[1]:
    return ex

  def resize(array, axis):
    if not array.shape[axis]:  # omitted
      return array
    array = np.moveaxis(array, axis, 0)[:length]
    more = np.zeros((length - len(array), *array.shape[1:]), array.dtype)
    return np.moveaxis(np.concatenate([array, more]), 0, axis)

  return dataclasses.replace(
    ex,
    ids=resize(ex.ids, 1),
    mask=resize(ex.mask, 1),
    logits=resize(ex.logits, 1) if np.ndim(ex.logits) == 3 else ex.logits,
    inputs=resize(ex.inputs, 1),
    weights=resize(ex.weights, -2),
    contributions=resize(ex.contributions, -1),
    parts={name: resize(part, -1) for name, part in ex.parts.items()},
  )

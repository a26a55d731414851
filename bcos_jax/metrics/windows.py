"""Sliding windows over grids that are larger than the input size of a network."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .grid_pointing import Attribute
from .scores import check_count, check_maps


def strided(attribute: Attribute, size: int, stride: int, color: float | tuple = 0.0) -> Attribute:
  """Explains grids through windows at every `stride`, also partly outside, and adds the maps.

  As published for B-cosified ViTs (arXiv 2411.00715): windows of the picture's size overlap the
  border by up to `size - stride` pixels, so that every pixel is seen equally often (25 windows
  for 2 x 2 pictures of 224 pixels at stride 112). Outside, the published code has zeros in the
  encoded channels, which is the encoding's mean colour for B-cosified networks.

  Args:
    attribute: (windows [B, size, size, C], targets [B, n]) -> maps [B, n, size, size].
    size: Side of a window, in pixels.
    stride: Between windows; published are 4, 14, 28, 56 and 112.
    color: Of the outside, in [0, 1]; `model.ops.encoding.mean` as published.

  Raises:
    InputError: A stride outside 1 to `size`; when called, one that does not divide the rest.
  """
  return _slide(attribute, size, stride, padding=size - stride, color=color, average=False)


def windowed(attribute: Attribute, size: int, stride: int = 0) -> Attribute:
  """Explains grids through windows inside them, and averages the maps where these overlap.

  As in ALOE's evaluation: the whole grid is never given to the network. A window has the size of
  a picture and moves by half of it (9 windows for 2 x 2 pictures).

  Args:
    attribute: (windows [B, size, size, C], targets [B, n]) -> maps [B, n, size, size].
    size: Side of a window, in pixels.
    stride: Between windows; 0 takes size // 2.

  Raises:
    InputError: A stride outside 1 to `size`; when called, one that does not divide the rest.
  """
  return _slide(attribute, size, stride or size // 2, padding=0, color=0.0, average=True)


def _slide(attribute, size, stride, *, padding, color, average) -> Attribute:
  check_count("size", size)
  if not 1 <= stride <= size:
    raise InputError(
      f"stride={stride} with windows of {size} pixels, expected 1 to {size}.",
      "A larger stride leaves pixels out.",
    )

  def explain_windows(grids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    count, height, width, colors = grids.shape
    for side in (height, width):
      if side < size or (side + 2 * padding - size) % stride:
        raise InputError(
          f"Windows of {size} pixels at stride {stride} do not cover a grid of "
          f"{height} x {width} pixels.",
          "Take the pictures' side as size, and a stride that divides it.",
        )
    shape = (count, height + 2 * padding, width + 2 * padding)
    padded = np.broadcast_to(np.asarray(color, grids.dtype), (*shape, colors)).copy()
    inside = np.s_[padding : padding + height, padding : padding + width]
    padded[:, *inside] = grids
    total = np.zeros((count, targets.shape[1], *shape[1:]), np.float32)
    seen = np.zeros(shape[1:], np.float32)
    for top in range(0, shape[1] - size + 1, stride):
      for left in range(0, shape[2] - size + 1, stride):
        window = np.s_[top : top + size, left : left + size]
        maps = attribute(padded[:, *window], targets)
        check_maps(maps, (count, targets.shape[1], size, size))
        total[:, :, *window] += maps
        seen[window] += 1
    return (total / seen if average else total)[:, :, *inside]

  return explain_windows

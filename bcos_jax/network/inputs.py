"""What a user gives a network to look at: files, folders, PIL images, arrays, and lists of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import itertools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ..batches import Progress, ahead, filled
from ..errors import InputError
from ..inputs import Preprocess
from ..io.pictures import LISTS, expanded
from ..picture_files import check_picture


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
  """A picture that is not read yet.

  Attributes:
    name: Its file, or what it is called where it has none.
    content: A path, a PIL image, or an array [H, W, colors].
  """

  name: str
  content: Any

  def single(self, inputs: Any) -> bool:
    """Whether inputs are this one picture, not a collection that happens to hold one."""
    if isinstance(inputs, str | os.PathLike):
      path = pathlib.Path(inputs).expanduser()
      return path.is_file() and path.suffix.lower() not in LISTS
    return np.ndim(inputs) < 4 if _is_array(inputs) else not isinstance(inputs, list | tuple)

  def check(self, frame: int = 0) -> None:
    """Checks that a file is a picture with such a frame, by its header; see `check_picture`."""
    if isinstance(self.content, str | os.PathLike):
      check_picture(self.content, frame)


def gathered(inputs: Any) -> list[Picture]:
  """Returns the pictures that inputs name, in order.

  Args:
    inputs: A path, folder, pattern or list file; a PIL image; an array [H, W, C] or [N, H, W, C]
      in [0, 1]; or a list of these.

  Raises:
    InputError: None at all, a path that is not there, or something else.
  """
  found: list[Picture] = []
  for one in inputs if isinstance(inputs, Sequence) and not isinstance(inputs, str) else [inputs]:
    if isinstance(one, str | os.PathLike):
      found += [Picture(str(path), path) for path in expanded([one])]
    elif _is_array(one):
      found += _of_array(np.asarray(one), len(found))
    elif hasattr(one, "getexif"):
      found.append(Picture(getattr(one, "filename", "") or f"picture-{len(found) + 1}", one))
    else:
      raise InputError(
        f"A {type(one).__name__} is not a picture.",
        "Give a path, a folder, a PIL image, an array [H, W, C] in [0, 1], or a list of these.",
      )
  if not found:
    raise InputError("No pictures are given, expected at least one.", "Name a file or folder.")
  return found


def batches(
  pictures: Sequence[Picture],
  preprocess: Preprocess,
  size: int,
  frame: int = 0,
  progress: Progress = iter,
) -> Iterator[tuple[np.ndarray, int, np.ndarray, tuple[str, ...]]]:
  """Yields pictures in batches of one size; the next two are read meanwhile.

  Yields:
    The pictures' numbers [B], how many of the last batch count, images [B, H, W, colors] in
    [0, 1], and in words what was done to each picture that counts.

  Raises:
    InputError: A file that cannot be read.
  """

  def read(picture: Picture) -> tuple[np.ndarray, str]:
    if isinstance(picture.content, np.ndarray):
      return preprocess.of_array(picture.content)
    return preprocess.read(picture.content, frame)

  with contextlib.closing(ahead(read, pictures, depth=2 * size)) as seen:
    for rows, kept in filled(len(pictures), size, progress, exact=True):
      images, readings = zip(*itertools.islice(seen, kept), strict=True)
      # The last batch is as large as the others, by repetitions.
      yield rows, kept, np.stack([images[min(i, kept - 1)] for i in range(size)]), readings


def _is_array(value: Any) -> bool:
  return isinstance(value, np.ndarray | jax.Array)


def _of_array(array: np.ndarray, count: int) -> list[Picture]:
  batch = array[None] if array.ndim == 3 else array
  if batch.ndim != 4 or batch.shape[-1] not in (1, 3) or 0 in batch.shape:
    raise InputError(
      f"The array has shape {array.shape}, expected [H, W, C] or [N, H, W, C] with 1 or 3 colours.",
      "Give channels last; image[..., None] makes a grey image of [H, W].",
    )
  if not np.issubdtype(batch.dtype, np.floating):
    raise InputError(
      f"The array has dtype {array.dtype}, expected floats in [0, 1].",
      "Divide 8-bit pictures by 255.",
    )
  if not (np.isfinite(batch).all() and batch.min() >= -1e-6 and batch.max() <= 1 + 1e-6):
    raise InputError(
      f"The array spans [{batch.min():.3g}, {batch.max():.3g}], expected [0, 1].",
      "Pass colours in [0, 1], not normalised ones: the network applies its own mean and std.",
    )
  return [Picture(f"picture-{count + i + 1}", image) for i, image in enumerate(batch)]

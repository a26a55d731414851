"""Picture files of any common kind, as upright 8-bit RGB or grey."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
  from PIL import Image


def read_picture(path: str | os.PathLike, frame: int = 0) -> Image.Image:
  """Opens a picture of any common kind as upright 8-bit RGB.

  Grey, palette, CMYK and 16-bit pictures are converted, EXIF rotation is applied, and
  transparent parts are shown on white.

  Args:
    path: The file.
    frame: Which frame or page, counted from 0.

  Raises:
    InputError: The file is missing, truncated or not a picture, or has no such frame.
  """
  return opened_picture(path, frame)[0]


def opened_picture(path: str | os.PathLike, frame: int = 0) -> tuple[Image.Image, list[str]]:
  """Returns a picture as upright RGB, and what is peculiar about its file.

  Raises:
    InputError: As for `read_picture`.
  """
  with _opened(path, frame) as picture:
    if getattr(picture, "n_frames", 1) > 1:
      picture.seek(frame)
    picture.load()
    return upright(picture), peculiarities(picture)


@contextlib.contextmanager
def _opened(path: str | os.PathLike, frame: int) -> Iterator[Image.Image]:
  """Yields an open picture; says of every failure with it which file it was."""
  from PIL import Image

  try:
    with Image.open(path) as picture:
      count = getattr(picture, "n_frames", 1)
      if not 0 <= frame < count:
        raise _no_frame(path, frame, count)
      yield picture
  except FileNotFoundError:
    raise InputError(f"No picture at {os.fspath(path)!r}.", "Check the path.") from None
  except InputError as error:
    cause = error.cause if os.fspath(path) in error.cause else f"{os.fspath(path)!r}: {error.cause}"
    raise InputError(cause, error.fix) from error
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise InputError(
      f"Cannot read {os.fspath(path)!r} as a picture: {error}.",
      "Give a complete PNG, JPEG, WebP, GIF, BMP or TIFF file.",
    ) from error


def check_picture(path: str | os.PathLike, frame: int = 0) -> None:
  """Checks by its header that a file is a picture with such a frame; its colours are not read.

  Raises:
    InputError: As for `read_picture`.
  """
  with _opened(path, frame):
    pass


def _no_frame(path: str | os.PathLike, frame: int, count: int) -> InputError:
  has = "one frame" if count == 1 else f"{count} frames"
  return InputError(
    f"{os.fspath(path)!r} has {has}, and frame {frame} is asked for.",
    "Leave out the frame." if count == 1 else f"Frames count from 0 to {count - 1}.",
  )


def peculiarities(picture: Image.Image) -> list[str]:
  """Says what of a picture is not shown, or not as the file has it."""
  said, count = [], getattr(picture, "n_frames", 1)
  if count > 1:
    said.append(f"frame {picture.tell()} of {count}, counted from 0")
  if picture.getexif().get(0x0112, 1) in range(2, 9):
    said.append("turned as its EXIF says")
  if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
    said.append("transparent parts on white")
  if picture.mode == "CMYK":
    said.append("from CMYK")
  if picture.mode.startswith("I") or picture.mode == "F":
    said.append(f"values of 0 to {_peak(picture):g} as black to white")
  return said


def upright(picture: Image.Image, colors: int = 3) -> Image.Image:
  """Returns a PIL picture of any mode as upright 8-bit RGB (or grey, if `colors` is 1).

  EXIF rotation is applied, and transparent parts are shown on white.

  Raises:
    InputError: Numbers whose range does not say what is white.
  """
  from PIL import Image, ImageOps

  picture = ImageOps.exif_transpose(picture)
  if picture.mode.startswith("I") or picture.mode == "F":
    deep, clear = np.asarray(picture, np.float64), picture.info.get("transparency")
    shown = np.uint8(np.clip(deep / _peak(picture), 0, 1) * 255 + 0.5)
    if clear is not None:  # one value of grey
      shown = np.where(deep == clear, np.uint8(255), shown)
    picture = Image.fromarray(shown)
  if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture)
  return picture.convert("RGB" if colors == 3 else "L")


def _peak(picture: Image.Image) -> float:
  """Returns the value that is white in a picture of numbers, of the modes I, I;16 and F.

  PIL opens 16-bit grey as I;16 or as I, and 8-bit scientific data as F.
  """
  if picture.mode.startswith("I;16"):
    return 65535.0
  deep = np.asarray(picture, np.float64)
  low, high = float(deep.min()), float(deep.max())
  whole = bool(np.isfinite([low, high]).all()) and bool((deep == np.round(deep)).all())
  if picture.mode == "F" and 0 <= low and high <= 1:
    return 1.0
  if whole and 0 <= low and high <= 65535:
    return 255.0 if high <= 255 else 65535.0
  raise InputError(
    f"The numbers of the picture span {low:.4g} to {high:.4g}, which does not say what is white.",
    "Save it with values in [0, 1], or as 8-bit or 16-bit whole numbers.",
  )

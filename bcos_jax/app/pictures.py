"""Decoding of uploaded pictures within limits; refusals state the reason."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from typing import TYPE_CHECKING
import warnings

import numpy as np

from ..errors import InputError
from ..inputs import Preprocess
from ..picture_files import upright

if TYPE_CHECKING:
  from PIL import Image

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Scaling the shorter side to 256 pixels scales the longer one to many times that.
_MOST_ELONGATED = 20


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a picture may be.

  Attributes:
    megabytes: Of the file.
    megapixels: Of the picture, known before it is unpacked.
  """

  megabytes: float = 10.0
  megapixels: float = 50.0

  def __post_init__(self):
    for name, option in (("megabytes", "--max_upload_mb"), ("megapixels", "--max_megapixels")):
      if not 0 < getattr(self, name) <= 1000:
        raise InputError(
          f"{option}={getattr(self, name)}, expected more than 0 and at most 1000.",
          f"Change {option}.",
        )

  @property
  def bytes(self) -> int:
    """Of the file."""
    return int(self.megabytes * 1_000_000)


def read_upload(contents: str, limits: Limits) -> Image.Image:
  """Opens an uploaded picture as upright 8-bit RGB.

  Args:
    contents: A `data:` URI in base64, as browsers send files.
    limits: Checked before anything is unpacked.

  Raises:
    InputError: No picture of a known kind, truncated, or beyond the limits.
  """
  encoded = str(contents).partition(",")[2]
  if len(encoded) > 4 * (limits.bytes // 3 + 1):
    raise too_large(limits)
  try:
    data = base64.b64decode(encoded, validate=True)
  except (binascii.Error, ValueError):
    raise InputError("The upload is incomplete.", "Upload the picture again.") from None
  return read_bytes(data, limits)


def too_large(limits: Limits) -> InputError:
  """Returns the error for a file of too many bytes."""
  return InputError(
    f"The file is larger than {limits.megabytes:g} MB.",
    "Upload a smaller picture, or start the app with a larger --max_upload_mb.",
  )


def read_bytes(data: bytes, limits: Limits) -> Image.Image:
  """Opens the bytes of a picture file; see `read_upload`."""
  from PIL import Image

  if len(data) > limits.bytes:
    raise too_large(limits)
  try:
    with warnings.catch_warnings():
      # Pillow warns of large pictures; the limits here take precedence.
      warnings.simplefilter("ignore", Image.DecompressionBombWarning)
      with Image.open(io.BytesIO(data), formats=KINDS) as picture:
        _check_size(picture.size, limits)
        picture.load()
        return upright(picture)
  except InputError:
    raise
  # Damaged files make Pillow's readers fail in many ways; none of them may reach the page.
  except Exception:
    raise InputError(
      "The file is not a readable picture.",
      "Upload a complete PNG, JPEG, WebP, GIF, BMP or TIFF file.",
    ) from None


def _check_size(size: tuple[int, int], limits: Limits) -> None:
  width, height = size
  if width * height > limits.megapixels * 1e6:
    raise InputError(
      f"The picture has {width} × {height} pixels, more than {limits.megapixels:g} million.",
      "Scale it down, or start the app with a larger --max_megapixels.",
    )
  if max(size) > _MOST_ELONGATED * min(size):
    raise InputError(
      f"The picture has {width} × {height} pixels: one side is more than {_MOST_ELONGATED} times "
      "the other.",
      "Crop it to the relevant part.",
    )


def to_uri(image: np.ndarray) -> str:
  """Returns an image [H, W, 1 or 3] in [0, 1] as a `data:` URI of a PNG, rounded to 8 bits."""
  from PIL import Image

  pixels = np.round(255 * np.clip(np.asarray(image), 0, 1)).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def from_uri(uri: str, preprocess: Preprocess) -> np.ndarray:
  """The inverse of `to_uri`, for images that `preprocess` made: the very same float32 numbers.

  Raises:
    InputError: The URI holds something else; the page never sends that.
  """
  height, width = preprocess.size
  # Pixels that do not shrink when packed, and a header.
  most = Limits(megabytes=(preprocess.colors * height * width * 2 + 10_000) / 1e6)
  picture = read_upload(uri, most)
  if picture.size != (width, height):
    raise InputError(
      f"The picture has {picture.width} × {picture.height} pixels, expected {width} × {height}.",
      "Upload the picture again.",
    )
  picture = picture.convert("RGB" if preprocess.colors == 3 else "L")
  return np.asarray(picture, np.float32).reshape(height, width, preprocess.colors) / 255.0

"""Image-text similarities: cosines, and their powers at the positions of a feature map."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from .. import functional as F
from ..errors import InputError, unknown_name

Array = jax.Array

REDUCTIONS = ("mean", "sum", "max")


@dataclasses.dataclass(frozen=True)
class Similarity:
  """Cosines l of images and texts; those of a map's positions as l |l|^(power - 1), reduced.

  A power above 1 lets the positions that fit best count most. Published for unpooled CLIP
  ResNets (B-cosification, arXiv 2411.00715): the 'sum' in its zero-shot evaluation, the 'mean' in
  its loss and benchmark, the largest position, 'max', and the 'mean' in its text localisation.

  Attributes:
    power: At least 1.
    reduce: Over positions: 'mean', 'sum' or 'max', which takes the largest cosine.
    hold: Explanation mode: lengths and the factor |l|^(power - 1) are constants, so that the
      result is linear in the features. Without it, a cosine has no gradient along its own
      features, and contributions would sum to zero.
  """

  power: float = 1.0
  reduce: str = "mean"
  hold: bool = False

  def __post_init__(self):
    if self.reduce not in REDUCTIONS:
      raise unknown_name("reduce", self.reduce, REDUCTIONS)
    if not self.power >= 1:
      raise InputError(
        f"power is {self.power!r}, expected at least 1.",
        "Use 1 for plain cosines; reduce='max' for the position that fits best.",
      )

  def __call__(self, texts: Array, images: Array) -> Array:
    """Returns the similarity of every image and every text, float32 [N, P].

    Args:
      texts: Directions of P texts, [P, D] of unit length.
      images: Features [N, D] of any length, or of maps [N, h, w, D].

    Raises:
      InputError: The shapes do not fit.
    """
    _check(texts, images)
    directions = F.unit_length(images.astype(jnp.float32), detach=self.hold)
    cosines = directions @ texts.T
    if images.ndim == 2:
      cosines = cosines[:, None, None, :]
    if self.power != 1:
      size = jnp.abs(F.hold(cosines) if self.hold else cosines)
      cosines = cosines * size ** (self.power - 1)
    return getattr(jnp, self.reduce)(cosines, axis=(1, 2))


COSINE = Similarity()


def _check(texts: Array, images: Array) -> None:
  shape = getattr(images, "shape", None)
  if shape is None or len(shape) not in (2, 4):
    raise InputError(
      f"The image tower returned {shape or type(images).__name__}, expected features [N, D] or "
      "[N, h, w, D].",
      "Give the image tower that belongs to the text tower.",
    )
  if shape[-1] != texts.shape[-1]:
    raise InputError(
      f"The image tower has features of width {shape[-1]}, the texts of {texts.shape[-1]}.",
      "Give two towers of one checkpoint, each with its projection.",
    )

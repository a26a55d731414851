"""Pairs of an image tower and a text tower from one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from ..errors import InputError
from ..io.bundles import Bundle
from ..text.towers import BATCH_SIZE, TextTower, check_features
from . import classifier
from .similarity import COSINE, Similarity

SCALE = 100.0
"""CLIP's scale of the cosines, to which its training clips it."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Towers:
  """An image tower with a text tower, and the scale and bias of their logits.

  Attributes:
    image: The image tower.
    text: The text tower with its tokenizer.
    scale: Multiplies similarities.
    bias: Is added to them then.
    sigmoid: Whether each pair has an independent sigmoid (SigLIP), or an image's texts compete in
      a softmax (CLIP).
    similarity: Of features; its power and reduction matter for maps of features.
  """

  image: Bundle
  text: TextTower
  scale: float = SCALE
  bias: float = 0.0
  sigmoid: bool = False
  similarity: Similarity = COSINE

  def __post_init__(self):
    classifier.check_tower(self.image.model)
    if not np.isfinite([self.scale, self.bias]).all() or self.scale <= 0:
      raise InputError(
        f"scale is {self.scale} and bias {self.bias}, expected finite numbers, the scale positive.",
        "CLIP has scale 100 and no bias.",
      )
    _check_widths(self.image, self.text)

  @classmethod
  def of(cls, image: Bundle, text: TextTower, **fields: Any) -> Towers:
    """Returns the towers with the scale and bias that their converted checkpoint had.

    The converter keeps them beside the weights. Without them, CLIP's scale of 100 is taken; a
    checkpoint with a bias was trained with sigmoids.

    Args:
      image: The image tower.
      text: The text tower with its tokenizer.
      **fields: Fields of the class that replace those found.
    """
    kept = {**image.extras, **text.extras}
    found: dict[str, Any] = {}
    if "logit_scale" in kept:
      found["scale"] = float(np.exp(np.float64(kept["logit_scale"]).item()))
    if "logit_bias" in kept:
      found |= {"bias": np.float64(kept["logit_bias"]).item(), "sigmoid": True}
    return cls(image=image, text=text, **{**found, **fields})

  def image_features(
    self, images: Any, *, batch_size: int | None = classifier.BATCH_SIZE
  ) -> np.ndarray:
    """See `image_features`: [N, D], or maps [N, h, w, D]."""
    return classifier.image_features(
      self.image.model, self.image.variables, images, batch_size=batch_size
    )

  def text_features(
    self, texts: Sequence[str], *, batch_size: int | None = BATCH_SIZE
  ) -> np.ndarray:
    """See `TextTower.features`: [P, D] of unit length."""
    return self.text.features(texts, batch_size=batch_size)

  def logits(self, image_features: Any, text_features: Any) -> np.ndarray:
    """Returns scale * similarity + bias of N images and P texts, float32 [N, P].

    Args:
      image_features: From `image_features`.
      text_features: From `text_features`, [P, D].

    Raises:
      InputError: Text features that are not directions, or of another width than the images'.
    """
    texts = check_features(text_features)
    with jax.default_matmul_precision("highest"):
      found = _similarity(self.similarity, texts, np.asarray(image_features, np.float32))
    return np.float32(self.scale) * np.asarray(found) + np.float32(self.bias)

  def classifier(
    self,
    names: Sequence[str],
    templates: Sequence[str] = ("a photo of a {}.",),
    *,
    batch_size: int | None = BATCH_SIZE,
  ) -> classifier.ZeroShot:
    """Returns a classifier of classes that exist by their names alone.

    Args:
      names: Of C classes.
      templates: Prompts with {} for the name; see `templates`.
      batch_size: Texts at a time.

    Raises:
      InputError: As for `TextTower.class_features`.
    """
    return classifier.ZeroShot(
      model=self.image.model,
      variables=self.image.variables,
      text_features=self.text.class_features(names, templates, batch_size=batch_size),
      labels=tuple(map(str, names)),
      scale=self.scale,
      bias=self.bias,
      sigmoid=self.sigmoid,
      similarity=self.similarity,
    )


@jax.jit(static_argnums=0)
def _similarity(similarity, text_features, image_features):
  return similarity(text_features, image_features)


def _check_widths(image: Bundle, text: TextTower) -> None:
  """Both towers are traced, nothing is computed."""
  widths = [
    jax.eval_shape(tower.model.apply, tower.variables, tower.model.input_spec).shape[-1]
    for tower in (image, text)
  ]
  if widths[0] != widths[1]:
    raise InputError(
      f"The image tower has features of width {widths[0]}, the text tower of {widths[1]}.",
      "Give two towers of one checkpoint, each with its projection.",
    )

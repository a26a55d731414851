"""Zero-shot classifiers: an image tower with cached text embeddings of the classes."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..batches import in_batches
from ..errors import InputError
from ..explain.targets import blaming_variables
from ..inputs import check_images, side_of
from ..text.towers import check_features
from .similarity import COSINE, Similarity

Array = jax.Array

BATCH_SIZE = 64


def check_tower(model: nn.Module) -> None:
  """Raises InputError unless a network turns images into features, not into classes."""
  if not jnp.issubdtype(model.input_spec.dtype, jnp.floating):
    raise InputError(
      f"A {type(model).__name__} reads no images.", "Give the image tower, not the text tower."
    )
  if model.num_classes:
    raise InputError(
      f"The network has {model.num_classes} classes, expected features to compare with texts.",
      "Give an image tower, such as clip_vit_base_patch16; `explain` explains classes.",
    )


def image_features(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  batch_size: int | None = BATCH_SIZE,
) -> np.ndarray:
  """Returns what an image tower makes of images, float32 [N, D], or maps [N, h, w, D].

  Computed in float32 at the highest matmul precision.

  Args:
    model: The tower.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    batch_size: Images at a time, compiled once; None takes all at once.

  Raises:
    InputError: A network with classes, unfit images, or variables of another network.
  """
  check_tower(model)
  images = check_images(images, model.ops.encoding)
  model = model.clone(ops=dataclasses.replace(model.ops, dtype=None))
  with blaming_variables(model, variables, side_of(images)):
    return in_batches(lambda batch: _features(model, variables, batch), images, batch_size)


@jax.jit(static_argnums=0)
def _features(model, variables, images):
  return model.apply(variables, model.ops.encoding(images))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
  """Predictions of a classifier for N images, best class first in `classes`.

  Attributes:
    logits: [N, C] float32.
    probabilities: [N, C] float32.
    classes: [N, C] ints, the classes of each image from the most to the least probable.
  """

  logits: np.ndarray
  probabilities: np.ndarray
  classes: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ZeroShot:
  """A classifier whose classes are texts: one matrix product on an image's features.

  Attributes:
    model: The image tower.
    variables: Its variables.
    text_features: A direction for each class, [C, D]; of unit length after construction.
    labels: Names of the classes.
    scale: Multiplies similarities.
    bias: Is added to them then.
    sigmoid: Whether each class has an independent sigmoid, or all compete in a softmax.
    similarity: Of features; its power and reduction matter for maps of features.
  """

  model: nn.Module
  variables: Mapping[str, Any]
  text_features: np.ndarray
  labels: tuple[str, ...]
  scale: float = 100.0
  bias: float = 0.0
  sigmoid: bool = False
  similarity: Similarity = COSINE

  def __post_init__(self):
    check_tower(self.model)
    object.__setattr__(self, "text_features", check_features(self.text_features))
    if len(self.labels) != len(self.text_features):
      raise InputError(
        f"There are {len(self.labels)} labels for {len(self.text_features)} rows of text features.",
        "Give one label per row.",
      )

  def classify(self, images: Any, *, batch_size: int | None = BATCH_SIZE) -> Prediction:
    """Returns logits and probabilities of images [N, H, W, colors] in [0, 1].

    Raises:
      InputError: Unfit images, or towers whose features have different widths.
    """
    images = check_images(images, self.model.ops.encoding)
    model = self.model.clone(ops=dataclasses.replace(self.model.ops, dtype=None))
    with blaming_variables(model, self.variables, side_of(images)):
      logits = in_batches(
        lambda batch: _logits(
          self.similarity,
          model,
          self.variables,
          self.text_features,
          batch,
          self.scale,
          self.bias,
        ),
        images,
        batch_size,
      )
    return Prediction(
      logits=logits,
      probabilities=probabilities(logits, self.sigmoid),
      classes=np.argsort(-logits, axis=1, kind="stable"),
    )


@jax.jit(static_argnums=(0, 1))
def _logits(similarity, model, variables, text_features, images, scale, bias):
  features = model.apply(variables, model.ops.encoding(images))
  return scale * similarity(text_features, features) + bias


def probabilities(logits: Any, sigmoid: bool) -> np.ndarray:
  """Returns the probabilities of logits [N, C], float32."""
  function = jax.nn.sigmoid if sigmoid else jax.nn.softmax
  return np.asarray(function(jnp.asarray(logits, jnp.float32)))

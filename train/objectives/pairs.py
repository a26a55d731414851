"""The objective of CLIP: an image tower and a text tower learn to match captions.

The network of the run is the image tower. The text tower is the objective's own: its parameters
are learned beside the network's, and are written as a bundle beside it.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io import bundles
from bcos_jax.text.tokenizer import Tokenizer

from ..data import Dataset, captions
from . import losses
from .objective import OWN, Objective
from .teacher import check_features, unit

SCALE, MOST = 1 / 0.07, 100.0
"""CLIP's first scale of the cosines, and its largest."""

TEXT, TOKENIZER = "text", "tokenizer"
"""Folders that a run writes the text tower and its tokenizer to."""

_SEED = 1  # Of the text tower's first parameters; another run draws another image tower as well.


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs(Objective):
  """Pictures and their captions, in both directions.

  Attributes:
    text: The text tower.
    tokenizer: Of the words that captions have.
    captions: Different captions of each picture; a step draws one of them.
    seed: Of the captions.
  """

  text: nn.Module
  tokenizer: Tokenizer
  captions: int = 8
  seed: int = 0

  @property
  def measure(self):
    return "retrieval"

  @property
  def extras(self):
    shape = (self.captions, self.tokenizer.length)
    return {"text": jax.ShapeDtypeStruct(shape, jnp.int32)}

  def extras_of(self, dataset: Dataset) -> dict[str, np.ndarray]:
    texts = captions.captions(dataset, self.captions, seed=self.seed)
    ids = self.tokenizer([text for several in texts for text in several])
    return {"text": ids.reshape(len(texts), self.captions, -1)}

  def own_parameters(self):
    key = jax.random.fold_in(jax.random.key(self.seed), _SEED)
    blank = jnp.zeros(self.text.input_spec.shape, jnp.int32)
    return {
      "text": self.text.init(key, blank)["params"],
      "logit_scale": jnp.float32(math.log(SCALE)),
    }

  def train(self, params, stats, batch, frozen, rng):
    network = {name: leaf for name, leaf in params.items() if name != OWN}
    features, updates = self.apply_training(network, stats, batch, rng)
    drawn = jax.random.randint(rng, (len(features),), 0, self.captions)
    tokens = jnp.take_along_axis(batch["text"], drawn[:, None, None], axis=1)[:, 0]
    measures = self._compared(features, tokens, params[OWN], None)
    metrics = {name: jnp.mean(values) for name, values in measures.items()}
    return metrics["loss"], (
      updates.get("batch_stats", {}),
      metrics | {"scale": _scale(params[OWN])},
    )

  def evaluate(self, variables, batch, frozen):
    features = self.apply_evaluating(variables, batch)
    return self._compared(features, batch["text"][:, 0], frozen[OWN], self.counted(batch))

  def _compared(
    self, features: jax.Array, tokens: jax.Array, own: Any, present: jax.Array | None
  ) -> dict[str, jax.Array]:
    """Returns, of each picture, the loss and whether the best text of the batch equals its own."""
    outputs: Any = self.text.apply({"params": own["text"]}, tokens)
    texts = unit(outputs)
    images = unit(features)
    same = jnp.all(tokens[:, None] == tokens[None], axis=-1)
    cosines = images @ texts.T
    if present is not None:
      cosines = jnp.where(present, cosines, -2.0)
    best = jnp.argmax(cosines, axis=-1)
    return {
      "loss": losses.clip(images, texts, _scale(own), same, present),
      "retrieval": jnp.take_along_axis(same, best[:, None], axis=-1)[:, 0].astype(jnp.float32),
    }

  def save(self, folder: pathlib.Path, params: Any) -> None:
    """Writes the text tower, with the scale of the cosines, and its tokenizer."""
    own = jax.tree.map(np.asarray, params[OWN])
    bundles.save(
      folder / TEXT,
      self.text,
      {"params": own["text"]},
      extras={"logit_scale": np.asarray(np.log(_scale(own)), np.float32)},
    )
    self.tokenizer.source.save_pretrained(folder / TOKENIZER)

  def check(self, side: int) -> None:
    """Raises InputError unless both towers return features of the same width."""
    check_features(self.model, "image tower")

    def features(images, tokens):
      image, text = self.model.ops.encoding(images), self.text
      own, other = (m.init(jax.random.key(0), x) for m, x in ((self.model, image), (text, tokens)))
      result: Any = self.model.apply(own, image), text.apply(other, tokens)
      return result

    colors = self.model.ops.encoding.colors
    images = jax.ShapeDtypeStruct((1, side, side, colors), jnp.float32)
    own, other = jax.eval_shape(features, images, self.text.input_spec)
    if own.shape != other.shape:
      raise InputError(
        f"The image tower has features of shape {own.shape[1:]}, the text tower {other.shape[1:]}.",
        f"Set --config.text.projection={own.shape[-1]}.",
      )


def _scale(own: Any) -> jax.Array:
  return jnp.minimum(jnp.exp(own["logit_scale"]), MOST)

"""The objective of supervised training with labels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from .losses import Loss
from .objective import Objective


@dataclasses.dataclass(frozen=True, eq=False)
class Supervised(Objective):
  """Classification.

  Attributes:
    loss: Its mean over the batch is minimised.
    eval_loss: Of each example in evaluations; None for the same.
    multi_label: Whether labels are 0s and 1s [N, C]; then a picture is correct if all of them are.
  """

  loss: Loss
  eval_loss: Loss | None = None
  multi_label: bool = False

  @property
  def measure(self):
    return "mean_average_precision" if self.multi_label else "accuracy"

  def train(self, params, stats, batch, frozen, rng):
    logits, updates = self.apply_training(params, stats, batch, rng)
    metrics = {
      "loss": jnp.mean(self.loss(logits, batch["label"])),
      "accuracy": jnp.mean(self._correct(logits, batch["label"])),
    }
    return metrics["loss"], (updates.get("batch_stats", {}), metrics)

  def evaluate(self, variables, batch, frozen):
    logits = self.apply_evaluating(variables, batch)
    values = {
      "loss": (self.eval_loss or self.loss)(logits, batch["label"]),
      "accuracy": self._correct(logits, batch["label"]),
    }
    # What a ranking needs, which no sum over examples can stand for.
    return values | ({"logits": logits} if self.multi_label else {})

  def _correct(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
    if self.multi_label:
      return _all_correct(logits, labels)
    classes = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
    return (jnp.argmax(logits, axis=-1) == classes).astype(jnp.float32)


def _all_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Whether every label is on the right side of probability one half; for blends, of one half."""
  return jnp.all((logits > 0) == (labels > 0.5), axis=-1).astype(jnp.float32)

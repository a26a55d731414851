"""Objectives of language models: labels, masked tokens, or next tokens."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from .objective import Objective
from .supervised import Supervised


class _Reading(Objective):
  """An objective whose network takes token ids and the mask of non-padding tokens."""

  def inputs(self, batch):
    return (batch["ids"],), {"mask": batch["mask"]}

  def counted(self, batch):
    return batch["counts"] > 0


@dataclasses.dataclass(frozen=True, eq=False)
class TextLabels(_Reading, Supervised):
  """Classification of texts; fields as of `Supervised`."""


@dataclasses.dataclass(frozen=True, eq=False)
class TokenPrediction(_Reading):
  """Cross-entropy of chosen tokens: hidden ones (BERT), or the next ones (GPT).

  A batch says what is to be predicted where, "labels" int [N, L] and "weights" float [N, L]. The
  loss is the mean over what counts, in the whole batch: "share" float [N], the number of such
  tokens of all processes and accumulated parts together, divided by their rows, makes it so.
  Evaluations are means over tokens, too, and their count is of tokens.
  """

  @property
  def measure(self):
    return "log_likelihood"

  def train(self, params, stats, batch, frozen, rng):
    logits, updates = self.apply_training(params, stats, batch, rng)
    losses, correct, weights = _by_token(logits, batch)
    total = jnp.maximum(jnp.sum(batch["share"]), 1e-9)
    metrics = {"loss": jnp.sum(losses * weights) / total}
    metrics["accuracy"] = jnp.sum(correct * weights) / total
    return metrics["loss"], (updates.get("batch_stats", {}), metrics)

  def evaluate(self, variables, batch, frozen):
    losses, correct, weights = _by_token(self.apply_evaluating(variables, batch), batch)
    number = jnp.sum(weights, axis=1)
    loss, accuracy = (
      jnp.sum(values * weights, axis=1) / jnp.maximum(number, 1) for values in (losses, correct)
    )
    return {"loss": loss, "accuracy": accuracy, "log_likelihood": -loss, "weight": number}


def _by_token(logits: jax.Array, batch) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns losses, whether the guess is right, and weights, float32 [N, L] each."""
  logits = logits.astype(jnp.float32)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
  correct = jnp.argmax(logits, axis=-1) == batch["labels"]
  return losses, correct.astype(jnp.float32), batch["weights"]

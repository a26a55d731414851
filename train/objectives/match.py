"""Label-free matching: a student learns the predictions of the network that it was made of.

Distillation with the teacher's probabilities as soft targets (arXiv 1503.02531), under the losses
of B-cos networks: binary cross-entropy drives each logit to the log odds of its class, which is
what localises, and what a start in closed form aims at already.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from bcos_jax.errors import InputError

from .losses import Loss
from .objective import Objective
from .teacher import Teacher


@dataclasses.dataclass(frozen=True, eq=False)
class Match(Objective):
  """A student predicts what its teacher does; labels are not read.

  Attributes:
    teacher: The frozen network, with classes.
    loss: Of the student's logits and the teacher's probabilities.
  """

  teacher: Teacher
  loss: Loss

  @property
  def measure(self):
    return "agreement"

  def train(self, params, stats, batch, frozen, rng):
    logits, updates = self.apply_training(params, stats, batch, rng)
    measures = self._compared(logits, batch, frozen)
    metrics = {name: jnp.mean(values) for name, values in measures.items()}
    return metrics["loss"], (updates.get("batch_stats", {}), metrics)

  def evaluate(self, variables, batch, frozen):
    return self._compared(self.apply_evaluating(variables, batch), batch, frozen)

  def _compared(self, logits: jax.Array, batch, frozen) -> dict[str, jax.Array]:
    """Returns loss and agreement with the teacher of each example, [N] each."""
    wanted = self.teacher.outputs(frozen, batch["image"]).astype(jnp.float32)
    agreed = jnp.argmax(logits, axis=-1) == jnp.argmax(wanted, axis=-1)
    return {
      "loss": self.loss(logits, jax.nn.softmax(wanted)),
      "agreement": agreed.astype(jnp.float32),
    }

  def check(self, side: int) -> None:
    """Raises InputError unless both networks have the same classes."""
    del side
    own, other = (getattr(m, "num_classes", 0) for m in (self.model, self.teacher.model))
    if own != other or not own:
      raise InputError(
        f"The student has {own} classes, the teacher {other}: nothing can be matched.",
        "Take the classifier that the student was made of; features are aligned with "
        "--config.objective.name=align.",
      )

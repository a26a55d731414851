"""The objective of B-cosified CLIP: contrastive matching of the teacher's embeddings.

The published recipe (arXiv 2411.00715, section 5): the teacher's image embeddings stand where
SigLIP's loss has texts; scale 10 and bias -10 are constants.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from . import losses
from .objective import OWN, Objective
from .teacher import Teacher, check_features, check_width, unit


@dataclasses.dataclass(frozen=True, eq=False)
class ContrastiveDistillation(Objective):
  """A student's embeddings against those of a teacher.

  Attributes:
    teacher: The frozen network.
    scale: Of the cosines.
    bias: Added to the scaled cosines.
    learned: Whether scale (as its logarithm) and bias are learned, from these values on.
    groups: Into how many parts the batch is cut; negatives come from the same part alone. 1 takes
      them from the whole batch, of all devices; the published code has one part per device.
  """

  teacher: Teacher
  scale: float = 10.0
  bias: float = -10.0
  learned: bool = False
  groups: int = 1

  @property
  def measure(self):
    return "similarity"

  def own_parameters(self):
    if not self.learned:
      return {}
    return {
      "logit_scale": jnp.float32(math.log(self.scale)),
      "logit_bias": jnp.float32(self.bias),
    }

  def train(self, params, stats, batch, frozen, rng):
    own = params.get(OWN, {})
    network = {name: leaf for name, leaf in params.items() if name != OWN}
    features, updates = self.apply_training(network, stats, batch, rng)
    measures = self._compared(features, batch, frozen, own)
    metrics = {name: jnp.mean(values) for name, values in measures.items()}
    if own:
      metrics |= {"scale": jnp.exp(own["logit_scale"]), "bias": own["logit_bias"]}
    return metrics["loss"], (updates.get("batch_stats", {}), metrics)

  def evaluate(self, variables, batch, frozen):
    features = Teacher(self.model).outputs(variables, batch["image"])
    return self._compared(features, batch, frozen, {})

  def _compared(self, features, batch, frozen, own) -> dict[str, jax.Array]:
    """Returns loss and cosine of each example; the loss depends on how many share a batch."""
    student, teacher = (
      unit(x).reshape(self.groups, -1, x.shape[-1])
      for x in (features, self.teacher.outputs(frozen, batch["image"]))
    )
    scale = jnp.exp(own["logit_scale"]) if own else self.scale
    bias = own["logit_bias"] if own else self.bias
    present = batch.get("mask", jnp.ones(len(features))).reshape(self.groups, -1) > 0
    loss = jax.vmap(lambda s, t, p: losses.siglip(s, t, scale, bias, p))(student, teacher, present)
    return {
      "loss": loss.reshape(-1),
      "similarity": jnp.sum(student * teacher, axis=-1).reshape(-1),
    }

  def check(self, side: int) -> None:
    """Raises InputError unless student and teacher return features of the same width."""
    images = jax.ShapeDtypeStruct((1, side, side, self.model.ops.encoding.colors), jnp.float32)

    def features(teacher: Teacher):
      def run(images):
        variables = teacher.model.init(jax.random.key(0), teacher.model.ops.encoding(images))
        return teacher.outputs(variables, images)

      return jax.eval_shape(run, images)

    for model, role in ((self.model, "student"), (self.teacher.model, "teacher")):
      check_features(model, role)
    check_width(features(Teacher(self.model)), features(self.teacher), "features")

"""What every attack is given, checked, and the loop over batches of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...attribution.images import ImageNetwork, prepare
from ...batches import Progress, in_batches
from ...errors import InputError, unknown_name
from ...ops import Ops
from ..scores import check_targets
from .ascents import LOSSES, RADII, State, begin, inside


@dataclasses.dataclass(frozen=True)
class Attacked:
  """A network under attack, checked.

  Attributes:
    network: As it predicts, in float32; never in explanation mode.
    images: float32 [N, H, W, colors] in [0, 1].
    targets: int [N], the true classes.
    norm: Of changes, a name of `RADII`.
    loss: A name of `LOSSES`.
    epsilon: Radius of the ball, in the images' unit.
  """

  network: ImageNetwork
  images: np.ndarray
  targets: np.ndarray
  norm: str
  loss: str
  epsilon: float

  def by_batch(
    self,
    change: Callable[[State, jax.Array, np.ndarray], jax.Array],
    batch_size: int,
    progress: Progress,
  ) -> np.ndarray:
    """Changes all images, `batch_size` at a time; exactly inside of the ball.

    Args:
      change: (fresh state of B images, their classes [B], their numbers [B]) -> changed images.
      batch_size: Images on the device at once.
      progress: Wraps the loop over batches.
    """

    def changed(batch) -> jax.Array:
      clean, targets, rows = batch
      return change(begin(clean), jnp.asarray(targets, jnp.int32), rows)

    rows = self.images, self.targets, np.arange(len(self.images))
    found = in_batches(changed, rows, batch_size, progress)
    return inside(found, self.images, self.norm, self.epsilon)


def check_attack(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  norm: str,
  epsilon: float | None,
  loss: str,
) -> Attacked:
  """Checks what an attack is given; a radius of None is that of the norm in `RADII`.

  Raises:
    InputError: Images, targets, variables or settings that cannot be used.
  """
  if norm not in RADII:
    raise unknown_name("norm", norm, RADII)
  if loss not in LOSSES:
    raise unknown_name("loss", loss, LOSSES)
  epsilon = check_length("epsilon", RADII[norm] if epsilon is None else epsilon)
  model = model.clone(ops=_of_predictions(model.ops))
  # Class 0, as every network has that.
  task = prepare(ImageNetwork(model, variables), images, 0, batch_size=1)
  (images,) = task.inputs
  classes = jax.eval_shape(task.network.predict, images[:1]).shape[1]
  targets = check_targets(targets, len(images), classes)
  fewest = 3 if loss == "ratio" else 2
  if classes < fewest:
    fix = "Use loss='margin'." if classes == 2 else "Attack a network with several classes."
    raise InputError(
      f"The network has {classes} class{'es' * (classes > 1)}, expected at least {fewest}.", fix
    )
  return Attacked(task.network, images.clip(0, 1), targets, norm, loss, epsilon)


def _of_predictions(ops: Ops) -> Ops:
  """Returns the family as it predicts, without the constant that it adds to all logits.

  The constant changes neither predictions nor losses, but float32 would round small logits of
  B-cos networks to its digits.
  """
  if ops.detach:
    ops = dataclasses.replace(ops, detach=False)
  if ops.has_logit_layer:
    ops = ops.with_logits(0.0, getattr(ops, "logit_temperature", 1.0))
  return ops


def check_length(name: str, value: float) -> float:
  """Returns a radius or step as a number; InputError unless it is one of at least 0."""
  number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
  if not number or not 0 <= value < np.inf:
    raise InputError(
      f"{name}={value!r}, expected a number of at least 0.",
      "It is in the unit of the images, whose values span 0 to 1; for example 2 / 255.",
    )
  return float(value)


def check_starts(restarts: int, random_start: bool) -> None:
  """Raises InputError for several ascents from the same start."""
  if restarts > 1 and not random_start:
    raise InputError(
      f"restarts={restarts} without a random start, expected 1.",
      "Without it all restarts give the same result.",
    )

"""Adversarial attacks: small perturbations that change a network's prediction.

Both attacks climb a loss of the network's logits for the true class, in colours: the network
encodes every changed picture itself, so that all of its channels belong to a picture. What is
differentiated is the network as it predicts, its dynamic weights included, and never explanation
mode, whose derivative is the linear map that was applied rather than the slope of the output.

    cross_entropy  -log softmax(logits)[true class], as published. It is the same for every
                   family, also for B-cos networks, which are trained with a binary cross-entropy
                   per class: both predict the largest logit, a constant logit bias changes
                   neither, and the binary one would also reward lower logits that change no
                   prediction.
    margin         the largest other logit less that of the true class (arXiv 1608.04644, section
                   V-A, without its threshold): above 0 exactly where the prediction is wrong.

An attack that finds nothing proves nothing. Logits far apart saturate the cross-entropy, whose
gradient then vanishes in float32 although a better attack exists (gradient masking,
arXiv 1802.00420); logits close together make it lower the true class and raise all others alike,
rather than the nearest. Logits of B-cos networks have scales of their own, so compare both losses,
more steps and more restarts before calling a network robust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..attribution.images import ImageNetwork, prepare
from ..batches import Progress, in_batches
from ..errors import InputError, unknown_name
from .ascents import LOSSES, RADII, Sizes, State, anywhere, begin, climb, inside, look
from .scores import check_count, check_targets


def fgsm(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  epsilon: float = RADII["linf"],
  loss: str = "cross_entropy",
  batch_size: int = 32,
  progress: Progress = iter,
) -> np.ndarray:
  """One step of `epsilon` along the sign of the loss' gradient (FGSM, arXiv 1412.6572, section 4).

  Args:
    model: A network made by `create` or `bcosify`, or another with `ops` and logits [N, C].
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    targets: int [N], the true classes.
    epsilon: Largest change of any colour value, in the images' unit, at least 0; by default
      2 / 255.
    loss: "cross_entropy" or "margin"; see the module.
    batch_size: Images on the device at once; bounds memory.
    progress: Wraps the loop over batches, e.g. `tqdm.tqdm`.

  Returns:
    Changed images, float32 [N, H, W, colors], in [0, 1] and within `epsilon` of the images. A
    value whose gradient is 0 stays as it is. Computed in float32, at the highest precision.

  Raises:
    InputError: Images, targets, variables or settings that cannot be used.
  """
  attack = _prepare(model, variables, images, targets, "linf", epsilon, epsilon, loss)
  return _by_batch(
    attack, lambda state, classes, rows: attack.climb(state, classes).images, batch_size, progress
  )


def pgd(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  norm: str = "linf",
  epsilon: float | None = None,
  steps: int = 20,
  step_size: float | None = None,
  restarts: int = 1,
  random_start: bool = True,
  loss: str = "cross_entropy",
  batch_size: int = 32,
  seed: int = 0,
  progress: Progress = iter,
) -> np.ndarray:
  """Projected gradient ascent on the loss (PGD, arXiv 1706.06083, section 2.1).

  Each step adds `step_size` times the sign of the gradient ("linf") or times the gradient at
  length 1 ("l2"), then goes back into the ball around the image, and into [0, 1]. Of all that was
  visited, over all steps and restarts, an image keeps what is classified wrongly, and among equals
  what has the largest loss.

  Args:
    model, variables, images, targets: As for `fgsm`.
    norm: Of the change: "linf", its largest absolute value, or "l2", its length over the whole
      image, all pixels and colours.
    epsilon: Radius of the ball, in the images' unit; None takes 2 / 255 for "linf" and 0.5 for
      "l2".
    steps: Gradients per restart.
    step_size: In the same unit; None takes 2.5 * epsilon / steps, as published: an ascent can
      reach the border of the ball from any start, and move along it.
    restarts: Ascents from other random starts.
    random_start: Whether to start anywhere in the ball, evenly, rather than at the image.
    loss, batch_size, progress: As for `fgsm`.
    seed: Of the starts; that of an image depends on its number, and not on its batch.

  Returns:
    As for `fgsm`, within the ball.

  Raises:
    InputError: As for `fgsm`; more than one restart from the same start.
  """
  _check_ascents(norm, steps, restarts, random_start)
  epsilon = _check_length("epsilon", RADII[norm] if epsilon is None else epsilon)
  step_size = 2.5 * epsilon / steps if step_size is None else step_size
  attack = _prepare(model, variables, images, targets, norm, epsilon, step_size, loss)

  def change(state: State, classes: jax.Array, rows: np.ndarray) -> jax.Array:
    for restart in range(restarts):
      if random_start:
        start = anywhere(norm, seed, restart, rows, state.clean, epsilon)
        state = state._replace(images=start)
      state = attack.ascend(state, classes, steps)
    return state.best

  return _by_batch(attack, change, batch_size, progress)


def _check_ascents(norm: str, steps: int, restarts: int, random_start: bool) -> None:
  if norm not in RADII:
    raise unknown_name("norm", norm, RADII)
  check_count("steps", steps)
  check_count("restarts", restarts)
  if restarts > 1 and not random_start:
    raise InputError(
      f"restarts={restarts} without a random start, expected 1.",
      "Without it all restarts give the same result.",
    )


@dataclasses.dataclass(frozen=True)
class _Attack:
  """What both attacks are given, checked."""

  network: ImageNetwork
  images: np.ndarray
  targets: np.ndarray
  norm: str
  loss: str
  sizes: Sizes

  def climb(self, state: State, classes: jax.Array) -> State:
    return climb(self.norm, self.loss, self.network, classes, state, self.sizes)

  def ascend(self, state: State, classes: jax.Array, steps: int) -> State:
    """Returns the state after some steps, with the last place looked at."""
    # A loop on the device would be slower on CPUs, where XLA runs its convolutions on one thread.
    for _ in range(steps):
      state = self.climb(state, classes)
    return look(self.loss, self.network, classes, state)


def _prepare(model, variables, images, targets, norm, epsilon, step_size, loss) -> _Attack:
  sizes = Sizes(_check_length("epsilon", epsilon), _check_length("step_size", step_size))
  if loss not in LOSSES:
    raise unknown_name("loss", loss, LOSSES)
  if model.ops.detach:
    model = model.clone(ops=dataclasses.replace(model.ops, detach=False))
  # Class 0, as every network has that.
  task = prepare(ImageNetwork(model, variables), images, 0, batch_size=1)
  (images,) = task.inputs
  classes = jax.eval_shape(task.network.predict, images[:1]).shape[1]
  targets = check_targets(targets, len(images), classes)
  if classes < 2:
    raise InputError(
      "The network has 1 class, expected at least 2.", "Attack a network with several classes."
    )
  return _Attack(task.network, images.clip(0, 1), targets, norm, loss, sizes)


def _check_length(name: str, value: float) -> float:
  number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
  if not number or not 0 <= value < np.inf:
    raise InputError(
      f"{name}={value!r}, expected a number of at least 0.",
      "It is in the unit of the images, whose values span 0 to 1; for example 2 / 255.",
    )
  return float(value)


def _by_batch(
  attack: _Attack,
  change: Callable[[State, jax.Array, np.ndarray], jax.Array],
  batch_size: int,
  progress: Progress,
) -> np.ndarray:
  """Changes all images, `batch_size` at a time."""

  def changed(batch) -> jax.Array:
    clean, targets, rows = batch
    return change(begin(clean), jnp.asarray(targets, jnp.int32), rows)

  rows = attack.images, attack.targets, np.arange(len(attack.images))
  found = in_batches(changed, rows, batch_size, progress)
  return inside(found, attack.images, attack.norm, attack.sizes.epsilon)

"""Attacks by plain gradients of a loss: one step (FGSM), or projected ascent (PGD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from ...batches import Progress
from ..scores import check_count
from .ascents import RADII, Sizes, State, anywhere, climb, look
from .checked import Attacked, check_attack, check_length, check_starts


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
    loss: "cross_entropy", "margin" or "ratio", see `bcos_jax.metrics.attacks`.
    batch_size: Images on the device at once; bounds memory.
    progress: Wraps the loop over batches, e.g. `tqdm.tqdm`.

  Returns:
    Changed images, float32 [N, H, W, colors], in [0, 1] and within `epsilon` of the images. A
    value whose gradient is 0 stays as it is. Computed in float32, at the highest precision.

  Raises:
    InputError: Images, targets, variables or settings that cannot be used.
  """
  attack = check_attack(model, variables, images, targets, "linf", epsilon, loss)
  sizes = Sizes(attack.epsilon, attack.epsilon)

  def change(state: State, classes: jax.Array, rows: np.ndarray) -> jax.Array:
    return climb("linf", loss, attack.network, classes, state, sizes).images

  return attack.by_batch(change, batch_size, progress)


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
  check_count("steps", steps)
  check_count("restarts", restarts)
  check_starts(restarts, random_start)
  attack = check_attack(model, variables, images, targets, norm, epsilon, loss)
  step_size = 2.5 * attack.epsilon / steps if step_size is None else step_size
  sizes = Sizes(attack.epsilon, check_length("step_size", step_size))

  def change(state: State, classes: jax.Array, rows: np.ndarray) -> jax.Array:
    for restart in range(restarts):
      if random_start:
        start = anywhere(norm, seed, restart, rows, state.clean, attack.epsilon)
        state = state._replace(images=start)
      state = _ascend(attack, state, classes, steps, sizes)
    return state.best

  return attack.by_batch(change, batch_size, progress)


def _ascend(attack: Attacked, state: State, classes: jax.Array, steps: int, sizes: Sizes) -> State:
  """Returns the state after some steps, with the last place looked at."""
  # A loop on the device would be slower on CPUs, where XLA runs its convolutions on one thread.
  for _ in range(steps):
    state = climb(attack.norm, attack.loss, attack.network, classes, state, sizes)
  return look(attack.loss, attack.network, classes, state)

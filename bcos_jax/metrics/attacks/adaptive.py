"""Auto-PGD (arXiv 2003.01690), with the gradients that an attacker of B-cos networks can choose.

The published attack has no step size to tune. Beside the gradient of the network it can climb
along that of a stand-in, as the backward pass of BPDA does (arXiv 1802.00420, section 4.1): values,
losses and predictions always are those of the network itself.

    full      The gradient of the network.
    held      The linear map W(x) of the explanation, every dynamic weight a constant: what the
              scales |cos|^(B-1) do with a change is left out.
    linear    The network of the same weights with B = 1 everywhere. A B-cos unit whose input is
              orthogonal to its weights has response 0 and slope 0, and one nearly so has next to
              none, more so the larger B; with B = 1 the slope is the weight, wherever the input is.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...attribution.images import ImageNetwork
from ...batches import Progress
from ...errors import unknown_name
from ..scores import check_count
from .ascents import LOSSES, State, anywhere, back, evaluated, kept, look, unit
from .checked import Attacked, check_attack, check_starts

Array = jax.Array

SLOPES = ("full", "held", "linear")
"""What `apgd` can climb along."""

# Of Algorithm 1 and section 3: weight of a step against the last one's direction, the share of
# steps that have to raise the loss, and the lengths of the stretches between two checks.
_MOMENTUM, _RAISED = 0.75, 0.75
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06


def apgd(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  norm: str = "linf",
  epsilon: float | None = None,
  steps: int = 50,
  restarts: int = 1,
  random_start: bool = True,
  loss: str = "ratio",
  slopes: str = "full",
  batch_size: int = 32,
  seed: int = 0,
  progress: Progress = iter,
) -> np.ndarray:
  """Projected ascent with momentum whose steps halve where they do not help (Auto-PGD).

  Croce & Hein (arXiv 2003.01690, Algorithm 1): steps begin at 2 * epsilon; at checks, which come
  more often as the attack goes on, an image whose loss rose in less than 75 % of the steps since
  the last check, or that has neither had a shorter step nor a better place since, goes back to its
  best place with half the step. What an image keeps is as for `pgd`.

  Args:
    model, variables, images, targets, norm, epsilon: As for `pgd`.
    steps: Gradients per restart.
    restarts: Ascents from other random starts.
    random_start: Whether to start anywhere in the ball, evenly, rather than at the image.
    loss: "ratio", the published one, "cross_entropy" or "margin"; see `bcos_jax.metrics.attacks`.
    slopes: "full", "held" or "linear"; see the module. "linear" is "full" for a network whose
      family has no B.
    batch_size, seed, progress: As for `pgd`.

  Returns:
    Changed images, as of `pgd`.

  Raises:
    InputError: As for `pgd`; unknown slopes; the loss "ratio" with less than 3 classes.
  """
  check_count("steps", steps)
  check_count("restarts", restarts)
  check_starts(restarts, random_start)
  if slopes not in SLOPES:
    raise unknown_name("slopes", slopes, SLOPES)
  attack = check_attack(model, variables, images, targets, norm, epsilon, loss)
  stand_in = _stand_in(attack.network, slopes)

  def change(state: State, classes: Array, rows: np.ndarray) -> Array:
    for restart in range(restarts):
      if random_start:
        start = anywhere(norm, seed, restart, rows, state.clean, attack.epsilon)
        state = state._replace(images=start)
      state = _ascend(attack, stand_in, state, classes, steps)
    return state.best

  return attack.by_batch(change, batch_size, progress)


def _ascend(
  attack: Attacked, stand_in: ImageNetwork | None, state: State, classes: Array, steps: int
) -> State:
  """Returns the state after some steps from where it is, with the last place looked at."""
  how, run = (attack.norm, attack.loss, attack.network, stand_in), _begin(state, attack.epsilon)
  for step, window in enumerate(_windows(steps)):
    run = _climb(*how, classes, run, attack.epsilon, step, window)
  return look(attack.loss, attack.network, classes, run.state)


def _stand_in(network: ImageNetwork, slopes: str) -> ImageNetwork | None:
  """Returns the network whose gradients are taken, None for that under attack."""
  ops = network.model.ops
  if slopes == "held":
    ops = ops.detached()
  elif slopes == "linear":
    # A learned B is a parameter of the layers, which those without do not read.
    linear = {"b": 1.0, "learn_b": False, "b_per_layer": ()}
    known = {field.name for field in dataclasses.fields(ops)}
    ops = dataclasses.replace(ops, **{k: v for k, v in linear.items() if k in known})
  if ops == network.model.ops:
    return None
  return dataclasses.replace(network, model=network.model.clone(ops=ops))


def _windows(steps: int) -> list[int]:
  """Returns for every step how many steps a check then looks back on; 0 where there is none."""
  windows, share, stretch, last = [0] * steps, _FIRST, _FIRST, 0
  # Rounded, as 0.22 + 0.19 + ... would pass 1 by its last digit.
  while round(share, 9) <= 1:
    check = int(np.ceil(round(share * steps, 9)))
    if last < check < steps:
      windows[check] = check - last
      last = check
    stretch = max(stretch - _SHRINK, _LEAST)
    share += stretch
  return windows


class _Run(NamedTuple):
  """An ascent of B images and what its checks look at; [B] where nothing else is said.

  Attributes:
    state: Where the ascent is, and what is kept of it.
    before: Where it was one step ago, [B, H, W, colors].
    loss: That of the step before.
    top: The place of the largest loss, [B, H, W, colors].
    top_slope: The gradient there.
    top_loss: The loss there.
    step: Length of the next step.
    rises: Steps since the last check that raised the loss.
    old_step: `step` after the last check.
    old_top: `top_loss` at the last check.
  """

  state: State
  before: Array
  loss: Array
  top: Array
  top_slope: Array
  top_loss: Array
  step: Array
  rises: Array
  old_step: Array
  old_top: Array


def _begin(state: State, epsilon: float) -> _Run:
  images, count = state.images, len(state.images)
  lowest, steps = jnp.full(count, -jnp.inf), jnp.full(count, 2 * epsilon, jnp.float32)
  return _Run(
    state=state,
    before=images,
    loss=jnp.full(count, jnp.inf),  # The first look is no rise.
    top=images,
    top_slope=images,
    top_loss=lowest,
    step=steps,
    rises=jnp.zeros(count, jnp.int32),
    old_step=steps,
    old_top=lowest,
  )


@jax.jit(static_argnums=(0, 1))
def _climb(
  norm: str,
  loss: str,
  network: ImageNetwork,
  stand_in: ImageNetwork | None,
  classes: Array,
  run: _Run,
  epsilon: float,
  step: int,
  window: int,
) -> _Run:
  """Looks at where the ascent is, checks its progress over `window` steps, and goes one step on."""
  slope, (losses, wrong) = _slope(loss, network, stand_in, classes, run.state.images)
  run = _looked(run, slope, losses, wrong)
  run, slope = _checked(run, slope, step, window)
  here, clean = run.state.images, run.state.clean
  direction = jnp.sign(slope) if norm == "linf" else unit(slope)
  ahead = back(here + _wide(run.step) * direction, clean, norm, epsilon)
  # The first step has no direction to keep.
  share = jnp.where(step == 0, 1.0, _MOMENTUM)
  moved = here + share * (ahead - here) + (1 - share) * (here - run.before)
  moved = back(moved, clean, norm, epsilon)
  return run._replace(before=here, state=run.state._replace(images=moved))


def _slope(loss, network, stand_in, classes, images) -> tuple[Array, tuple[Array, Array]]:
  """Returns the direction to climb, and for each image its loss and whether it is wrong."""
  if stand_in is None:
    return jax.grad(lambda images: evaluated(loss, network, classes, images), has_aux=True)(images)
  logits = network.predict(images)
  by_logits = jax.grad(lambda logits: jnp.sum(LOSSES[loss](logits, classes)))(logits)
  slope = jax.vjp(stand_in.predict, images)[1](by_logits)[0]
  return slope, (LOSSES[loss](logits, classes), jnp.argmax(logits, axis=1) != classes)


def _looked(run: _Run, slope: Array, losses: Array, wrong: Array) -> _Run:
  """Returns the run now that the loss and the gradient of its place are known."""
  higher = losses > run.top_loss
  return run._replace(
    state=kept(run.state, losses, wrong),
    rises=run.rises + (losses > run.loss),
    loss=losses,
    top=jnp.where(_wide(higher), run.state.images, run.top),
    top_slope=jnp.where(_wide(higher), slope, run.top_slope),
    top_loss=jnp.where(higher, losses, run.top_loss),
  )


def _checked(run: _Run, slope: Array, step: int, window: int) -> tuple[_Run, Array]:
  """Returns the run, and the gradient where it is, after a check of the last `window` steps."""
  check = window > 0
  few = run.rises < _RAISED * window
  stuck = (run.step == run.old_step) & (run.top_loss == run.old_top)
  halve = check & (few | stuck)
  images = jnp.where(_wide(halve), run.top, run.state.images)
  steps = jnp.where(halve, run.step / 2, run.step)
  return run._replace(
    state=run.state._replace(images=images),
    loss=jnp.where(halve, run.top_loss, run.loss),
    step=steps,
    rises=jnp.where(check, 0, run.rises),
    # As published: the step that led to this check, so that one just halved gets its time.
    old_step=jnp.where(check, run.step, run.old_step),
    old_top=jnp.where(check, run.top_loss, run.old_top),
  ), jnp.where(_wide(halve), run.top_slope, slope)


def _wide(values: Array) -> Array:
  """Returns [B] as [B, 1, 1, 1]."""
  return values[:, None, None, None]

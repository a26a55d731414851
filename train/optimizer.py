"""Optimisers, schedules and adaptive gradient clipping of the published recipes, in optax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import optax

from bcos_jax.errors import InputError

from .config import check_values, flatten

PyTree = Any
Schedule = Callable[[Any], Any]  # of a step, int32 or int, to a number

WARMUP_START = 0.01  # LinearLR's start factor in every published recipe with a warm-up.


DROP, DROP_EPOCHS = 0.1, 30  # torchvision's first ImageNet recipe


class Optimizer(NamedTuple):
  """An optax transformation and the information that the loop needs.

  Build it once per run and outside jit: optax states carry the transformation in their tree
  structure, so a second one makes `jit(..., out_shardings)` fail.

  Attributes:
    tx: The transformation of the whole parameter tree.
    learning_rate: Learning rate by step.
    b: The exponent B by step if it is scheduled, else None.
  """

  tx: optax.GradientTransformation
  learning_rate: Schedule
  b: Schedule | None

  def start(self, params: PyTree) -> PyTree:
    """Returns `params` as the first step sees them: a scheduled B has its first value.

    Raises:
      InputError: if B is scheduled and no parameter is named `b`.
    """
    if self.b is None:
      return params
    if not any(_is_b(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
      raise InputError(
        "optimizer.b_schedule is set, but the network has no parameter named 'b'.",
        "Set --config.ops.learn_b=true, or --config.optimizer.b_schedule.steps=0.",
      )
    return set_b(params, self.b(0))


def build(config: ConfigDict, *, steps: int, steps_per_epoch: int) -> Optimizer:
  """Builds the optimiser that `config` (the `optimizer` section of a recipe) describes.

  Args:
    config: See configs/sections for the fields.
    steps: Steps of the whole run.
    steps_per_epoch: Used by schedules that step once per epoch.

  Returns:
    The optimiser.

  Raises:
    InputError: for an unknown optimiser or schedule or a value out of range.
  """
  check_values(flatten(config), "optimizer")
  learning_rate = schedule(
    config.schedule,
    config.lr,
    steps=steps,
    warmup=config.warmup_steps,
    decay=config.decay_steps,
    steps_per_epoch=steps_per_epoch,
  )
  tx = optax.chain(
    *_clipping(config), *_direction(config), optax.scale_by_learning_rate(learning_rate)
  )
  if config.b_schedule.steps == 0:
    return Optimizer(tx, learning_rate, None)
  b = optax.linear_schedule(config.b_schedule.start, config.b_schedule.end, config.b_schedule.steps)
  tx = optax.partition({"rest": tx, "b": follow(b)}, _label_b)
  return Optimizer(tx, learning_rate, b)


def schedule(
  name: str, lr: float, *, steps: int, warmup: int = 0, decay: int = 0, steps_per_epoch: int = 1
) -> Schedule:
  """Returns the learning rate by step.

  Args:
    name: "cosine" (changes every step), "cosine_epochs" (changes once per epoch), "linear" (to 0,
      by step), "step_epochs" (a tenth every 30 epochs) or "constant".
    lr: Peak learning rate.
    steps: Steps of the whole run.
    warmup: Steps of linear warm-up from 0.01 x `lr`, or from 0 for "linear", as transformers do.
    decay: Steps of half a cosine to 0 at the end of "constant".
    steps_per_epoch: Steps per epoch, for the schedules by epoch.

  Returns:
    A function of the step, int or int array, to the learning rate.
  """
  unit = steps_per_epoch if name.endswith("_epochs") else 1
  total, ramp = -(-steps // unit), -(-warmup // unit)

  def learning_rate(step):
    t = jnp.minimum(jnp.asarray(step) // unit, total)
    factor = 1.0
    if name.startswith("cosine"):
      factor = cosine(t, total=total, warmup=ramp)
    elif name == "linear":
      factor = (total - t) / max(total - ramp, 1)
    elif name == "step_epochs":
      factor = DROP ** (t // DROP_EPOCHS)
    elif decay:
      factor = cosine(jnp.maximum(t, total - decay), total=total, warmup=total - decay)
    begin = 0.0 if name == "linear" else WARMUP_START
    return lr * jnp.where(t < ramp, begin + (1 - begin) * t / max(ramp, 1), factor)

  return learning_rate


def cosine(t: jax.Array | int, *, total: int, warmup: int = 0) -> jax.Array:
  """Half a cosine from 1 at `warmup` to 0 at `total` (closed form of PyTorch's annealing)."""
  progress = (t - warmup) / max(total - warmup, 1)
  return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def clip_adaptively(factor: float = 0.01, eps: float = 1e-3) -> optax.GradientTransformation:
  """Adaptive gradient clipping as B-cos v2 applies it (NFNets, arXiv 2102.06171).

  Each unit's gradient is scaled down to the norm `factor * max(norm(unit), eps)`. The authors
  state units for PyTorch layouts; in Flax layouts they are: the whole tensor if it has at most
  one axis longer than 1; one output of one tap for [I, O] and [K, I, O]; else one output, that
  is the last axis. Differs from `optax.adaptive_grad_clip` in the rank-3 case.

  Args:
    factor: Largest ratio of the norms of gradient and parameter.
    eps: Least parameter norm, so that zeros can learn.

  Returns:
    A stateless transformation; its update needs `params`.
  """

  def clip(gradient, parameter):
    axes = _unit_axes(parameter)
    norm = jnp.sqrt(jnp.sum(jnp.square(gradient), axis=axes, keepdims=True))
    limit = jnp.sqrt(jnp.sum(jnp.square(parameter), axis=axes, keepdims=True))
    limit = factor * jnp.maximum(limit, eps)
    return jnp.where(norm < limit, gradient, gradient * (limit / jnp.maximum(norm, 1e-6)))

  return optax.stateless(lambda updates, params: jax.tree.map(clip, updates, params))


def decay(
  weight_decay: float,
  rules: Sequence[tuple[str, float]] = (),
  *,
  bias: float = 0.0,
  b: float = 0.0,
) -> optax.GradientTransformation:
  """Adds `rate * parameter` to each update, the rate chosen by the parameter's path.

  Args:
    weight_decay: Rate of the leaves that no rule names.
    rules: (regular expression, rate) pairs, searched for in "stem/conv/kernel"-like paths; the
      first that matches decides.
    bias: Added to the rate of leaves named `bias`.
    b: Rate at which a learned B is drawn towards 2; it decays in no other way. (The published
      parameter is B - 2, which decays to 0: B-cosification, `learn_b`.)

  Returns:
    A stateless transformation; its update needs `params`.
  """

  def rate(path: str) -> float:
    own = next((r for pattern, r in rules if re.search(pattern, path)), weight_decay)
    return own + bias if path.rpartition("/")[2] == "bias" else own

  def add(path, update, parameter):
    if _is_b(path):
      return update + b * (parameter - 2.0) if b else update
    r = rate(path_name(path))
    return update + r * parameter if r else update

  return optax.stateless(
    lambda updates, params: jax.tree_util.tree_map_with_path(add, updates, params)
  )


def follow(values: Schedule) -> optax.GradientTransformation:
  """Makes every leaf equal to `values(step)` instead of following its gradient."""

  def update(updates, state, params=None):
    count = optax.safe_increment(state.count)
    steps = jax.tree.map(lambda p: (values(count) - p).astype(p.dtype), params)
    return steps, optax.ScaleByScheduleState(count)

  return optax.GradientTransformation(
    lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)),
    update,
  )


def set_b(params: PyTree, value: jax.Array | float) -> PyTree:
  """Returns `params` with every leaf named `b` filled with `value`."""
  return jax.tree_util.tree_map_with_path(
    lambda path, p: jnp.full_like(p, value) if _is_b(path) else p, params
  )


def path_name(path: tuple[Any, ...]) -> str:
  """Writes a tree path as "stem/conv/kernel"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _clipping(config: ConfigDict) -> list[optax.GradientTransformation]:
  adaptive = [clip_adaptively(config.agc)] if config.agc else []
  return adaptive + ([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else [])


def _direction(config: ConfigDict) -> list[optax.GradientTransformation]:
  decaying = decay(
    config.weight_decay, tuple(config.decay_rules), bias=config.bias_decay, b=config.b_decay
  )
  return DIRECTIONS[config.name](config, decaying)


def _adam(config: ConfigDict) -> optax.GradientTransformation:
  return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


# As in PyTorch: AdamW decays the parameter itself, Adam and SGD add the decay to the gradient.
DIRECTIONS: dict[str, Callable[..., list[optax.GradientTransformation]]] = {
  "adamw": lambda config, decaying: [_adam(config), decaying],
  "adam": lambda config, decaying: [decaying, _adam(config)],
  "sgd": lambda config, decaying: [
    decaying,
    *([optax.trace(config.momentum)] if config.momentum else []),
  ],
}


def _unit_axes(parameter: jax.Array) -> tuple[int, ...]:
  if sum(size > 1 for size in parameter.shape) <= 1:
    return tuple(range(parameter.ndim))
  return (parameter.ndim - 2,) if parameter.ndim <= 3 else tuple(range(parameter.ndim - 1))


def _is_b(path: tuple[Any, ...]) -> bool:
  return path_name(path[-1:]) == "b"


def _label_b(params: PyTree) -> PyTree:
  return jax.tree_util.tree_map_with_path(lambda path, _: "b" if _is_b(path) else "rest", params)

"""Short fine-tuning of a copy of a network, which two benchmarks ask for before they measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...attribution.task import check_choice
from ...batches import Progress
from ...errors import InputError
from ...inputs import check_images
from ..scores import check_count, check_targets

Changed = tuple[np.ndarray, np.ndarray, np.ndarray]
Change = Callable[[np.random.Generator, np.ndarray, np.ndarray], Changed]
"""What a batch becomes: (random, images [B, H, W, colors], labels [B]) -> (images, which pixels
stay bool [B, H, W], the others being 0 in all encoded channels, and labels)."""

_LOSSES = {
  "softmax": optax.softmax_cross_entropy,
  "sigmoid": lambda logits, wanted: optax.sigmoid_binary_cross_entropy(logits, wanted).mean(-1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
  """How a network is tuned: Adam, with the running statistics of norms as they are.

  Attributes:
    steps: Number of steps.
    batch_size: Pictures of a step.
    rate: Learning rate, which falls to 0 along a cosine.
    seed: Of the batches.
  """

  steps: int = 60
  batch_size: int = 32
  rate: float = 1e-3
  seed: int = 0

  def __post_init__(self):
    check_count("steps", self.steps)
    check_count("batch_size", self.batch_size)
    if not self.rate > 0:
      raise InputError(f"rate={self.rate}, expected a number above 0.", "For example: 1e-3.")


def tuned(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  labels: np.ndarray,
  change: Change,
  how: Tuning = Tuning(),
  *,
  probability: str | None = None,
  progress: Progress = iter,
) -> dict[str, Any]:
  """Tunes a copy of a network's parameters on changed pictures.

  Args:
    model: Network with `ops`.
    variables: Its variables; they stay as they are.
    images: [N, H, W, colors] in [0, 1].
    labels: int [N].
    change: What each batch becomes.
    how: Settings.
    probability: "softmax" (cross-entropy) or "sigmoid" (binary cross-entropy); None for the
      family's.
    progress: Wraps the loop over steps.

  Returns:
    Variables.

  Raises:
    InputError: Images or labels that cannot be used, or a loss that is not finite.
  """
  images = check_images(images, model.ops.encoding)
  labels = check_targets(labels, len(images))
  loss = check_choice("probability", probability or model.ops.probability, _LOSSES)
  optimizer = optax.adam(optax.cosine_decay_schedule(how.rate, how.steps))
  state = jax.tree.map(jnp.asarray, variables["params"])
  fixed = {kind: tree for kind, tree in variables.items() if kind != "params"}
  moments, random = optimizer.init(state), np.random.default_rng(how.seed)

  @jax.jit
  def step(params, moments, batch, keep, wanted):
    def value(params):
      inputs = jnp.where(keep[..., None], model.ops.encoding(batch), 0)
      outputs: Any = model.apply({**fixed, "params": params}, inputs)
      return jnp.mean(_LOSSES[loss](outputs, jax.nn.one_hot(wanted, outputs.shape[-1])))

    found, gradient = jax.value_and_grad(value)(params)
    updates, moments = optimizer.update(gradient, moments)
    return optax.apply_updates(params, updates), moments, found

  last = jnp.zeros(())
  for _ in progress(range(how.steps)):
    rows = random.integers(len(images), size=how.batch_size)
    batch, keep, wanted = change(random, images[rows], labels[rows])
    state, moments, last = step(state, moments, batch, keep, wanted)
  if not np.isfinite(last):
    raise InputError(
      f"Fine-tuning at a rate of {how.rate:g} ended with a loss of {float(last)}.",
      "Lower the rate.",
    )
  return {**fixed, "params": jax.device_get(state)}

"""Attributions by gradients of the input, ordinary ones or those of replaced backward rules.

The input of a network on images is the encoded image, that of one on texts the embeddings.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from .families import SEEN, Guided, Rescale, replaced
from .running import summed
from .settings import Method
from .task import Array, Batch, Task, check_count, check_share, gradients


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saliency(Method):
  """The gradient's size (Simonyan et al., arXiv 1312.6034, section 3.1).

  Args:
    signed: The sum of the gradient over channels, as B-cos papers compare with, instead of the
      largest absolute value of any channel.
  """

  name: ClassVar[str] = "saliency"
  signed: bool = False

  def run(self, task: Task) -> np.ndarray:
    return summed(task, gradient_sizes, signed=bool(self.signed))


def gradient_sizes(batch: Batch, _: Array, *, signed: bool) -> Array:
  """Returns the gradients' sizes, or with `signed` their sums over channels, [B, K, ...]."""
  return _over_channels(gradients(batch.score, batch.inputs), signed)


def _over_channels(found: Any, signed: bool) -> Array:
  return jnp.sum(found, -1) if signed else jnp.max(jnp.abs(found), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputXGradient(Method):
  """Input times its ordinary gradient, summed over channels or dimensions (arXiv 1605.01713).

  Nothing is detached, unlike in `bcos_jax.explain`. (B-cos LM's code takes the mean over
  dimensions, which ranks alike.)
  """

  name: ClassVar[str] = "input_x_gradient"
  kinds: ClassVar[tuple[str, ...]] = ("images", "texts")
  needs: ClassVar[tuple[str, ...]] = ("embed", "forward")

  def run(self, task: Task) -> np.ndarray:
    return summed(task, input_times_gradient)


def input_times_gradient(batch: Batch, _: Array) -> Array:
  """Returns sum over channels of input * gradient, [B, K, ...]."""
  return jnp.sum(batch.inputs[:, None] * gradients(batch.score, batch.inputs), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegratedGradients(Method):
  """Integrated gradients (Sundararajan et al., arXiv 1703.01365, eq. 1), summed over channels.

  A map sums to the output's change from the baseline, up to the error of the integral.

  Args:
    steps: Points of the Gauss-Legendre rule, each an input of a batch. Published: 50.
    baseline: Where the way to the input starts. Of encoded images a number, [channels] or
      [H, W, channels]; None for 0, as published. Of texts 'mask', the embeddings of the text with
      the mask token in place of every token that is not special; or 'zero'; None for 'mask'.
  """

  name: ClassVar[str] = "integrated_gradients"
  kinds: ClassVar[tuple[str, ...]] = ("images", "texts")
  needs: ClassVar[tuple[str, ...]] = ("embed", "forward")
  steps: int = 50
  baseline: Any = None

  def __post_init__(self):
    check_count("steps", self.steps)

  def run(self, task: Task) -> np.ndarray:
    rule, pairs = integration_rule(self.steps), with_numbers(np.arange(len(task)), self.steps)
    return summed(task, _integrated, rule, pairs=pairs)


def _integrated(batch: Batch, steps: Array, rule: tuple[Array, Array]) -> Array:
  return integrated(batch, steps, batch.baseline(), rule)


def integration_rule(steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns places in [0, 1] and their shares, float32 [steps] each (Gauss-Legendre)."""
  places, shares = np.polynomial.legendre.leggauss(steps)
  return ((1 + places) / 2).astype(np.float32), (shares / 2).astype(np.float32)


def integrated(batch: Batch, steps: Array, start: Array, rule: tuple[Array, Array]) -> Array:
  """Returns each input's part of the integral at the step that it is given, [B, K, ...]."""
  way = batch.inputs - start
  place, share = (leaf[steps].reshape(-1, *(1,) * (way.ndim - 1)) for leaf in rule)
  return jnp.sum((share * way)[:, None] * gradients(batch.score, start + place * way), -1)


def with_numbers(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns every row with every number below `count`: (rows, numbers), row by row."""
  return np.repeat(rows, count), np.tile(np.arange(count), len(rows))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothGrad(Method):
  """SmoothGrad: the mean gradient of noisy inputs (Smilkov et al., arXiv 1706.03825).

  Args:
    samples: Noisy inputs, each an image of a batch.
    noise: Standard deviation of the Gaussian noise, relative to the range of an encoded image.
    signed: As for `saliency`.
    seed: The noise depends on it and on an image's number, not on batches.
  """

  name: ClassVar[str] = "smooth_grad"
  samples: int = 50
  noise: float = 0.15
  signed: bool = False
  seed: int = 42

  def __post_init__(self):
    check_share("noise", self.noise)
    check_count("seed", self.seed, 0)
    check_count("samples", self.samples)

  def run(self, task: Task) -> np.ndarray:
    pairs = with_numbers(np.arange(len(task)), self.samples)
    sums = summed(task, _noisy, np.float32(self.noise), np.uint32(self.seed), pairs=pairs)
    return np.asarray(_over_channels(sums / self.samples, self.signed))


def _noisy(batch: Batch, samples: Array, noise: Array, seed: Array) -> Array:
  low, high = (f(batch.inputs, (1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
  drawn = jax.vmap(lambda row, sample: draw_noise(seed, row, sample, batch.inputs.shape[1:]))(
    batch.rows, samples
  )
  return gradients(batch.score, batch.inputs + noise * (high - low) * drawn)


def draw_noise(seed: Array, row: Array, sample: Array, shape: tuple[int, ...]) -> Array:
  """Returns the Gaussian noise of a sample of SmoothGrad for an image, by its number `row`."""
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), sample)
  return jax.random.normal(key, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedBackprop(Method):
  """Guided backpropagation, summed over channels (Springenberg et al., arXiv 1412.6806).

  Every ReLU lets only positive gradients pass; other activations keep their gradient. A network
  without ReLU, on which the method would be the plain gradient, raises InputError.
  """

  name: ClassVar[str] = "guided_backprop"

  def run(self, task: Task) -> np.ndarray:
    model = task.network.model
    task = task.replaced(model=model.clone(ops=replaced(model.ops, Guided)))
    if not shows(task):
      raise InputError(
        f"Guided backpropagation needs ReLUs, and this {type(model).__name__} has none.",
        "Use saliency with signed=True, which is what would remain.",
      )
    return summed(task, gradient_sizes, signed=True)


def shows(task: Task) -> bool:
  """Returns whether any layer of a network on images uses a rule that replaced its own."""
  network = task.network
  image = network.encoded(task.side)
  shown = jax.eval_shape(
    lambda v, x: network.model.apply(v, x, mutable=[SEEN])[1], network.variables, image
  )
  return bool(jax.tree.leaves(shown))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepLift(Method):
  """DeepLIFT with the rescale rule (Shrikumar et al., arXiv 1704.02685), summed over channels.

  Activations and max pooling are rescaled; all else keeps its gradient, layer norms and attention
  included, as in Captum. Where nothing else is nonlinear (conventional convolutional networks
  with batch norm), a map sums to the output's change from the baseline.

  Args:
    baseline: The reference, as for `integrated_gradients`. Published: 0.
  """

  name: ClassVar[str] = "deep_lift"
  baseline: Any = 0.0

  def run(self, task: Task) -> np.ndarray:
    model = task.network.model
    return summed(task.replaced(model=model.clone(ops=replaced(model.ops, Rescale))), _deep_lift)


def _deep_lift(batch: Batch, _: Array) -> Array:
  reference = batch.baseline()

  def score(inputs):
    outputs = batch.network.forward(jnp.concatenate([inputs, reference]))
    return batch.select(jax.tree.map(lambda leaf: leaf[: len(inputs)], outputs))

  return jnp.sum((batch.inputs - reference)[:, None] * gradients(score, batch.inputs), -1)

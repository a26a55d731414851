"""Attribution methods by input gradients, ordinary or with modified backward rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..explain.targets import Target, Variables
from .families import SEEN, Guided, Rescale, replaced
from .task import (
  Array,
  Batch,
  Progress,
  Task,
  by_image,
  check_baseline,
  check_count,
  check_share,
  gradients,
  prepare,
  summed,
)


def saliency(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  signed: bool = False,
) -> np.ndarray:
  """The gradient's size (Simonyan et al., arXiv 1312.6034, section 3.1).

  Args:
    signed: The sum of the gradient over channels, as B-cos papers compare with, instead of the
      largest absolute value of any channel.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.
  """
  task = prepare(model, variables, images, targets, batch_size, progress)
  return task.shaped(by_image(task, gradient_sizes, signed=bool(signed)))


def gradient_sizes(batch: Batch, *, signed: bool) -> Array:
  """Returns the gradients' sizes, or with `signed` their sums over channels, [B, K, ...]."""
  return _over_channels(gradients(batch.score, batch.inputs), signed)


def _over_channels(found: Array, signed: bool) -> Array:
  return jnp.sum(found, -1) if signed else jnp.max(jnp.abs(found), -1)


def input_x_gradient(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
) -> np.ndarray:
  """Encoded input times its ordinary gradient, summed over channels (arXiv 1605.01713).

  Nothing is detached, unlike in `bcos_jax.explain`. Arguments, result and errors as for all
  methods, see `bcos_jax.attribution`.
  """
  task = prepare(model, variables, images, targets, batch_size, progress)
  return task.shaped(by_image(task, input_times_gradient))


def input_times_gradient(batch: Batch) -> Array:
  """Returns sum over channels of input * gradient, [B, K, ...]."""
  return jnp.sum(batch.inputs[:, None] * gradients(batch.score, batch.inputs), -1)


def integrated_gradients(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  steps: int = 50,
  baseline: float | Array | np.ndarray = 0.0,
) -> np.ndarray:
  """Integrated gradients (Sundararajan et al., arXiv 1703.01365, eq. 1), summed over channels.

  A map sums to the output's change from the baseline, up to the error of the integral.

  Args:
    steps: Points of the Gauss-Legendre rule, each an image of a batch. Published: 50.
    baseline: Where the way to the encoded input starts: a number, [channels] or
      [H, W, channels]. Published: 0.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.
  """
  task = prepare(model, variables, images, targets, batch_size, progress)
  rule = integration_rule(steps)
  return task.shaped(summed(task, integrated, len(rule[0]), check_baseline(task, baseline), rule))


def integration_rule(steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns places in [0, 1] and their shares, float32 [steps] each (Gauss-Legendre)."""
  places, shares = np.polynomial.legendre.leggauss(check_count("steps", steps))
  return np.float32((1 + places) / 2), np.float32(shares / 2)


def integrated(batch: Batch, steps: Array, baseline: Array, rule: tuple[Array, Array]) -> Array:
  """Returns each input's part of the integral at the step that it is given, [B, K, ...]."""
  way = batch.inputs - baseline
  place, share = (leaf[steps].reshape(-1, *(1,) * (way.ndim - 1)) for leaf in rule)
  return jnp.sum((share * way)[:, None] * gradients(batch.score, baseline + place * way), -1)


def smooth_grad(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  samples: int = 50,
  noise: float = 0.15,
  signed: bool = False,
  seed: int = 42,
) -> np.ndarray:
  """SmoothGrad: the mean gradient of noisy inputs (Smilkov et al., arXiv 1706.03825).

  Args:
    samples: Noisy inputs, each an image of a batch.
    noise: Standard deviation of the Gaussian noise, relative to the range of an encoded image.
    signed: As for `saliency`.
    seed: The noise depends on it and on an image's number, not on batches.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.
  """
  task = prepare(model, variables, images, targets, batch_size, progress)
  check_share("noise", noise)
  seed, samples = check_count("seed", seed, 0), check_count("samples", samples)
  sums = summed(task, _noisy, samples, np.float32(noise), np.uint32(seed))
  return task.shaped(_over_channels(sums / samples, bool(signed)))


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


def guided_backprop(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
) -> np.ndarray:
  """Guided backpropagation, summed over channels (Springenberg et al., arXiv 1412.6806).

  Every ReLU lets only positive gradients pass; other activations keep their gradient.

  Arguments, result and errors as for all methods, see `bcos_jax.attribution`.

  Raises:
    InputError: A network without ReLU, on which the method would be the plain gradient.
  """
  task = prepare(model, variables, images, targets, batch_size, progress)
  task = task.replaced(model=task.model.clone(ops=replaced(task.model.ops, Guided)))
  if not _uses_rule(task):
    raise InputError(
      f"Guided backpropagation needs ReLUs, and this {type(model).__name__} has none.",
      "Use saliency with signed=True, which is what would remain.",
    )
  return task.shaped(by_image(task, gradient_sizes, signed=True))


def _uses_rule(task: Task) -> bool:
  encoding = task.model.ops.encoding
  image = jax.ShapeDtypeStruct((1, *task.images.shape[1:3], encoding.channels), jnp.float32)
  shown = jax.eval_shape(lambda v, x: task.model.apply(v, x, mutable=[SEEN]), task.variables, image)
  return bool(jax.tree.leaves(shown[1]))


def deep_lift(
  model,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target = None,
  *,
  batch_size: int = 16,
  progress: Progress = iter,
  baseline: float | Array | np.ndarray = 0.0,
) -> np.ndarray:
  """DeepLIFT with the rescale rule (Shrikumar et al., arXiv 1704.02685), summed over channels.

  Activations and max pooling are rescaled; all else keeps its gradient, layer norms and attention
  included, as in Captum. Where nothing else is nonlinear (conventional convolutional networks
  with batch norm), a map sums to the output's change from the baseline.

  Args:
    baseline: The reference, as for `integrated_gradients`. Published: 0.

  Other arguments, result and errors as for all methods, see `bcos_jax.attribution`.
  """
  task = prepare(model, variables, images, targets, batch_size, progress)
  task = task.replaced(model=task.model.clone(ops=replaced(task.model.ops, Rescale)))
  return task.shaped(by_image(task, _deep_lift, check_baseline(task, baseline)))


def _deep_lift(batch: Batch, baseline: Array) -> Array:
  reference = jnp.broadcast_to(baseline, batch.inputs.shape)

  def score(inputs):
    both = jnp.concatenate([inputs, reference])
    outputs = batch.explained.outputs(batch.variables, both)
    own = jax.tree.map(lambda leaf: leaf[: len(inputs)], outputs)
    return batch.explained.select(own, batch.classes)

  return jnp.sum((batch.inputs - baseline)[:, None] * gradients(score, batch.inputs), -1)

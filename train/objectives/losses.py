"""Losses of the B-cos papers, one value per example; a recipe's loss is their mean.

All take logits of shape [N, C] in any float dtype and compute in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bcos_jax.errors import InputError, unknown_name

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def uniform_off_label_bce(
  logits: jax.Array, labels: jax.Array, off: float | None = None
) -> jax.Array:
  """Binary cross-entropy whose absent classes have the target `off` (B-cos v2, section 3.1).

  Args:
    logits: Float [N, C].
    labels: Class numbers int [N], or soft targets float [N, C].
    off: The least target of any class; None means 1 / C.

  Returns:
    Losses float [N], each the mean over the C classes.
  """
  off = 1.0 / logits.shape[-1] if off is None else off
  return _mean_bce(logits, jnp.maximum(targets(logits, labels), off))


def bce(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """Binary cross-entropy, targets `t * (1 - smoothing) + smoothing / C`.

  Args:
    logits: Float [N, C].
    labels: Class numbers int [N], or soft targets float [N, C].
    smoothing: Share of each target that is spread over all classes, in [0, 1].

  Returns:
    Losses float [N], each the mean over the C classes.
  """
  return _mean_bce(logits, _smooth(targets(logits, labels), smoothing))


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """Softmax cross-entropy with the same labels and smoothing as `bce`; returns float [N]."""
  logits = _at_least_float32(logits)
  return optax.softmax_cross_entropy(logits, _smooth(targets(logits, labels), smoothing))


def siglip(
  image: jax.Array,
  text: jax.Array,
  scale: jax.Array | float = 10.0,
  bias: jax.Array | float = -10.0,
  present: jax.Array | None = None,
) -> jax.Array:
  """Sigmoid loss over all pairs of a batch (SigLIP, arXiv 2303.15343; B-cosified CLIP).

  Args:
    image: Unit-norm embeddings float [N, D].
    text: Unit-norm embeddings float [N, D]; row i belongs to row i of `image`.
    scale: Factor of the cosine.
    bias: Added to the scaled cosine.
    present: Bool [N], which texts count; None for all.

  Returns:
    Losses float [N]: each image against every text, summed.
  """
  cosines = jnp.matmul(_at_least_float32(image), text.T, precision=jax.lax.Precision.HIGHEST)
  signs = 2 * jnp.eye(len(image)) - 1
  likelihoods = jax.nn.log_sigmoid(signs * (scale * cosines + bias))
  return -jnp.sum(likelihoods, axis=-1, where=True if present is None else present)


def clip(
  image: jax.Array,
  text: jax.Array,
  scale: jax.Array | float,
  same: jax.Array,
  present: jax.Array | None = None,
) -> jax.Array:
  """CLIP's loss (arXiv 2103.00020, figure 3): cross-entropy over a batch's texts, and its images.

  Texts may be equal. An image's target is shared by all that equal its own, or it would be told
  that its very caption is wrong.

  Args:
    image: Unit-norm embeddings float [N, D].
    text: Unit-norm embeddings float [N, D]; row i belongs to row i of `image`.
    scale: Factor of the cosine.
    same: Bool [N, N], which texts are equal; symmetric, True on the diagonal.
    present: Bool [N], which pairs count; None for all.

  Returns:
    Losses float [N], the mean of both directions.
  """
  logits = scale * jnp.matmul(_at_least_float32(image), text.T)
  present = jnp.ones(len(image), bool) if present is None else present
  logits = jnp.where(present[:, None] & present, logits, -1e9)
  shared = (same & present).astype(logits.dtype)
  shared /= jnp.maximum(jnp.sum(shared, axis=-1, keepdims=True), 1)
  rows, columns = (optax.softmax_cross_entropy(part, shared) for part in (logits, logits.T))
  return (rows + columns) / 2


def targets(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns soft targets [N, C] from class numbers [N] or soft targets [N, C]."""
  if labels.ndim == logits.ndim:
    return labels.astype(_at_least_float32(logits).dtype)
  return jax.nn.one_hot(labels, logits.shape[-1], dtype=_at_least_float32(logits).dtype)


def from_config(name: str, options: Mapping[str, Any]) -> Loss:
  """Returns the loss `name` with the options that apply to it.

  Args:
    name: A key of `LOSSES`.
    options: `smoothing` (float) and `off` (float; negative means 1 / C).

  Returns:
    A function (logits [N, C], labels [N] or [N, C]) -> losses [N].

  Raises:
    InputError: for an unknown name or a value outside [0, 1].
  """
  if name not in LOSSES:
    raise unknown_name("loss", name, LOSSES)
  smoothing, off = options["smoothing"], options["off"]
  if not 0 <= smoothing <= 1 or off > 1:
    raise InputError(
      f"loss.smoothing={smoothing}, loss.off={off}; expected smoothing in [0, 1] and off <= 1.",
      "Use loss.smoothing=0.1 or loss.off=-1 (one over the number of classes).",
    )
  if name == "uniform_off_label_bce":
    return functools.partial(uniform_off_label_bce, off=None if off < 0 else off)
  return functools.partial(LOSSES[name], smoothing=smoothing)


LOSSES: dict[str, Callable[..., jax.Array]] = {
  "uniform_off_label_bce": uniform_off_label_bce,
  "bce": bce,
  "cross_entropy": cross_entropy,
}


def _mean_bce(logits: jax.Array, soft: jax.Array) -> jax.Array:
  losses = optax.sigmoid_binary_cross_entropy(_at_least_float32(logits), soft)
  return jnp.mean(losses, axis=-1)


def _smooth(soft: jax.Array, smoothing: float) -> jax.Array:
  return soft * (1 - smoothing) + smoothing / soft.shape[-1] if smoothing else soft


def _at_least_float32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))

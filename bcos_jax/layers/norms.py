"""Normalisation layers, centred and uncentred, with statistics fixed in explanations.

An uncentred norm divides by the standard deviation and subtracts nothing, so that it keeps zero
at zero and is linear once its divisor is fixed (B-cos v2, arXiv 2306.10898, section 3.2). Its
variance is still the *centred* one. In explanation mode (`detach`) the divisor is a constant;
means, where they are subtracted, are linear in the input and stay differentiable.

`GroupNorm` and `LayerNorm` have a gradient of their own and are reverse-mode only, as are all norms
in explanation mode: `jax.grad`, also of a gradient, and `jax.jacrev` work, `jax.jvp` and
`jax.jacfwd` are refused by JAX.

Statistics are computed in float32. Names: in channels-last networks PositionNorm is LayerNorm,
InstanceNorm is GroupNorm(num_groups=None), and LayerNorm over space and channels together is
GroupNorm(num_groups=1).
"""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from ..errors import InputError
from ..functional import hold, widened
from .sources import add_constant

Array = jax.Array


class _Norm(nn.Module):
  """Scale and bias, as all norms apply them."""

  def _affine(self, y: Array, features: int, dtype: Any) -> Array:
    if self.use_scale:
      y = y * self.param("scale", nn.initializers.ones, (features,), self.param_dtype)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
      y = add_constant(self, y, bias, "bias")
    return y.astype(dtype)

  def _divisor(self, var: Array) -> Array:
    return lax.rsqrt((hold(var) if self.detach else var) + self.eps)


class BatchNorm(_Norm):
  """Batch normalisation with running statistics, as PyTorch keeps them.

  Attributes:
    centered: Subtracts the mean, and keeps the running variance unbiased, as PyTorch does. The
      uncentred form keeps the biased variance (B-cos v2, BatchNormUncentered2d).
    joint: One statistic over everything instead of one per channel; scale and bias then have
      shape [1] (AllNorm).
    momentum: Share of the old running value kept at each update; None averages over all updates.
    eps: Added to the variance.
    use_scale: Multiplies by a learned scale.
    use_bias: Adds a learned bias.
    detach: Explanation mode: no gradient flows through the batch's variance.
    dtype: Dtype of the result; None keeps the input's.
    param_dtype: Dtype of the parameters.

  Parameters: `scale`, `bias` [C]. Collection `batch_stats`: `var`, `mean` if centred.
  """

  centered: bool = True
  joint: bool = False
  momentum: float | None = 0.9
  eps: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  detach: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Normalises [N, ..., C]; with `train`, by the batch, updating the running statistics."""
    features = 1 if self.joint else x.shape[-1]
    wide = x.astype(jnp.float32)
    running = {"var": self.variable("batch_stats", "var", jnp.ones, (features,))}
    if self.centered:
      running["mean"] = self.variable("batch_stats", "mean", jnp.zeros, (features,))
    if self.momentum is None:
      running["count"] = self.variable("batch_stats", "count", jnp.zeros, ())
    if not train:
      inverse = lax.rsqrt(running["var"].value + self.eps)
      y = wide * inverse
      if self.centered:
        y = add_constant(self, y, -running["mean"].value * inverse, "running_mean")
      return self._affine(y, features, self.dtype or x.dtype)
    origin = lax.stop_gradient(running["mean"].value) if self.centered else jnp.zeros(features)
    mean, var = self._batch_statistics(wide, origin)
    if not self.is_initializing():
      self._update(running, mean, var, wide.size // features)
    y = (wide - mean if self.centered else wide) * self._divisor(var)
    return self._affine(y, features, self.dtype or x.dtype)

  def _batch_statistics(self, wide: Array, origin: Array) -> tuple[Array, Array]:
    # One pass over the activations for both moments, around the running mean, so that the squares
    # do not cancel where the mean is large. An origin read from the activations themselves would
    # keep XLA from fusing the sums into what makes these: a tenth of the memory traffic of a
    # ResNet-50's training step on a TPU.
    axes = None if self.joint else tuple(range(wide.ndim - 1))
    around = wide - origin
    shift = jnp.mean(around, axes)
    var = jnp.maximum(jnp.mean(jnp.square(around), axes) - jnp.square(shift), 0.0)
    return (shift + origin).reshape(-1), var.reshape(-1)

  def _update(self, running: dict[str, nn.Variable], mean: Array, var: Array, count: int):
    if self.momentum is None:
      running["count"].value += 1
      keep = 1 - 1 / running["count"].value
    else:
      keep = self.momentum
    if self.centered:
      var = var * (count / max(count - 1, 1))
      running["mean"].value = keep * running["mean"].value + (1 - keep) * mean
    running["var"].value = keep * running["var"].value + (1 - keep) * var


class GroupNorm(_Norm):
  """Normalises each example over space and over the channels of each group.

  Reverse-mode only (no `jax.jvp`, `jax.jacfwd`).

  Attributes:
    num_groups: Number of groups; 1 takes all channels together, None each by itself (instance
      norm).
    centered: Subtracts the mean.
    eps, use_scale, use_bias, detach, dtype, param_dtype: As for `BatchNorm`.

  Parameters: `scale`, `bias` [C].
  """

  num_groups: int | None = 1
  centered: bool = True
  eps: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  detach: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Normalises [N, ..., C]; `train` changes nothing, there are no running statistics."""
    channels = x.shape[-1]
    groups = channels if self.num_groups is None else self.num_groups
    if groups < 1 or channels % groups:
      raise InputError(
        f"{channels} channels cannot be split into {groups} groups.",
        "Choose a divisor of the channels as num_groups.",
      )
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    y = _standardize(self, grouped, (*range(1, x.ndim - 1), x.ndim))
    return self._affine(y.reshape(x.shape), channels, self.dtype or x.dtype)


class LayerNorm(_Norm):
  """Normalises each position over its channels (position norm, in networks with space).

  Reverse-mode only (no `jax.jvp`, `jax.jacfwd`).

  Attributes:
    centered: Subtracts the mean.
    eps, use_scale, use_bias, detach, dtype, param_dtype: As for `BatchNorm`.

  Parameters: `scale`, `bias` [C].
  """

  centered: bool = True
  eps: float = 1e-5
  use_scale: bool = True
  use_bias: bool = True
  detach: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Normalises [..., C]; `train` changes nothing, there are no running statistics."""
    y = _standardize(self, x, (-1,))
    return self._affine(y, x.shape[-1], self.dtype or x.dtype)


class RMSNorm(_Norm):
  """Divides each position by the root of its mean square (arXiv 1910.07467); no mean, no bias.

  In explanation mode the divisor is a constant (B-cos LM, arXiv 2502.12992).

  Attributes:
    eps, use_scale, detach, dtype, param_dtype: As for `BatchNorm`.

  Parameters: `scale` [C].
  """

  eps: float = 1e-6
  use_scale: bool = True
  detach: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  use_bias = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Normalises [..., C]."""
    wide = widened(x)
    y = wide * self._divisor(jnp.mean(jnp.square(wide), -1, keepdims=True))
    return self._affine(y, x.shape[-1], self.dtype or x.dtype)


class ResponseNorm(_Norm):
  """Global response normalisation: x + scale * (x * response) + bias (arXiv 2301.00808, eq. 1-3).

  The response of a channel is its norm over the positions of an image, relative to the mean of
  these norms over the channels. It is the dynamic weight of an explanation.

  Attributes:
    eps, use_scale, use_bias, detach, dtype, param_dtype: As for `BatchNorm`.

  Parameters: `scale`, `bias` [C], zero at first.
  """

  eps: float = 1e-6
  use_scale: bool = True
  use_bias: bool = True
  detach: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, ..., C] to the same shape."""
    wide = x.astype(jnp.float32)
    seen = hold(wide) if self.detach else wide
    square = jnp.sum(jnp.square(seen), tuple(range(1, x.ndim - 1)), keepdims=True)
    zero = square == 0
    norm = jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))
    y = wide * (norm / (jnp.mean(norm, -1, keepdims=True) + self.eps))
    if self.use_scale:
      y = y * self.param("scale", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
    y = wide + y
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.param_dtype)
      y = add_constant(self, y, bias, "bias")
    return y.astype(self.dtype or x.dtype)


def _standardize(norm: GroupNorm | LayerNorm, x: Array, axes: tuple[int, ...]) -> Array:
  if not norm.detach:
    return _standardized(x, axes, norm.centered, norm.eps)
  wide = widened(x)
  deviation = wide - jnp.mean(wide, axes, keepdims=True)
  var = jnp.mean(jnp.square(deviation), axes, keepdims=True)
  return (deviation if norm.centered else wide) * norm._divisor(var)


# Automatic differentiation would sum over the axes twice in a row, once for the variance and then
# for the mean; written out, both sums read the activations together.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _standardized(x: Array, axes: tuple[int, ...], centered: bool, eps: float) -> Array:
  return _standardized_fwd(x, axes, centered, eps)[0]


def _standardized_fwd(x, axes, centered, eps):
  wide = widened(x)
  mean = jnp.mean(wide, axes, keepdims=True)
  deviation = wide - mean
  inverse = lax.rsqrt(jnp.mean(jnp.square(deviation), axes, keepdims=True) + eps)
  return (deviation if centered else wide) * inverse, (x, mean, inverse)


def _standardized_bwd(axes, centered, eps, residuals, cotangent):
  x, mean, inverse = residuals
  wide = widened(x)
  deviation = (wide - mean) * inverse
  along = jnp.mean(cotangent * (deviation if centered else wide * inverse), axes, keepdims=True)
  d_x = cotangent - deviation * along
  if centered:
    d_x = d_x - jnp.mean(cotangent, axes, keepdims=True)
  return ((d_x * inverse).astype(x.dtype),)


_standardized.defvjp(_standardized_fwd, _standardized_bwd)

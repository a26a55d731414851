"""B-cos transforms: convolutions (1, 2 and 3 dimensions) and dense layers.

At B=2, and in explanation mode at every B above 1, the layers have gradients of their own and are
reverse-mode only: `jax.grad`, also of a gradient, `jax.vjp`, `jax.jacrev` and `jax.hessian` work,
`jax.jvp`, `jax.jacfwd` and `jax.linearize` are refused by JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
import numbers
from typing import Any

from flax import linen as nn
from flax.linen import dtypes
import jax
from jax import lax
import jax.numpy as jnp

from .. import functional as F
from ..errors import InputError, unknown_name
from .maps import Convolution, Matmul, bcos_map
from .sources import add_constant

Array = jax.Array
Initializer = Callable[..., Array]

WEIGHTS = ("plain", "unit", "cosine")
"""What B-cos maps make of their weights, see `BcosDense`."""

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Kaiming normal, as B-cos v2 initialises its ResNets."""

dense_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1/sqrt(fan_in), PyTorch's default, which B-cos v2 keeps for its ViTs."""


def check_sizes(**sizes: Any) -> None:
  """Raises InputError for sizes of a layer that are no integers of at least 1."""
  for name, size in sizes.items():
    if not isinstance(size, numbers.Integral) or size < 1:
      cause = f"{name} is {size!r}, expected an integer of at least 1."
      raise InputError(cause, "Use 1 or more.")


def check_weights(weights: str, max_out: int) -> None:
  """Raises InputError for weights that are unknown, or cannot be combined with MaxOut."""
  if weights not in WEIGHTS:
    raise unknown_name("weights", weights, WEIGHTS)
  if weights == "cosine" and max_out > 1:
    raise InputError(
      f"weights='cosine' and max_out={max_out} cannot be combined: each unit has a length of its "
      "own.",
      "Use one of them.",
    )


class _BcosLinear(nn.Module):
  """What dense maps and convolutions share: see the public classes for the fields."""

  gate = None

  def _exponent(self) -> float | Array:
    F.check_b(self.b)
    if not self.learn_b:
      return self.b
    b = self.param("b", nn.initializers.constant(self.b), (), jnp.float32)
    return jnp.maximum(b, 1.0)

  def _applied(
    self,
    linear: Matmul | Convolution,
    x: Array,
    shape: tuple[int, ...],
    tied: Array | None = None,
  ) -> Array:
    kernel = tied
    if kernel is None:
      kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    check_weights(self.weights, self.max_out)
    x, _ = dtypes.promote_dtype(x, kernel, dtype=self.dtype)

    def biased(y: Array) -> Array:
      bias = self.param("bias", nn.initializers.zeros, y.shape[-1:], self.param_dtype)
      return add_constant(self, y, bias.astype(y.dtype), "bias")

    y = bcos_map(
      linear,
      x,
      kernel,
      b=self._exponent(),
      guard=self.guard,
      unit=self.weights != "plain",
      max_out=self.max_out,
      add_bias=biased if self.use_bias else None,
      gate=self.gate,
      detach=self.detach,
    )
    if self.weights == "cosine":
      y = y * F.kernel_norm(kernel).astype(y.dtype)
    return y * (100 / math.sqrt(math.prod(shape[:-1]))) if self.fan_in_gain else y


class BcosDense(_BcosLinear):
  """B-cos transform of a dense map over the last axis.

  Reverse-mode only at B=2 and with `detach` (no `jax.jvp`, `jax.jacfwd`), see the module.

  Attributes:
    features: Number of outputs.
    b: The exponent B, at least 1; the initial value if `learn_b`. At B=1 the layer is the
      conventional linear map.
    learn_b: Makes B the scalar parameter `b` of this layer, to be learned or scheduled; always
      the general formula, B=2 included.
    weights: 'plain', as they are (B-cosification); 'unit', of unit length for each output unit
      (B-cos v1, v2, LM); or 'cosine', the cosine to the weight vector, whose length is kept:
      w.x |cos(x, w)|^(B-1) (ALOE, second implementation), which does not go with `max_out`.
    max_out: Linear units per output, of which the largest counts (MaxOut).
    use_bias: Adds a bias to the linear response, before the scale.
    detach: Explanation mode: no gradient flows through the scale.
    gate: Activation of `functional.GATES` applied to the input first; None for none. Given here
      rather than before the layer, only its input is kept for the backward pass (at B=2).
    fan_in_gain: Divides the result by sqrt(inputs) / 100 (B-cos v1, whose head is a 1x1
      convolution).
    guard: Epsilons of the cosine.
    dtype: Compute dtype; None promotes from the input and parameters. The scale is float32.
    param_dtype: Dtype of the parameters.
    kernel_init: Initialiser.

  Parameters: `kernel` [inputs, features * max_out], `bias`, `b`.
  """

  features: int
  b: float = 2.0
  weights: str = "plain"
  max_out: int = 1
  detach: bool = False
  learn_b: bool = False
  use_bias: bool = False
  gate: str | None = None
  fan_in_gain: bool = False
  guard: F.Guard = F.DENSE_GUARD
  dtype: Any = None
  param_dtype: Any = jnp.float32
  kernel_init: Initializer = dense_init

  @nn.compact
  def __call__(self, x: Array, tied: Array | None = None) -> Array:
    """Maps [..., inputs] to [..., features].

    Args:
      x: The input.
      tied: Kernel of another layer, [inputs, features * max_out], in place of one of its own.
    """
    check_sizes(features=self.features, max_out=self.max_out)
    return self._applied(Matmul(), x, (x.shape[-1], self.features * self.max_out), tied)


class BcosConv(_BcosLinear):
  """B-cos transform of a convolution in 1, 2 or 3 dimensions, channels last.

  Reverse-mode only at B=2 and with `detach` (no `jax.jvp`, `jax.jacfwd`), see the module.

  Attributes:
    features: Number of outputs.
    kernel_size: Extent along each spatial axis; its length is the number of dimensions.
    strides: One number, or one per axis.
    padding: 'SAME', 'VALID', a number, one per axis, or a (before, after) pair per axis. Note
      that 'SAME' at stride 2 pads unevenly; PyTorch's `padding=p` is the number p.
    feature_group_count: Groups; each group of outputs sees the cosine to its own inputs.
    kernel_dilation: One number, or one per axis.
    padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'. The patch norm counts padding as
      zeros in every mode, as in B-cos v2.
    fan_in_gain: Divides the result by sqrt(inputs of a patch) / 100 (B-cos v1).
    b, learn_b, weights, max_out, use_bias, detach, guard: As for `BcosDense`.
    dtype, param_dtype, kernel_init: As for `BcosDense`.

  Parameters: `kernel` [*kernel_size, inputs / groups, features * max_out], `bias`, `b`.
  """

  features: int
  kernel_size: Sequence[int]
  strides: int | Sequence[int] = 1
  padding: str | int | Sequence[Any] = "SAME"
  feature_group_count: int = 1
  kernel_dilation: int | Sequence[int] = 1
  b: float = 2.0
  weights: str = "plain"
  max_out: int = 1
  detach: bool = False
  learn_b: bool = False
  use_bias: bool = False
  padding_mode: str = "zeros"
  fan_in_gain: bool = False
  guard: F.Guard = F.CONV_GUARD
  dtype: Any = None
  param_dtype: Any = jnp.float32
  kernel_init: Initializer = conv_init

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [N, *spatial, inputs] to [N, *spatial_out, features]."""
    groups = self.feature_group_count
    check_sizes(features=self.features, max_out=self.max_out, feature_group_count=groups)
    check_window(self.kernel_size)
    check_input(x, self.kernel_size)
    check_groups(x.shape[-1], self.features, groups)
    linear = convolution(self, x.shape[1:-1])
    shape = (*linear.window, x.shape[-1] // groups, self.features * self.max_out)
    return self._applied(linear, x, shape)


def check_window(kernel_size: Any) -> None:
  """Raises InputError for a kernel size that is none of 1 to 3 spatial axes."""
  if isinstance(kernel_size, numbers.Integral):
    raise InputError(
      f"kernel_size is {kernel_size!r}, expected one number per spatial axis.",
      f"Give kernel_size=({kernel_size}, {kernel_size}) for images.",
    )
  if min(kernel_size, default=1) < 1:
    raise InputError(
      f"kernel_size is {tuple(kernel_size)}, expected at least 1 along every axis.",
      "Use 1 where the kernel sees one position.",
    )


def check_input(x: Array, kernel_size: Sequence[int]) -> None:
  """Raises InputError for inputs of another number of axes than a kernel is for."""
  rank = len(kernel_size)
  if rank not in (1, 2, 3) or x.ndim != rank + 2:
    raise InputError(
      f"Input has shape {x.shape} for kernel_size {tuple(kernel_size)}, expected "
      f"[N, *{rank} spatial axes, channels].",
      "Give channels-last batches.",
    )


def check_groups(inputs: int, features: int, groups: int) -> None:
  """Raises InputError for channels that do not split into groups."""
  if inputs % groups or features % groups:
    raise InputError(
      f"{inputs} inputs and {features} features are not divisible by feature_group_count={groups}.",
      "Choose a divisor of both.",
    )


def convolution(layer: Any, spatial: Sequence[int]) -> Convolution:
  """Returns the linear map of a `BcosConv` for inputs of some extent along each spatial axis."""
  rank, window = len(layer.kernel_size), tuple(layer.kernel_size)
  strides, dilation = (_per_axis(v, rank) for v in (layer.strides, layer.kernel_dilation))
  pads = explicit_pads(layer.padding, spatial, window, strides, dilation)
  return Convolution(window, strides, pads, dilation, layer.feature_group_count, layer.padding_mode)


def explicit_pads(
  padding: str | int | Sequence[Any],
  spatial: Sequence[int],
  window: Sequence[int],
  strides: Sequence[int],
  dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
  """Resolves every way of writing a padding into (before, after) pairs."""
  if isinstance(padding, str):
    if padding not in ("SAME", "VALID"):
      raise unknown_name("padding", padding, ("SAME", "VALID"))
    dilated = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    return tuple(lax.padtype_to_pads(spatial, dilated, strides, padding))
  pads = _per_axis(padding, len(window))
  return tuple((p, p) if isinstance(p, int) else tuple(p) for p in pads)


def _per_axis(value: int | Sequence[Any], rank: int) -> tuple[Any, ...]:
  if isinstance(value, int):
    return (value,) * rank
  if len(value) != rank:
    raise InputError(f"Got {value!r} for {rank} spatial axes.", "Give one entry per axis.")
  return tuple(value)

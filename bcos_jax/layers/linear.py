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
from .maps import Convolution, Matmul, square_map
from .sources import add_constant

Array = jax.Array
Initializer = Callable[..., Array]

WEIGHTS = ("plain", "unit", "cosine")
"""What B-cos maps make of their weights, see `BcosDense`."""

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Kaiming normal, as B-cos v2 initialises its ResNets."""

dense_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform within 1/sqrt(fan_in), PyTorch's default, which B-cos v2 keeps for its ViTs."""


class _BcosLinear(nn.Module):
  """What dense maps and convolutions share: see the public classes for the fields."""

  gate = None

  def _check_sizes(self, **sizes: Any):
    for name, size in {"features": self.features, "max_out": self.max_out, **sizes}.items():
      if not isinstance(size, numbers.Integral) or size < 1:
        cause = f"{name} is {size!r}, expected an integer of at least 1."
        raise InputError(cause, "Use 1 or more.")

  def _exponent(self) -> float | Array:
    F.check_b(self.b)
    if not self.learn_b:
      return self.b
    b = self.param("b", nn.initializers.constant(self.b), (), jnp.float32)
    return jnp.maximum(b, 1.0)

  def _kernel(
    self, shape: tuple[int, ...], tied: Array | None = None
  ) -> tuple[Array, Array | None]:
    if self.weights not in WEIGHTS:
      raise unknown_name("weights", self.weights, WEIGHTS)
    if self.weights == "cosine" and self.max_out > 1:
      raise InputError(
        f"weights='cosine' and max_out={self.max_out} cannot be combined: each unit has a length "
        "of its own.",
        "Use one of them.",
      )
    kernel = tied
    if kernel is None:
      kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    if self.weights == "plain":
      return kernel, None
    kernel, norm = F.unit_kernel(kernel)
    return kernel, norm if self.weights == "cosine" else None

  def _transform(
    self, linear: Matmul | Convolution, x: Array, kernel: Array, weight_norm: Array | None
  ) -> Array:
    b = self._exponent()
    simple = not (self.learn_b or self.detach or self.use_bias or self.max_out > 1)
    if simple and b == 2:
      y: Any = square_map(x, kernel, linear, self.guard, self.gate)
    else:
      y = self._general(linear, x, kernel, b)
    return y if weight_norm is None else y * weight_norm.astype(y.dtype)

  def _gain(self, y: Array, kernel: Array) -> Array:
    return y * (100 / math.sqrt(math.prod(kernel.shape[:-1]))) if self.fan_in_gain else y

  def _general(self, linear, x, kernel, b):
    if self.gate is not None:
      x = F.gated(x, self.gate, detach=self.detach)
    y = linear(x, kernel)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, y.shape[-1:], self.param_dtype)
      y = add_constant(self, y, bias.astype(y.dtype), "bias")
    y = F.max_out(y, self.max_out)
    if not self.learn_b and b == 1:
      return y
    seen = F.hold(x) if self.detach else x
    return F.bcos_scale(y, linear.sq_norm(seen), b=b, guard=self.guard, detach=self.detach)


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
    self._check_sizes()
    kernel, weight_norm = self._kernel((x.shape[-1], self.features * self.max_out), tied)
    x, kernel = dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    return self._gain(self._transform(Matmul(), x, kernel, weight_norm), kernel)


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
    self._check_sizes(feature_group_count=groups)
    if isinstance(self.kernel_size, numbers.Integral):
      raise InputError(
        f"kernel_size is {self.kernel_size!r}, expected one number per spatial axis.",
        f"Give kernel_size=({self.kernel_size}, {self.kernel_size}) for images.",
      )
    self._check_input(x, len(self.kernel_size), groups)
    linear = convolution(self, x.shape[1:-1])
    kernel, weight_norm = self._kernel(
      (*linear.window, x.shape[-1] // groups, self.features * self.max_out)
    )
    x, kernel = dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    return self._gain(self._transform(linear, x, kernel, weight_norm), kernel)

  def _check_input(self, x: Array, rank: int, groups: int):
    if rank not in (1, 2, 3) or x.ndim != rank + 2:
      raise InputError(
        f"Input has shape {x.shape} for kernel_size {tuple(self.kernel_size)}, expected "
        f"[N, *{rank} spatial axes, channels].",
        "Give channels-last batches.",
      )
    if min(self.kernel_size) < 1:
      raise InputError(
        f"kernel_size is {tuple(self.kernel_size)}, expected at least 1 along every axis.",
        "Use 1 where the kernel sees one position.",
      )
    if x.shape[-1] % groups or self.features % groups:
      raise InputError(
        f"{x.shape[-1]} inputs and {self.features} features are not divisible by "
        f"feature_group_count={groups}.",
        "Choose a divisor of both.",
      )


def convolution(layer: BcosConv, spatial: Sequence[int]) -> Convolution:
  """Returns the linear map of a layer for inputs of some extent along each spatial axis."""
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

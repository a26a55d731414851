"""B-cos transforms for networks written in Flax NNX: the maths and arguments of the Linen layers.

There is no explanation mode: `bcos_jax.explain(network, None, x)` holds what must be held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx
from flax.nnx.nn import dtypes
import jax
import jax.numpy as jnp

from .. import functional as F
from . import linear as linen
from .maps import Convolution, Matmul, bcos_map

Array = jax.Array


class _BcosMap(nnx.Module):
  """What the two layers share: the parameters and the transform."""

  def __init__(
    self,
    shape: tuple[int, ...],
    *,
    b: float,
    learn_b: bool,
    weights: str,
    max_out: int,
    use_bias: bool,
    guard: F.Guard,
    dtype: Any,
    param_dtype: Any,
    kernel_init: linen.Initializer,
    rngs: nnx.Rngs,
  ):
    F.check_b(b)
    kernel = kernel_init(rngs.params(), shape, param_dtype)
    linen.check_weights(weights, max_out)
    self.kernel = nnx.Param(kernel)
    self.bias = nnx.Param(jnp.zeros(shape[-1:], param_dtype)) if use_bias else nnx.data(None)
    self.b = nnx.Param(jnp.asarray(b, jnp.float32)) if learn_b else b
    self.weights, self.max_out, self.guard, self.dtype = weights, max_out, guard, dtype

  def _applied(self, map_of: Matmul | Convolution, x: Array) -> Array:
    kernel = self.kernel[...]
    x, _ = dtypes.promote_dtype((x, kernel), dtype=self.dtype)
    bias = self.bias
    y = bcos_map(
      map_of,
      x,
      kernel,
      b=jnp.maximum(self.b[...], 1.0) if isinstance(self.b, nnx.Param) else self.b,
      guard=self.guard,
      unit=self.weights != "plain",
      max_out=self.max_out,
      add_bias=None if bias is None else lambda y: y + bias[...].astype(y.dtype),
    )
    return y * F.kernel_norm(kernel).astype(y.dtype) if self.weights == "cosine" else y


class BcosLinear(_BcosMap):
  """B-cos transform of a dense map over the last axis, see `bcos_jax.layers.BcosDense`.

  Reverse-mode only at B=2 (no `jax.jvp`, `jax.jacfwd`).

  Attributes:
    kernel: [in_features, out_features * max_out].
    bias: [out_features * max_out], or None.
    b: The exponent: a number, or the parameter that is learned.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    b: float = 2.0,
    learn_b: bool = False,
    weights: str = "plain",
    max_out: int = 1,
    use_bias: bool = False,
    guard: F.Guard = F.DENSE_GUARD,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    kernel_init: linen.Initializer = linen.dense_init,
    rngs: nnx.Rngs,
  ):
    """Draws the parameters.

    Args:
      in_features: Number of inputs.
      out_features: Number of outputs.
      b: The exponent B, at least 1; the initial value if `learn_b`. 1 is the conventional map.
      learn_b: Makes B a parameter.
      weights: 'plain', 'unit' or 'cosine'.
      max_out: Linear units per output, of which the largest counts.
      use_bias: Adds a bias to the linear response, before the scale.
      guard: Epsilons of the cosine.
      dtype: Compute dtype; None promotes from the input and parameters. The scale is float32.
      param_dtype: Dtype of kernel and bias.
      kernel_init: Initialiser.
      rngs: Random numbers of 'params'.

    Raises:
      InputError: A size or B below 1, or weights that are unknown or do not go with MaxOut.
    """
    linen.check_sizes(in_features=in_features, out_features=out_features, max_out=max_out)
    super().__init__(
      (in_features, out_features * max_out),
      b=b,
      learn_b=learn_b,
      weights=weights,
      max_out=max_out,
      use_bias=use_bias,
      guard=guard,
      dtype=dtype,
      param_dtype=param_dtype,
      kernel_init=kernel_init,
      rngs=rngs,
    )

  def __call__(self, x: Array) -> Array:
    """Maps [..., in_features] to [..., out_features]."""
    return self._applied(Matmul(), x)


class BcosConv(_BcosMap):
  """B-cos transform of a convolution, channels last, see `bcos_jax.layers.BcosConv`.

  Reverse-mode only at B=2 (no `jax.jvp`, `jax.jacfwd`).

  Attributes:
    kernel: [*kernel_size, in_features / groups, out_features * max_out].
    bias: [out_features * max_out], or None.
    b: The exponent: a number, or the parameter that is learned.
  """

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel_size: Sequence[int],
    strides: int | Sequence[int] = 1,
    *,
    padding: str | int | Sequence[Any] = "SAME",
    feature_group_count: int = 1,
    kernel_dilation: int | Sequence[int] = 1,
    padding_mode: str = "zeros",
    b: float = 2.0,
    learn_b: bool = False,
    weights: str = "plain",
    max_out: int = 1,
    use_bias: bool = False,
    guard: F.Guard = F.CONV_GUARD,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    kernel_init: linen.Initializer = linen.conv_init,
    rngs: nnx.Rngs,
  ):
    """Draws the parameters.

    Args:
      in_features: Number of input channels.
      out_features: Number of output channels.
      kernel_size: Extent along each of 1 to 3 spatial axes.
      strides: One number, or one per axis.
      padding: 'SAME', 'VALID', a number, one per axis, or a (before, after) pair per axis.
      feature_group_count: Groups; each group of outputs sees the cosine to its own inputs.
      kernel_dilation: One number, or one per axis.
      padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
      b, learn_b, weights, max_out, use_bias, guard: As for `BcosLinear`.
      dtype, param_dtype, kernel_init, rngs: As for `BcosLinear`.

    Raises:
      InputError: As for `BcosLinear`; or a kernel size or groups that do not fit.
    """
    groups = feature_group_count
    linen.check_sizes(in_features=in_features, out_features=out_features, max_out=max_out)
    linen.check_sizes(feature_group_count=groups)
    linen.check_window(kernel_size)
    linen.check_groups(in_features, out_features, groups)
    super().__init__(
      (*kernel_size, in_features // groups, out_features * max_out),
      b=b,
      learn_b=learn_b,
      weights=weights,
      max_out=max_out,
      use_bias=use_bias,
      guard=guard,
      dtype=dtype,
      param_dtype=param_dtype,
      kernel_init=kernel_init,
      rngs=rngs,
    )
    self.kernel_size, self.strides = tuple(kernel_size), _static(strides)
    self.padding, self.padding_mode = _static(padding), padding_mode
    self.feature_group_count, self.kernel_dilation = groups, _static(kernel_dilation)

  def __call__(self, x: Array) -> Array:
    """Maps [N, *spatial, in_features] to [N, *spatial_out, out_features]."""
    linen.check_input(x, self.kernel_size)
    return self._applied(linen.convolution(self, x.shape[1:-1]), x)


def _static(value: Any) -> Any:
  """Returns a sequence, of sequences maybe, as tuples, which NNX takes for no variables."""
  return tuple(map(_static, value)) if isinstance(value, list | tuple) else value

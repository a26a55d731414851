"""What an architecture may ask of a layer family, and what every family shares."""

from __future__ import annotations

import abc
from collections.abc import Callable
import dataclasses
import functools
import inspect
from typing import Any, Self

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from .. import layers
from ..errors import InputError, check_fields, unknown_name
from ..inputs import Encoding

Array = jax.Array


@functools.cache
def _recomputed(module: type[nn.Module]) -> type[nn.Module]:
  # Static: whether the network is training is not an array.
  takes_train = "train" in inspect.signature(module.__call__).parameters
  return nn.remat(module, static_argnums=(2,) if takes_train else ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ops(abc.ABC):
  """What an architecture may ask for. Abstract; subclass a family to change it.

  Attributes:
    encoding: How colours become input channels.
    dtype: Compute dtype such as 'bfloat16', kept as its name; None computes in float32. Norms,
      B-cos scales and logits are always float32.
    param_dtype: Dtype of the parameters.
    detach: Explanation mode, see `detached`.
    recompute: Whether the backward pass recomputes each block's results rather than keeping
      them: about a third more arithmetic for a fraction of the memory.
  """

  encoding: Encoding = Encoding()
  dtype: str | None = None
  param_dtype: str = "float32"
  detach: bool = False
  recompute: bool = False

  def __new__(cls, **fields):
    """Raises InputError for a field that the family does not have; presets pass here as well."""
    known = {field.name for field in dataclasses.fields(cls)}
    for name in fields.keys() - known:
      raise unknown_name(f"field of {cls.__name__}", name, known)
    return super().__new__(cls)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, np.generic):
        object.__setattr__(self, field.name, value.item())
    if not isinstance(self.encoding, Encoding):
      raise InputError(
        f"encoding is {self.encoding!r}, expected a bcos_jax.inputs.Encoding.",
        "For example Encoding(pairing='negated').",
      )
    for name in ("dtype", "param_dtype"):
      value = getattr(self, name)
      if value is not None or name == "param_dtype":
        object.__setattr__(self, name, _dtype_name(name, value))
    check_fields(self)

  # What others ask about a family, instead of asking for its class.

  @property
  def conventional(self) -> bool:
    """Whether its networks are conventional, with linear maps: the ones that `bcosify` takes.

    The families that it makes of them are those that are not.
    """
    return True

  @property
  def probability(self) -> str:
    """What turns logits into probabilities: 'softmax', or 'sigmoid' of each class alone."""
    return "softmax"

  @property
  def has_biases(self) -> bool:
    """Whether the family keeps biases, and learned constants that act as such."""
    return self._bias(True)

  @property
  def has_logit_layer(self) -> bool:
    """Whether `readout` ends with constants of the family, see `with_logits`."""
    return False

  def with_logits(self, bias: float, temperature: float = 1.0) -> Self:
    """Returns the family whose `readout` divides by and adds these; itself without logit layer."""
    return self

  def pool_first(self) -> Self:
    """Returns the family whose heads read pooled features, in every architecture."""
    return self

  def detached(self) -> Self:
    """Returns the family in explanation mode: every dynamic weight is a constant.

    Values are unchanged; the derivative of the network becomes its dynamic linear map W(x)
    (arXiv 2205.10268, section 3.2). `model.clone(ops=model.ops.detached())` shares parameters.
    """
    return dataclasses.replace(self, detach=True)

  def block(self, module: type[nn.Module]) -> type[nn.Module]:
    """Returns the class of one of a network's repeated blocks, as its blocks are to be made."""
    return _recomputed(module) if self.recompute else module

  @abc.abstractmethod
  def conv(
    self,
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    padding: int | None = None,
    groups: int = 1,
    dilation: int = 1,
    use_bias: bool = False,
    name: str,
  ) -> nn.Module:
    """Convolution; `padding` is PyTorch's and by default keeps the size of odd kernels."""

  @abc.abstractmethod
  def dense(
    self, features: int, *, gate: str | None = None, use_bias: bool = True, name: str
  ) -> Callable[[Array], Array]:
    """Dense map that is a B-cos transform in a B-cos family; `gate`: activation of its input."""

  @abc.abstractmethod
  def classifier(self, features: int, *, name: str) -> nn.Module:
    """The head of a convolutional network: a 1x1 convolution wherever there still is space."""

  @abc.abstractmethod
  def batch_norm(self, *, name: str, eps: float = 1e-5) -> Callable[..., Array]:
    """The norm of convolutional networks, called as `norm(x, train)`."""

  @abc.abstractmethod
  def layer_norm(self, *, name: str, eps: float = 1e-5) -> Callable[..., Array]:
    """The norm of tokens, over channels."""

  @abc.abstractmethod
  def group_norm(self, num_groups: int, *, name: str, eps: float = 1e-5) -> Callable[..., Array]:
    """The norm of convolutional stems of transformers."""

  @abc.abstractmethod
  def response_norm(self, *, name: str, eps: float = 1e-6) -> nn.Module:
    """Global response normalisation (ConvNeXt V2), over the channels of each image."""

  @abc.abstractmethod
  def act(self, x: Array, kind: str, *, last: bool = False) -> Array:
    """Activation of one of the kinds in `functional.GATES`; `last`: right before the head."""

  @abc.abstractmethod
  def spatial_pool(self, x: Array, window: int = 3, strides: int = 2, padding: int = 1) -> Array:
    """What conventional networks pool by the maximum; by default the pooling after a stem."""

  @abc.abstractmethod
  def window_head(self, features: int, window: int, *, name: str) -> Callable[[Array], Array]:
    """A map of a whole window of positions, the first of a classifier of several (VGG).

    Pool first, the image is averaged down to one window; head first, the window slides over the
    padded image and makes features at every position, which `readout` averages at the end.
    """

  @abc.abstractmethod
  def average(self, head: Callable[[Array], Array], x: Array, *, tokens: bool = False) -> Array:
    """Applies a head and averages over positions in the family's order; float32, no logit layer.

    What networks without classifier return; arguments as for `readout`.
    """

  @abc.abstractmethod
  def readout(self, head: Callable[[Array], Array], x: Array, *, tokens: bool = False) -> Array:
    """Applies the head and averages over positions in the family's order; float32 logits.

    Args:
      head: Maps features [..., D] to logits [..., classes].
      x: Features with space, [N, H, W, D], tokens, [N, T, D], or pooled features, [N, D].
      tokens: Whether the architecture is a transformer, whose order is another choice.
    """

  def check_encoded(self, x: Array) -> None:
    """Raises InputError unless `x` is a batch of encoded images."""
    if x.ndim != 4 or x.shape[-1] != self.encoding.channels:
      raise InputError(
        f"The network got shape {x.shape}, expected encoded images "
        f"[N, H, W, {self.encoding.channels}].",
        "Encode plain colours with model.ops.encoding(images), or use explain, which does.",
      )

  def linear(self, features: int, *, use_bias: bool = True, name: str) -> nn.Module:
    """Dense map that is linear in every family (queries, keys, values)."""
    return layers.BcosDense(
      features, b=1.0, use_bias=self._bias(use_bias), name=name, **self._dtypes()
    )

  def rms_norm(self, *, name: str, eps: float = 1e-6) -> nn.Module:
    """The norm of tokens that subtracts no mean and has no bias (Llama)."""
    return layers.RMSNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def vocabulary(self, features: int, *, use_bias: bool, name: str) -> nn.Module:
    """The map to one logit per token of a vocabulary; called as `map(x, tied kernel or None)`."""
    return layers.BcosDense(features, b=1.0, use_bias=use_bias, name=name, **self._dtypes())

  def head_act(self, x: Array, kind: str) -> Array:
    """Activation between the two maps of a text classifier."""
    return self.gated(x, kind)

  def at_layer(self, index: int, depth: int) -> Self:
    """Returns the family of one of `depth` blocks of a language model."""
    return self

  def layer_scale(self, initial: float, *, name: str) -> nn.Module:
    """A learned multiplier for each channel."""
    return layers.LayerScale(initial, param_dtype=self.param_dtype, name=name)

  def gated(self, x: Array, kind: str) -> Array:
    """An activation that the family keeps."""
    return F.gated(x, kind, detach=self.detach)

  def max_pool(self, x: Array, window: int, strides: int, padding: int) -> Array:
    """Pooling by the maximum, where the family keeps it."""
    return layers.max_pool(x, window, strides, padding)

  def attend(self, q: Array, k: Array, v: Array, **fields: Any) -> Array:
    """What every attention layer computes from its queries, keys and values.

    Arguments as for `functional.attend`. Called by a layer, within whose scope it may make
    submodules, which is how attributions see the attention weights.
    """
    return F.attend(q, k, v, detach=self.detach, **fields)

  def weigh(self, x: Array, weight: Array) -> Array:
    """Returns `x * weight`, the weight being a dynamic weight (gated linear units)."""
    return x * (F.hold(weight) if self.detach else weight)

  def _bias(self, requested: bool) -> bool:
    return requested

  def _dtypes(self) -> dict[str, Any]:
    return {"dtype": self.dtype, "param_dtype": self.param_dtype}


def _dtype_name(field: str, value: Any) -> str:
  """Returns the name of a floating-point dtype, however it is written."""
  known = ("bfloat16", "float16", "float32", "float64")
  name = value
  if not isinstance(value, str | None):  # NumPy takes None for float64.
    try:
      name = jnp.dtype(value).name
    except TypeError:
      pass
  if name not in known:
    raise unknown_name(field, name, known)
  return name


def same_padding(padding: int | None, kernel_size: int, dilation: int) -> int:
  return dilation * (kernel_size - 1) // 2 if padding is None else padding

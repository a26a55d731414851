"""Layer families: the frozen value that an architecture asks for each of its layers.

An architecture is written once. What makes it a conventional network, a B-cosified one or a B-cos
network from scratch is the `Ops` it is given. Explanation mode is another value of the same
family, `ops.detached()`: nothing is ever toggled.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import inspect
import math
import numbers
from typing import Any, Self

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from . import functional as F
from . import layers
from .errors import InputError, unknown_name
from .inputs import Encoding

Array = jax.Array

_POOLS = {"average": layers.avg_pool, "max": layers.max_pool, "blur": layers.blur_pool}
_NORMS = ("batch", "all", "group", "instance", "layer", "position")
_ORDERS = ("head_first", "pool_first")


@functools.cache
def _recomputed(module: type[nn.Module]) -> type[nn.Module]:
  # Counted from the module itself: whether the network is training is no array.
  takes_train = "train" in inspect.signature(module.__call__).parameters
  return nn.remat(module, static_argnums=(2,) if takes_train else ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ops(abc.ABC):
  """What an architecture may ask for. Abstract; the two families below are final.

  Attributes:
    encoding: How colours become input channels.
    dtype: Compute dtype such as 'bfloat16', kept as its name; None computes in float32. Norms,
      B-cos scales and logits are float32 in any case.
    param_dtype: Dtype of the parameters.
    detach: Explanation mode, see `detached`.
    recompute: Whether the backward pass computes each block's results anew rather than keeping
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
    for name in ("dtype", "param_dtype"):
      value = getattr(self, name)
      if value is not None or name == "param_dtype":
        object.__setattr__(self, name, _dtype_name(name, value))

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
  ) -> nn.Module:
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
    """What conventional networks pool by the maximum; by default the pooling behind a stem."""

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

  def attention(self, num_heads: int, *, name: str) -> nn.Module:
    """Self-attention whose weights are dynamic weights in explanation mode."""
    return layers.SelfAttention(self, num_heads, detach=self.detach, name=name)

  @property
  def has_biases(self) -> bool:
    """Whether the family keeps biases, and learned constants that act as such."""
    return self._bias(True)

  def window_attention(self, num_heads: int, window: int, shift: Sequence[int], **fields: Any):
    """Attention within shifted windows; see `layers.WindowAttention` for the other fields."""
    return layers.WindowAttention(
      self, num_heads, window, tuple(shift), detach=self.detach, **fields
    )

  def projected_attention(
    self, num_heads: int, *, use_bias: bool = True, key_bias: bool = True, name: str
  ) -> nn.Module:
    """Attention with a map each for queries, keys and values; see `layers.Attention`."""
    return layers.Attention(
      self, num_heads, use_bias=use_bias, key_bias=key_bias, detach=self.detach, name=name
    )

  def masked_attention(self, num_heads: int, **fields: Any) -> nn.Module:
    """Self-attention of language models; see `layers.MaskedAttention` for the other fields."""
    return layers.MaskedAttention(self, num_heads, detach=self.detach, **fields)

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
    return F.attend(q, k, v, **fields)

  def weigh(self, x: Array, weight: Array) -> Array:
    """Returns `x * weight`, the weight being a dynamic weight (gated linear units)."""
    return x * (F.hold(weight) if self.detach else weight)

  def _bias(self, requested: bool) -> bool:
    return requested

  def _dtypes(self) -> dict[str, Any]:
    return {"dtype": self.dtype, "param_dtype": self.param_dtype}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandardOps(Ops):
  """The conventional family: linear maps, biases, centred norms, max pooling, pool then head.

  Detached, it explains a conventional network as a dynamic linear map too (its gates, attention
  and layer-norm divisors held fixed); the biases then carry much of the value, as the residual
  of the explanation shows.
  """

  def conv(
    self,
    features,
    kernel_size,
    strides=1,
    *,
    padding=None,
    groups=1,
    dilation=1,
    use_bias=False,
    name,
  ):
    return layers.BcosConv(
      features,
      (kernel_size,) * 2,
      strides,
      _padding(padding, kernel_size, dilation),
      groups,
      dilation,
      b=1.0,
      use_bias=use_bias,
      name=name,
      **self._dtypes(),
    )

  def dense(self, features, *, gate=None, use_bias=True, name):
    return layers.BcosDense(
      features, b=1.0, gate=gate, use_bias=use_bias, detach=self.detach, name=name, **self._dtypes()
    )

  def classifier(self, features, *, name):
    return self.linear(features, name=name)

  def batch_norm(self, *, name, eps=1e-5):
    return layers.BatchNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def layer_norm(self, *, name, eps=1e-5):
    return layers.LayerNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def group_norm(self, num_groups, *, name, eps=1e-5):
    return layers.GroupNorm(num_groups, eps=eps, detach=self.detach, name=name, **self._dtypes())

  def response_norm(self, *, name, eps=1e-6):
    return layers.ResponseNorm(eps=eps, detach=self.detach, name=name, **self._dtypes())

  def act(self, x, kind, *, last=False):
    return self.gated(x, kind)

  def spatial_pool(self, x, window=3, strides=2, padding=1):
    return self.max_pool(x, window, strides, padding)

  def window_head(self, features, window, *, name):
    conv = self.conv(features, window, padding=0, use_bias=True, name=name)
    return lambda x: conv(layers.adaptive_avg_pool(x, window))

  def average(self, head, x, *, tokens=False):
    return F.widened(head(layers.global_avg_pool(x)))

  def readout(self, head, x, *, tokens=False):
    return self.average(head, x, tokens=tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BcosOps(Ops):
  """The B-cos family. The defaults are B-cosification's (arXiv 2411.00715); presets name others.

  Attributes:
    b: The exponent B of every B-cos map; the initial value if `learn_b`.
    learn_b: Makes B a scalar parameter `b` of each layer, to be learned or scheduled.
    unit_norm: Normalises the weights of every unit.
    cosine_of_weights: See `layers.BcosDense`.
    max_out: Linear units per output.
    use_bias: Keeps the biases of maps and norms, where the architecture has them.
    norm: What batch norm becomes: batch, all, group, instance, layer or position, each with
      `_uncentered` for the form that subtracts no mean; or none.
    norm_scale: Whether norms have a scale.
    norm_bias: Whether norms have a bias; None follows `use_bias`.
    norm_groups: Groups of the norm `group`.
    centered_stem: Whether the stem norm of transformers subtracts the mean.
    keep_activations: Keeps ReLU and GELU; their gates become dynamic weights.
    keep_last_activation: Keeps the activation right before a head in any case: DenseNet's last
      ReLU is a function, which B-cosification never replaces.
    pool: What max pooling becomes: average, max, or blur (anti-aliased).
    head_order: head_first (a 1x1 map, then the mean over positions) or pool_first.
    token_head_order: The same choice for transformers.
    logit_bias: Constant added to the logits; None takes -log(classes - 1), 0 adds nothing.
    logit_temperature: Divisor of the logits.
    fan_in_gain: Divides convolutions and the classifier by sqrt(inputs of a patch) / 100 (B-cos
      v1).
    keep_head_activation: Keeps the activation between the two maps of a text classifier.
    vocabulary_map: The map to the logits of a vocabulary: 'linear', as it was, its bias
      included; or 'bcos'.
    b_per_layer: The exponent of each block of a language model, in place of `b`, which then is
      that of the maps outside of blocks; () for the same everywhere.
    hold_gated_factor: Whether the activated factor of gated linear units is a dynamic weight in
      explanation mode. Without, both factors are differentiated and what they make is counted
      twice, as by the published code of B-cos LM.
    conv_guard: Epsilons of convolutions.
    dense_guard: Epsilons of dense maps.
  """

  encoding: Encoding = Encoding(pairing="negated")
  b: float = 2.0
  learn_b: bool = False
  unit_norm: bool = False
  cosine_of_weights: bool = False
  max_out: int = 1
  use_bias: bool = False
  norm: str = "batch_uncentered"
  norm_scale: bool = True
  norm_bias: bool | None = None
  norm_groups: int = 32
  centered_stem: bool = True
  keep_activations: bool = True
  keep_last_activation: bool = True
  pool: str = "average"
  head_order: str = "head_first"
  token_head_order: str = "head_first"
  logit_bias: float | None = None
  logit_temperature: float = 1.0
  fan_in_gain: bool = False
  keep_head_activation: bool = True
  vocabulary_map: str = "linear"
  b_per_layer: tuple[float, ...] = ()
  hold_gated_factor: bool = True
  conv_guard: F.Guard = F.CONV_GUARD
  dense_guard: F.Guard = F.DENSE_GUARD

  def __post_init__(self):
    super().__post_init__()
    object.__setattr__(self, "b_per_layer", tuple(self.b_per_layer))
    for b in (self.b, *self.b_per_layer):
      F.check_b(b)
    if not (isinstance(self.logit_temperature, numbers.Real) and 0 < self.logit_temperature):
      raise InputError(
        f"logit_temperature is {self.logit_temperature!r}, expected a number above 0.",
        "Use 1 to leave the logits as they are.",
      )
    norms = {"none", *_NORMS, *(f"{norm}_uncentered" for norm in _NORMS)}
    for kind, value, known in (
      ("pool", self.pool, _POOLS),
      ("norm", self.norm, norms),
      ("head_order", self.head_order, _ORDERS),
      ("token_head_order", self.token_head_order, _ORDERS),
      ("vocabulary_map", self.vocabulary_map, ("linear", "bcos")),
    ):
      if value not in known:
        raise unknown_name(kind, value, known)

  @classmethod
  def equivalent(cls, **fields) -> Self:
    """B=1 with everything kept: B-cosified with it, a network computes what it did before."""
    return cls(
      **{
        "b": 1.0,
        "use_bias": True,
        "pool": "max",
        "head_order": "pool_first",
        "token_head_order": "pool_first",
        "logit_bias": 0.0,
      }
      | fields
    )

  @classmethod
  def v2(cls, **fields) -> Self:
    """B-cos v2 (arXiv 2306.10898): unit-norm weights, no activations, input [x, 1-x]."""
    return cls(
      **{
        "encoding": Encoding((0.0,) * 3, (1.0,) * 3, "complement"),
        "unit_norm": True,
        "keep_activations": False,
        "keep_last_activation": False,
        "token_head_order": "pool_first",
      }
      | fields
    )

  @classmethod
  def v1(cls, **fields) -> Self:
    """B-cos v1 (arXiv 2205.10268): as v2, with MaxOut of 2 units, fixed gains and no norms.

    Published are also the gain of the head, a 1x1 convolution, and the logit bias log(.01 / .99)
    for any number of classes. The published `logit_temperature` differs from network to network:
    give the one of yours, the 1 here is none of them.
    """
    published = {"max_out": 2, "norm": "none", "fan_in_gain": True}
    return cls.v2(**published | {"logit_bias": math.log(0.01 / 0.99)} | fields)

  @classmethod
  def lm(cls, **fields) -> Self:
    """B-cos LM (arXiv 2502.12992): unit-norm rows, no biases, heads without tanh and ReLU.

    GELU is kept, layer norms stay centred, epsilon stands under the root. Published encoders were
    trained with B=2 and 1.5, decoders with 1.1.
    """
    published = {"unit_norm": True, "dense_guard": F.CONV_GUARD, "logit_bias": 0.0}
    return cls(**published | {"keep_head_activation": False} | fields)

  @classmethod
  def lm_decoder(cls, **fields) -> Self:
    """B-cos LM with the exponent of its published decoders, 1.1."""
    return cls.lm(**{"b": 1.1} | fields)

  @classmethod
  def lm_plain(cls, **fields) -> Self:
    """B-cosification that keeps the function of a language model: everything as it was, B=1.

    Raise `b` from there: weights keep their lengths and biases stay unless `use_bias=False`.
    """
    kept = {"b": 1.0, "use_bias": True, "dense_guard": F.CONV_GUARD, "logit_bias": 0.0}
    return cls(**kept | fields)

  @classmethod
  def aloe(cls, *, implementation: int = 2, **fields) -> Self:
    """ALOE: plain weights (implementation 1) or the cosine to them (2), input [z, 1-z]."""
    if implementation not in (1, 2):
      raise InputError(
        f"ALOE implementation {implementation!r} does not exist, expected 1 or 2.",
        "Its published students use 2.",
      )
    return cls(
      **{
        "encoding": Encoding(pairing="complement"),
        "centered_stem": False,
        "cosine_of_weights": implementation == 2,
      }
      | fields
    )

  def conv(
    self,
    features,
    kernel_size,
    strides=1,
    *,
    padding=None,
    groups=1,
    dilation=1,
    use_bias=False,
    name,
  ):
    return layers.BcosConv(
      features,
      (kernel_size,) * 2,
      strides,
      _padding(padding, kernel_size, dilation),
      groups,
      dilation,
      use_bias=self._bias(use_bias),
      guard=self.conv_guard,
      fan_in_gain=self.fan_in_gain,
      name=name,
      **self._map(),
    )

  def dense(self, features, *, gate=None, use_bias=True, name):
    gate = gate if self.keep_activations else None
    return layers.BcosDense(
      features,
      gate=gate,
      use_bias=self._bias(use_bias),
      guard=self.dense_guard,
      name=name,
      **self._map(),
    )

  def classifier(self, features, *, name):
    return layers.BcosDense(
      features,
      use_bias=self._bias(True),
      guard=self.conv_guard,
      fan_in_gain=self.fan_in_gain,
      name=name,
      **self._map(),
    )

  def batch_norm(self, *, name, eps=1e-5):
    kind, _, uncentered = self.norm.partition("_")
    fields = self._norm(eps, centered=not uncentered)
    if kind == "none":
      return lambda x, train=False: x
    if kind in ("batch", "all"):
      return layers.BatchNorm(joint=kind == "all", name=name, **fields)
    if kind == "position":
      return layers.LayerNorm(name=name, **fields)
    groups = {"group": self.norm_groups, "instance": None, "layer": 1}[kind]
    return layers.GroupNorm(groups, name=name, **fields)

  def layer_norm(self, *, name, eps=1e-5):
    return layers.LayerNorm(name=name, **self._norm(eps, centered=True))

  def group_norm(self, num_groups, *, name, eps=1e-5):
    return layers.GroupNorm(num_groups, name=name, **self._norm(eps, self.centered_stem))

  def response_norm(self, *, name, eps=1e-6):
    fields = self._norm(eps, centered=False)
    del fields["centered"]
    return layers.ResponseNorm(name=name, **fields)

  def act(self, x, kind, *, last=False):
    keep = self.keep_activations or (last and self.keep_last_activation)
    return self.gated(x, kind) if keep else x

  def head_act(self, x, kind):
    return self.gated(x, kind) if self.keep_head_activation else x

  def rms_norm(self, *, name, eps=1e-6):
    fields = {"use_scale": self.norm_scale, "detach": self.detach, **self._dtypes()}
    return layers.RMSNorm(eps=eps, name=name, **fields)

  def vocabulary(self, features, *, use_bias, name):
    if self.vocabulary_map == "linear":
      return super().vocabulary(features, use_bias=use_bias, name=name)
    # One logit per token: the tied table has no further units.
    fields = {**self._map(), "max_out": 1, "guard": self.dense_guard}
    return layers.BcosDense(features, use_bias=self._bias(use_bias), name=name, **fields)

  def at_layer(self, index, depth):
    if not self.b_per_layer:
      return self
    if len(self.b_per_layer) != depth:
      raise InputError(
        f"b_per_layer has {len(self.b_per_layer)} exponents for {depth} blocks.",
        "Give one per block, or none.",
      )
    return dataclasses.replace(self, b=self.b_per_layer[index], b_per_layer=())

  def weigh(self, x, weight):
    return super().weigh(x, weight) if self.hold_gated_factor else x * weight

  def spatial_pool(self, x, window=3, strides=2, padding=1):
    pool = self.max_pool if self.pool == "max" else _POOLS[self.pool]
    return pool(x, window, strides, padding)

  def window_head(self, features, window, *, name):
    first = self.head_order == "head_first"
    padding = window // 2 if first else 0
    conv = self.conv(features, window, padding=padding, use_bias=True, name=name)
    return conv if first else lambda x: conv(layers.adaptive_avg_pool(x, window))

  def average(self, head, x, *, tokens=False):
    order = self.token_head_order if tokens else self.head_order
    if order == "head_first":
      # Float32 before the mean: bfloat16 sums over positions would lose the logits' last digits.
      return layers.global_avg_pool(F.widened(head(x)))
    return F.widened(head(layers.global_avg_pool(x)))

  def readout(self, head, x, *, tokens=False):
    x = self.average(head, x, tokens=tokens)
    bias = self.logit_bias
    if bias is None:
      bias = -math.log(max(x.shape[-1] - 1, 1))
    return layers.LogitLayer(bias, self.logit_temperature, name="logits")(x)

  def _bias(self, requested):
    return requested and self.use_bias

  def _map(self) -> dict[str, Any]:
    return {
      "b": self.b,
      "learn_b": self.learn_b,
      "unit_norm": self.unit_norm,
      "cosine_of_weights": self.cosine_of_weights,
      "max_out": self.max_out,
      "detach": self.detach,
      **self._dtypes(),
    }

  def _norm(self, eps: float, centered: bool) -> dict[str, Any]:
    bias = self.use_bias if self.norm_bias is None else self.norm_bias
    return {
      "centered": centered,
      "eps": eps,
      "use_scale": self.norm_scale,
      "use_bias": bias,
      "detach": self.detach,
      **self._dtypes(),
    }


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


def _padding(padding: int | None, kernel_size: int, dilation: int) -> int:
  return dilation * (kernel_size - 1) // 2 if padding is None else padding


_FAMILIES: dict[str, type[Ops]] = {"standard": StandardOps, "bcos": BcosOps}


def to_dict(ops: Ops) -> dict[str, Any]:
  """Returns a family as plain values: `family` and every field."""
  family = {cls: name for name, cls in _FAMILIES.items()}[type(ops)]
  return {"family": family, **dataclasses.asdict(ops)}


def from_dict(fields: Mapping[str, Any]) -> Ops:
  """Returns the family that `to_dict` wrote; absent fields take their defaults.

  A `family` may name a preset: 'standard', 'bcos', 'bcos_v1', 'bcos_v2', 'bcos_lm',
  'bcos_lm_decoder', 'bcos_lm_plain', 'aloe' (which takes `implementation` too).

  Raises:
    InputError: Unknown family or field, with the nearest name.
  """
  fields = dict(fields)
  presets: dict[str, Callable[..., Ops]] = {
    **_FAMILIES,
    "bcos_v1": BcosOps.v1,
    "bcos_v2": BcosOps.v2,
    "bcos_lm": BcosOps.lm,
    "bcos_lm_decoder": BcosOps.lm_decoder,
    "bcos_lm_plain": BcosOps.lm_plain,
    "aloe": BcosOps.aloe,
  }
  family = fields.pop("family", None)
  if family not in presets:
    raise unknown_name("ops family", family, presets)
  known = {f.name for f in dataclasses.fields(_FAMILIES.get(family, BcosOps))}
  if family == "aloe":
    known.add("implementation")
  for name in fields:
    if name not in known:
      raise unknown_name(f"field of the {family!r} ops", name, known)
  nested = {"encoding": Encoding, "conv_guard": F.Guard, "dense_guard": F.Guard}
  default = presets[family]()
  for name, cls in nested.items():
    given = fields.get(name)
    if isinstance(given, Mapping):
      for key in given:
        if key not in (known := {f.name for f in dataclasses.fields(cls)}):
          raise unknown_name(f"field of {name}", key, known)
      fields[name] = dataclasses.replace(getattr(default, name), **given)
  return presets[family](**fields)

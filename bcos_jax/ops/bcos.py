"""The B-cos family and its published presets."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

from .. import functional as F
from .. import layers
from ..errors import InputError, unknown_name
from ..inputs import Encoding
from .base import Ops, same_padding

_POOLS = {"average": layers.avg_pool, "max": layers.max_pool, "blur": layers.blur_pool}
_NORMS = ("batch", "all", "group", "instance", "layer", "position")
_ORDERS = ("head_first", "pool_first")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BcosOps(Ops):
  """The B-cos family. The defaults are B-cosification's (arXiv 2411.00715); presets name others.

  Attributes:
    b: The exponent B of every B-cos map; the initial value if `learn_b`.
    learn_b: Makes B a scalar parameter `b` of each layer, to be learned or scheduled.
    weights: 'plain', 'unit' or 'cosine', see `layers.BcosDense`.
    max_out: Linear units per output.
    use_bias: Keeps the biases of maps and norms, where the architecture has them.
    norm: What batch norm becomes: batch, all, group, instance, layer or position, each with
      `_uncentered` for the form that subtracts no mean; or none.
    norm_scale: Whether norms have a scale.
    norm_bias: Whether norms have a bias; None follows `use_bias`.
    norm_groups: Groups of the norm `group`.
    centered_stem: Whether the stem norm of transformers subtracts the mean.
    keep_activations: Keeps ReLU and GELU; their gates become dynamic weights.
    keep_last_activation: Always keeps the activation right before a head: DenseNet's last
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
  weights: str = "plain"
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
    if isinstance(self.b_per_layer, list):
      object.__setattr__(self, "b_per_layer", tuple(self.b_per_layer))
    F.check_b(self.b)
    super().__post_init__()
    for b in self.b_per_layer:
      F.check_b(b)
    for name in ("max_out", "norm_groups"):
      if getattr(self, name) < 1:
        raise InputError(
          f"{name} is {getattr(self, name)}, expected at least 1.", f"Change {name}."
        )
    if not 0 < self.logit_temperature:
      raise InputError(
        f"logit_temperature is {self.logit_temperature!r}, expected a number above 0.",
        "Use 1 to leave the logits as they are.",
      )
    norms = {"none", *_NORMS, *(f"{norm}_uncentered" for norm in _NORMS)}
    for kind, value, known in (
      ("weights", self.weights, layers.WEIGHTS),
      ("pool", self.pool, _POOLS),
      ("norm", self.norm, norms),
      ("head_order", self.head_order, _ORDERS),
      ("token_head_order", self.token_head_order, _ORDERS),
      ("vocabulary_map", self.vocabulary_map, ("linear", "bcos")),
    ):
      if value not in known:
        raise unknown_name(kind, value, known)

  @property
  def conventional(self):
    return False

  @property
  def probability(self):
    # B-cos networks are trained with one binary cross-entropy per class.
    return "sigmoid"

  @property
  def has_logit_layer(self):
    return True

  def with_logits(self, bias, temperature=1.0):
    return dataclasses.replace(self, logit_bias=bias, logit_temperature=temperature)

  def pool_first(self):
    return dataclasses.replace(self, head_order="pool_first", token_head_order="pool_first")

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
        "weights": "unit",
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
    published: dict[str, Any] = {"max_out": 2, "norm": "none", "fan_in_gain": True}
    return cls.v2(**published | {"logit_bias": math.log(0.01 / 0.99)} | fields)

  @classmethod
  def lm(cls, **fields) -> Self:
    """B-cos LM (arXiv 2502.12992): unit-norm rows, no biases, heads without tanh and ReLU.

    GELU is kept, layer norms stay centred, epsilon stands under the root. Published encoders were
    trained with B=2 and 1.5, decoders with 1.1.
    """
    published: dict[str, Any] = {
      "weights": "unit",
      "dense_guard": F.CONV_GUARD,
      "keep_head_activation": False,
      "logit_bias": 0.0,
    }
    return cls(**published | fields)

  @classmethod
  def lm_decoder(cls, **fields) -> Self:
    """B-cos LM with the exponent of its published decoders, 1.1."""
    return cls.lm(**{"b": 1.1} | fields)

  @classmethod
  def lm_plain(cls, **fields) -> Self:
    """B-cosification that keeps the function of a language model: everything as it was, B=1.

    Raise `b` from there: weights keep their lengths and biases stay unless `use_bias=False`.
    """
    kept: dict[str, Any] = {
      "b": 1.0,
      "use_bias": True,
      "dense_guard": F.CONV_GUARD,
      "logit_bias": 0.0,
    }
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
        "weights": "cosine" if implementation == 2 else "plain",
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
      same_padding(padding, kernel_size, dilation),
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
      "weights": self.weights,
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

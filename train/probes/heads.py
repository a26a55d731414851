"""Probe heads: training on frozen features, and merging into the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp

from bcos_jax import functional as F
from bcos_jax import layers, models, ops
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.variables import abstract_variables, graft

from .features import headless

HEADS = ("linear", "bcos", "bcos_mlp")
LAST = "head"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
  """A pure function of parameters and features.

  Attributes:
    kind: One of `HEADS`.
    maps: Pairs of a name and a map without bias, in the order in which they are applied; the last
      is `head`.
    logit_bias: Constant that is added to the logits.
    temperature: What the logits are divided by before.
    normalise: Whether features are scaled to unit length first.
  """

  kind: str
  maps: tuple[tuple[str, nn.Module], ...]
  logit_bias: float = 0.0
  temperature: float = 1.0
  normalise: bool = False

  def init(self, key: jax.Array, width: int) -> dict[str, Any]:
    """Draws parameters {name: {"kernel": float32 [inputs, outputs], ...}} for features [N, width].

    Each map draws as in a network.
    """
    x, params = jnp.zeros((1, width)), {}
    for (name, layer), own in zip(self.maps, jax.random.split(key, len(self.maps)), strict=True):
      x, variables = layer.init_with_output(own, x)
      params[name] = variables["params"]
    return params

  def __call__(self, params: Mapping[str, Any], features: jax.Array) -> jax.Array:
    """Maps float features [N, D] to float32 logits [N, C]."""
    x: Any = F.unit_length(features) if self.normalise else features
    for name, layer in self.maps:
      x = layer.apply({"params": params[name]}, x)
    return x.astype(jnp.float32) / self.temperature + self.logit_bias


def make(
  model: nn.Module,
  num_classes: int,
  kind: str,
  *,
  logit_bias: float = 0.0,
  hidden: int = 256,
  normalise: bool = False,
) -> Head:
  """Returns a head for the features of a network.

  `linear` is one linear map. `bcos` is the B-cos map that the network's own family has for a
  head (of ALOE's students: the cosine to the weights, B=2; arXiv 2205.10268, eq. 3), so that it
  fits the network. A conventional network has none: it gets that of ALOE's students. `bcos_mlp`
  is two such maps without anything between them (after "How to Probe", arXiv 2503.00641).

  Args:
    model: The network.
    num_classes: Of the data.
    kind: One of `HEADS`.
    logit_bias: See `Head`.
    hidden: Features between the two maps of `bcos_mlp`.
    normalise: See `Head`.

  Raises:
    InputError: Unknown kind.
  """
  if kind not in HEADS:
    raise unknown_name("head", kind, HEADS)
  if kind == "linear":
    plain = layers.BcosDense(num_classes, b=1.0)
    return Head(kind=kind, maps=((LAST, plain),), logit_bias=logit_bias, normalise=normalise)
  own = _own(model, num_classes)
  if _is_linear(own):
    own = ops.BcosOps.aloe().dense(num_classes, use_bias=False, name=LAST)
  own = own.clone(parent=None, name=None, use_bias=False, dtype=None, detach=False)
  maps = [(LAST, own)]
  if kind == "bcos_mlp":
    maps.insert(0, ("hidden", own.clone(features=hidden)))
  return Head(
    kind=kind,
    maps=tuple(maps),
    logit_bias=logit_bias,
    temperature=getattr(model.ops, "logit_temperature", 1.0),
    normalise=normalise,
  )


def joined_model(model: nn.Module, num_classes: int, head: Head) -> nn.Module:
  """Returns the network with a place for the head; computes nothing.

  Raises:
    InputError: The architecture or its family has no head of this form; says what is missing.
  """
  name = models.describe(model)[0]
  if model.head is None:
    raise InputError(
      f"{name} has no classifier that a probe could become.",
      "Leave out the joined network, and read the probe's accuracy.",
    )
  if len(head.maps) > 1 or head.normalise:
    missing = "a second map" if len(head.maps) > 1 else "a scaling to unit length"
    raise InputError(
      f"The probe has {missing} before the classifier, which {name} lacks.",
      "Train a probe of one map on features as they are: head linear or bcos, no normalise.",
    )
  linear = _is_linear(_own(model, num_classes))
  if linear != (head.kind == "linear"):
    raise InputError(
      f"The probe is {head.kind!r}, the classifier of this {name} is a "
      f"{'linear' if linear else 'B-cos'} map.",
      f"Train a probe with the head {'linear' if linear else 'bcos'!r}.",
    )
  joined = _with_classes(model, num_classes)
  return joined.clone(ops=joined.ops.with_logits(head.logit_bias, head.temperature))


def join(
  model: nn.Module, variables: Any, head: Head, params: Mapping[str, Any]
) -> tuple[nn.Module, Any]:
  """Returns one network whose logits are the head's of the network's features.

  Args:
    model: The network whose features the head was trained on.
    variables: Its variables; leaves are shared, its own head is left out.
    head: The head.
    params: Its parameters.

  Raises:
    InputError: See `joined_model` and `features.headless`.
  """
  num_classes = params[LAST]["kernel"].shape[-1] // head.maps[-1][1].max_out
  new = joined_model(model, num_classes, head)
  leaves: dict[Any, Any] = traverse_util.flatten_dict(headless(model, variables)[1], sep="/")
  leaves |= {f"params/{model.head}/{name}": leaf for name, leaf in params[LAST].items()}
  wanted: dict[Any, Any] = traverse_util.flatten_dict(abstract_variables(new), sep="/")
  bias = f"params/{model.head}/bias"
  if bias in wanted:
    constant = 0.0 if new.ops.has_logit_layer else head.logit_bias
    leaves[bias] = jnp.full(wanted[bias].shape, constant, wanted[bias].dtype)
  made = graft(new, traverse_util.unflatten_dict(leaves, sep="/"))
  return new, jax.tree.map(
    lambda leaf, like: leaf.astype(like.dtype), made, abstract_variables(new)
  )


def _with_classes(model: nn.Module, num_classes: int) -> nn.Module:
  """Returns the network with a head after its pooling."""
  if getattr(model, "distillation_head", False):  # Features are those of the class token alone.
    model = model.clone(distillation_head=False)
  return model.with_classes(num_classes).clone(ops=model.ops.pool_first())


def _own(model: nn.Module, num_classes: int) -> nn.Module:
  """Returns the map that is the head of an architecture in its family, outside the network."""
  if model.head is None:
    return model.ops.dense(num_classes, name=LAST)
  found: list[nn.Module] = []

  def listen(call, args, kwargs, context):
    if context.module.path == (model.head,) and not found:
      found.append(context.module.clone(parent=None, name=None))
    return call(*args, **kwargs)

  network = _with_classes(model, num_classes)
  with nn.intercept_methods(listen):
    jax.eval_shape(network.init, jax.random.key(0), network.input_spec)
  return found[0]


def _is_linear(layer: nn.Module) -> bool:
  scaled: Sequence[bool] = (layer.weights != "plain", layer.fan_in_gain, layer.learn_b)
  return layer.b == 1 and layer.max_out == 1 and not any(scaled)

"""Networks of other libraries as modules of this package.

The network is said by an importable factory and its arguments, and its family by `ops`, so that a
bundle holds no code: `bcos_jax.load` builds it again.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json
import math
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ...errors import InputError
from ...layers.sources import COLLECTION
from ...models import ImageModel, fields_of, register_unlisted
from ...ops import BcosOps, Ops
from ..bcosified import BcosifiedProgram
from ..closed_form import calibrate
from ..program import path_name, trace
from ..reading import reading_of
from .factories import COLLECTIONS, OWN_MODULES, Built, Recorded, built_by, called

Array = jax.Array

NAME = "program"


class ProgramNetwork(ImageModel):
  """A network that a factory builds, in the layer family `ops`; made by `as_network`.

  Attributes:
    ops: `StandardOps` for the network as it is; `BcosOps` for what B-cosification makes of it, by
      its fields b, learn_b, use_bias, pool and the pairing of its encoding.
    num_classes: Outputs [N, classes].
    image_size: Side of the pictures, or height and width.
    factory: Name of the `factory` that builds the network, 'module:function'.
    arguments: Those of the factory by name, JSON.
    rules: See `bcosify_program`, JSON.
    products: See `trace`, JSON.
    weights: See `trace`.
    channels_first: Whether the network reads [N, C, H, W].

  Variables are those of the network by its own names: `params` what it trains, `batch_stats` other
  floating-point numbers, held in training; for paired inputs `params/negated`, the halves of
  kernels that -z meets, for learned exponents `params/exponents`. It computes what the network does
  in evaluation mode, also while it is trained.
  """

  ops: Ops
  num_classes: int = 10
  image_size: int | tuple[int, int] = 32
  factory: str = ""
  arguments: str = "{}"
  rules: str = "{}"
  products: str = "{}"
  weights: tuple[str, ...] = ()
  channels_first: bool = False

  norm_eps = 1e-5
  input_map = ""
  head = None

  @nn.compact
  def __call__(self, x: Array, train: bool = False) -> Array:
    """Returns logits [N, classes] of encoded images [N, H, W, channels]."""
    del train
    seen = jnp.moveaxis(x, -1, 1) if self.channels_first else x
    shape = self._read_shape(*x.shape[1:3])
    built = built_by(self.factory, self.arguments)
    variables = self._own(built, self._collected(shape, built))
    network = self._network(shape)
    if self.ops.detach:
      return self._held(network, variables, seen)
    return network.encoded(variables, seen) if self.paired else network(variables, seen)

  @property
  def paired(self) -> bool:
    """Whether it reads [z, -z]."""
    return self.ops.encoding.pairing != "none"

  @property
  def program_arguments(self) -> dict[str, Any]:
    """The arguments of the factory by name."""
    return json.loads(self.arguments)

  def made(self) -> BcosifiedProgram:
    """Returns the B-cosified program, without variables.

    Raises:
      InputError: The family is conventional.
    """
    network = self._network(self.example)
    if not isinstance(network, BcosifiedProgram):
      raise InputError(
        f"The family is {type(self.ops).__name__}, whose networks are as they were.",
        "B-cosify the network: ops=BcosOps().",
      )
    return network

  @property
  def imported_from(self) -> str:
    """The module of the factory; "" for one of this package."""
    module = self.factory.partition(":")[0]
    return "" if module in OWN_MODULES else module

  @nn.nowrap
  def with_classes(self, count: int) -> ProgramNetwork:
    """Returns the network with a head of so many classes; see `convert.programs.heads`.

    Raises:
      InputError: Features are asked for, or nothing tells which map the head is.
    """
    if count == self.num_classes:
      return self
    function = built_by(self.factory, self.arguments).function
    if not count or not isinstance(function, Recorded):
      what = "features" if not count else f"{count} classes"
      raise InputError(
        f"The network of {self.factory!r} returns {self.num_classes} classes, and cannot be made "
        f"one of {what}.",
        "Let the factory build that network, or export one that ends there.",
      )
    _, arguments = function.with_classes(count, self.example).recipe()
    return self.clone(num_classes=count, arguments=json.dumps(arguments))

  @nn.nowrap
  def bcosified(self, variables: Mapping[str, Any], ops: Ops) -> tuple[ProgramNetwork, Any]:
    """Returns the B-cos network that starts from the same weights; see `bcosify_program`.

    Raises:
      InputError: Options of the family that programs do not follow, or as `bcosify_program`.
    """
    network = self.clone(ops=_followed(ops))
    return network, network.variables_of(network.made().start(self.tree_of(variables)))

  @nn.nowrap
  def calibrated(
    self, variables: Any, teacher: tuple[Any, Any], inputs: Any, settings: Any, progress: Any
  ) -> tuple[Any, Any]:
    """Returns the variables in closed form, and the report; see `closed_form.calibrate`."""
    conventional, given = teacher
    self._check_teacher(conventional)
    made = self.made()
    own = dataclasses.replace(made.program, variables=conventional.tree_of(given))
    made = dataclasses.replace(made, program=own, variables=self.tree_of(variables))
    colors = np.asarray(inputs)
    colors = colors / np.float32(255) if colors.dtype == np.uint8 else colors
    seen = dataclasses.replace(self.ops.encoding, pairing="none")(jnp.asarray(colors))
    seen = jnp.moveaxis(seen, -1, 1) if self.channels_first else seen
    tree, report = calibrate(made, seen, settings, progress=progress)
    return self.variables_of(tree), report

  def _check_teacher(self, teacher: Any) -> None:
    same = isinstance(teacher, ProgramNetwork) and teacher.clone(ops=self.ops) == self
    encodings = [dataclasses.replace(m.ops.encoding, pairing="none") for m in (self, teacher)]
    if not same or encodings[0] != encodings[1]:
      raise InputError(
        "The teacher is another network, or normalises its pictures otherwise.",
        "Give the network, and what bcosify makes of it.",
      )

  def __repr__(self) -> str:
    # It tells networks apart, as that of any module: a long program is named by its hash.
    fields = {"ops": self.ops, **{name: getattr(self, name) for name in fields_of(type(self))}}
    told = (f"{name}={_hashed(value)}" for name, value in fields.items())
    return f"{type(self).__name__}({', '.join(told)})"

  def tree_of(self, variables: Mapping[str, Any]) -> Any:
    """Returns variables in the structure of the program, which `made()` is called with."""
    flat: dict[str, Any] = {}
    for collection in COLLECTIONS:
      flat |= traverse_util.flatten_dict(dict(variables.get(collection, {})), sep="/")
    return self._own(built_by(self.factory, self.arguments), flat)

  def variables_of(self, tree: Any) -> dict[str, Any]:
    """Returns the variables of this network from those of the program: the way back."""
    built = built_by(self.factory, self.arguments)
    own = tree if self.extended else {"network": tree}
    built.check(own["network"])
    flat = built.split(own["network"])
    flat["params"] |= {f"negated/{path}": leaf for path, leaf in own.get("negated", {}).items()}
    flat["params"] |= {f"exponents/{path}/b": leaf for path, leaf in own.get("b", {}).items()}
    return {
      name: traverse_util.unflatten_dict(each, sep="/") for name, each in flat.items() if each
    }

  @property
  def extended(self) -> bool:
    """Whether the program's variables are a dict of the network's and of what was added."""
    ops = self.ops
    return isinstance(ops, BcosOps) and (ops.learn_b or ops.encoding.pairing != "none")

  @property
  def example(self) -> tuple[int, ...]:
    """Shape of one input of the function, without the batch."""
    return self._read_shape(*self.image_sides)

  def _read_shape(self, height: int, width: int) -> tuple[int, ...]:
    """Returns the shape of one input of the function."""
    colors = self.ops.encoding.colors
    return (colors, height, width) if self.channels_first else (height, width, colors)

  def _network(self, shape: tuple[int, ...]) -> Any:
    """Returns the function (variables of the program, inputs) -> outputs."""
    built = built_by(self.factory, self.arguments)
    if not isinstance(self.ops, BcosOps):
      return built.function
    return _bcosified(built, shape, self._settings, self._options)

  @property
  def _settings(self) -> tuple[tuple[str, Any], ...]:
    ops, rules = self.ops, self.rules
    assert isinstance(ops, BcosOps)
    found = {
      "b": ops.b,
      "learn_b": ops.learn_b,
      "biases": "keep" if ops.use_bias else "remove",
      "pool": "average" if ops.pool == "average" else "keep",
      "pairing": ops.encoding.pairing,
      "rules": rules,
    }
    return tuple(found.items())

  @property
  def _options(self) -> tuple[tuple[str, Any], ...]:
    axis = 1 if self.channels_first else 3
    found = {"products": self.products, "weights": self.weights, "channel_axis": axis}
    return tuple(found.items())

  def _started(self, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the variables to start from; what the factory gives but a shape of is drawn."""
    with jax.ensure_compile_time_eval():
      _, tree = called(self.factory, self.arguments)
    tree = jax.tree_util.tree_map_with_path(self._drawn, tree)
    if isinstance(self.ops, BcosOps):
      network = self._network(shape)
      tree = network.start(tree)
    return self.variables_of(tree)

  def _drawn(self, path: Any, leaf: Any) -> Any:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
      return leaf
    if len(leaf.shape) < 2:  # scales and variances, or what is added
      added = path_name(path).endswith(("bias", "mean"))
      return jnp.full(leaf.shape, 0 if added else 1, leaf.dtype)
    # Outputs come first, as PyTorch has its kernels.
    scale = math.prod(leaf.shape[1:]) ** -0.5
    return scale * jax.random.normal(self.make_rng("params"), leaf.shape, leaf.dtype)

  def _collected(self, shape: tuple[int, ...], built: Built) -> dict[str, Any]:
    """Returns path -> leaf of all variables, which are made where there are none yet."""
    start = self._started(shape) if self.is_initializing() else {}
    tops = built.tops()
    if self.extended:
      made = self._network(shape)
      tops["params"] += ["negated"] if made.pairing != "none" else []
      tops["params"] += ["exponents"] if made.exponents else []
    flat: dict[str, Any] = {}
    for collection, names in tops.items():
      for name in names:
        first = start.get(collection, {}).get(name)
        if collection == "params":
          tree = self.param(name, lambda _, first=first: first)
        else:
          tree = self.variable(collection, name, lambda first=first: first).value
        flat |= traverse_util.flatten_dict({name: tree}, sep="/")
    return flat

  def _own(self, built: Built, flat: Mapping[str, Any]) -> Any:
    """Returns the variables of the program from all leaves by path."""
    network = built.joined(flat)
    if not self.extended:
      return network
    halves = _below(flat, "negated/")
    exponents = {path.removesuffix("/b"): b for path, b in _below(flat, "exponents/").items()}
    return {
      "network": network,
      **({"negated": halves} if halves else {}),
      **({"b": exponents} if exponents else {}),
    }

  def _held(self, network: Any, variables: Any, seen: Array) -> Array:
    """Returns the outputs with weights held, residuals by the names of the program."""
    encoded = network.encoded if isinstance(network, BcosifiedProgram) else network
    axis = 1 if self.channels_first else 3
    traced = trace(
      encoded,
      jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables),
      jax.ShapeDtypeStruct(seen.shape, seen.dtype),
      products=json.loads(self.products),
      weights=self.weights,
      channel_axis=axis,
    )
    gains = {}
    for source in traced.sources:
      explaining = self.has_variable(COLLECTION, source) or (
        self.is_mutable_collection(COLLECTION) and not self.is_initializing()
      )
      if explaining:
        gains[source] = self.variable(COLLECTION, source, jnp.ones, seen.shape[:1]).value
    return traced.held(variables, seen, gains)


_LONGEST = 120

_FOLLOWED = ("b", "learn_b", "use_bias", "pool", "encoding", "logit_bias", "detach", "recompute")
"""Fields of a B-cos family that programs follow; the others must be as by default."""


def _followed(ops: Ops) -> BcosOps:
  if type(ops) is not BcosOps:
    raise InputError(
      f"The family is {type(ops).__name__}, whose layers programs do not have.",
      "B-cosify networks of other libraries by BcosOps.",
    )
  default = BcosOps()
  for field in dataclasses.fields(ops):
    value = getattr(ops, field.name)
    if field.name not in _FOLLOWED and value != getattr(default, field.name):
      raise InputError(
        f"ops has {field.name}={value!r}, which B-cosification of programs does not follow.",
        f"It follows {', '.join(_FOLLOWED[:5])}.",
      )
  if ops.logit_bias not in (None, 0):
    raise InputError(
      f"ops has logit_bias={ops.logit_bias}, which programs do not have.", "Leave it out."
    )
  return dataclasses.replace(ops, logit_bias=0.0)


def _hashed(value: Any) -> str:
  text = repr(value)
  long = isinstance(value, str) and len(text) > _LONGEST
  return f"<sha256 {hashlib.sha256(text.encode()).hexdigest()}>" if long else text


def _below(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  return {p.removeprefix(prefix): leaf for p, leaf in flat.items() if p.startswith(prefix)}


@functools.lru_cache(maxsize=16)
def _bcosified(
  built: Built,
  shape: tuple[int, ...],
  settings: tuple[tuple[str, Any], ...],
  options: tuple[tuple[str, Any], ...],
) -> BcosifiedProgram:
  given, how = dict(settings), dict(options)
  traced = trace(
    built.function,
    built.structure.unflatten(built.shapes),
    jax.ShapeDtypeStruct((1, *shape), jnp.float32),
    products=json.loads(how["products"]),
    weights=how["weights"],
    channel_axis=how["channel_axis"],
    precision=None,
  )
  made = traced.bcosify(**{**given, "rules": json.loads(given["rules"])})
  if made.pairing != "none" and reading_of(traced.bare).start != traced.body.inputs[-1]:
    raise InputError(
      "The network shifts or scales its input itself, and its family has an encoding [z, -z].",
      "State mean and std in the encoding, and let the network read what is normalised.",
    )
  return made


register_unlisted(ProgramNetwork, NAME)

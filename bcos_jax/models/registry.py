"""The register of architectures: each is declared once, in one value that all others read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from ..errors import InputError, unknown_name
from ..ops import Ops, StandardOps
from .base import READS

Fields = Mapping[str, Any]
Declared = str | Callable[[], Any] | Sequence[Any] | Mapping[str, Any]

_HIDDEN = {"ops", "parent", "name", "variant"}
_COMMON = (
  "variant",
  "reads",
  "takes_embeddings",
  "input_map",
  "input_spec",
  "head",
  "num_classes",
  "predicts",
  "block_paths",
  "grad_cam_layer",
  "token_layout",
  "unpooled",
  "localises_text",
)
TRAITS = {
  "images": (*_COMMON, "image_size", "norm_eps"),
  "text": (*_COMMON, "vocab_size", "context_length"),
}
"""What a module must have, by what it reads; `ImageModel` and `LanguageModel` have most of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Architecture:
  """An architecture with all that belongs to it.

  Attributes:
    module: The Flax module; its properties are the traits of a network, see `base.Network`.
    variants: Public name -> fields.
    test_variants: Likewise, small networks for tests: `create` knows them, `names` does not.
    keys: The key tables of its sources (`convert.Keys`): a sequence, a function that returns one,
      or 'module:NAME', which is imported when it is asked for.
    readers: Model type of Hugging Face -> `convert.ConfigReader`, given in the same ways.
  """

  module: type[nn.Module]
  variants: Mapping[str, Fields]
  test_variants: Mapping[str, Fields] = dataclasses.field(default_factory=dict)
  keys: Declared = ()
  readers: Declared = dataclasses.field(default_factory=dict)

  @property
  def named(self) -> dict[str, Fields]:
    """Every name, public or not, with its fields."""
    return {**self.variants, **self.test_variants}

  @property
  def own(self) -> bool:
    """Whether it is one of this package, which the tests check."""
    return self.module.__module__.startswith(f"{__package__}.")

  @property
  def checked_variants(self) -> dict[str, Fields]:
    """The networks that stand for all: those for tests, or else the first."""
    return dict(self.test_variants) or dict([next(iter(self.variants.items()))])

  def full(self, name: str) -> dict[str, Any]:
    """Returns all fields of a variant."""
    return {**fields_of(self.module), **self.named[name]}

  def key_tables(self) -> tuple[Any, ...]:
    """Returns the key tables."""
    return tuple(self._resolved(self.keys, "keys"))

  def config_readers(self) -> dict[str, Any]:
    """Returns the readers of configurations by model type."""
    return dict(self._resolved(self.readers, "readers"))

  def _resolved(self, declared: Declared, what: str) -> Any:
    if not isinstance(declared, str):
      return declared() if callable(declared) else declared
    module, _, name = declared.partition(":")
    try:
      return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
      raise InputError(
        f"The {what} of {self.module.__name__} cannot be imported from {declared!r}: {error}.",
        "Register them as 'module:NAME', or give the values themselves.",
      ) from error


_ARCHITECTURES: dict[type[nn.Module], Architecture] = {}
_SOUND: set[type[nn.Module]] = set()


def register(
  module: type[nn.Module],
  variants: Mapping[str, Fields],
  *,
  test_variants: Mapping[str, Fields] | None = None,
  keys: Declared = (),
  readers: Declared = (),
) -> Architecture:
  """Makes an architecture known: to `create`, conversion, explanations, attributions, training.

  Registering a module of the same name again replaces it, as notebooks do when a cell runs again.

  Args:
    module: The Flax module; see `docs/architectures.md` for its traits.
    variants: Public name -> fields of the module.
    test_variants: Likewise, small networks for tests, which `names` leaves out.
    keys: See `Architecture`.
    readers: See `Architecture`.

  Returns:
    The architecture.

  Raises:
    InputError: The module lacks a trait, a name is taken, or a field is unknown: all problems in
      one message. What only a network shows, such as an input map that it does not have, is
      checked when the first one is created; the key tables, when the first one is converted.
  """
  made = Architecture(module, dict(variants), dict(test_variants or {}), keys, readers or {})
  replaced = [cls for cls in _ARCHITECTURES if _same_place(cls, module)]
  others = [a for cls, a in _ARCHITECTURES.items() if cls not in replaced]
  _raise(module, [*_lacking(module), *_misnamed(made, variants, test_variants or {}, others)])
  for cls in replaced:
    del _ARCHITECTURES[cls]
  _ARCHITECTURES[module] = made
  return made


def architectures() -> tuple[Architecture, ...]:
  """Returns all architectures."""
  return tuple(_ARCHITECTURES.values())


def architecture(name: str) -> Architecture:
  """Returns the architecture of a variant.

  Raises:
    InputError: Unknown name, with the nearest one.
  """
  found = next((a for a in _ARCHITECTURES.values() if name in a.named), None)
  if found is None:
    raise unknown_name("architecture", name, names())
  return found


def architecture_of(model: nn.Module) -> Architecture:
  """Returns the architecture of a network.

  Raises:
    InputError: Its class is not registered.
  """
  if type(model) not in _ARCHITECTURES:
    raise InputError(
      f"{type(model).__name__} is not a registered architecture.",
      "Pass a network made by create(), or register its class with bcos_jax.models.register().",
    )
  return _ARCHITECTURES[type(model)]


def names() -> tuple[str, ...]:
  """Returns the public names that `create` accepts, in order."""
  return tuple(name for a in _ARCHITECTURES.values() for name in a.variants)


def test_variants() -> tuple[str, ...]:
  """Returns the names of the small networks for tests, which `create` knows as well."""
  return tuple(name for a in _ARCHITECTURES.values() for name in a.test_variants)


vars(test_variants)["__test__"] = False  # pytest would take it for a test


def create(name: str, *, ops: Ops, **fields: Any) -> nn.Module:
  """Returns an architecture as a Flax module, without parameters.

  Args:
    name: One of `names()`: as in torchvision, timm and B-cos v2.
    ops: The layer family, e.g. `StandardOps()` or `BcosOps()`.
    **fields: Replaces fields of the variant, e.g. `num_classes=10`. Lists become tuples, NumPy
      scalars Python numbers.

  Raises:
    InputError: Unknown name or field, with the nearest one; a value that cannot be used; or a
      registration whose traits do not fit its network.
  """
  found = architecture(name)
  if not isinstance(ops, Ops):
    raise InputError(
      f"ops is {ops!r}, expected a layer family.", "Give StandardOps() or BcosOps()."
    )
  known = fields_of(found.module)
  for field in fields:
    if field not in known:
      raise unknown_name(f"field of {name!r}", field, known)
  fields = {field: _plain(value) for field, value in fields.items()}
  for field, (least, fix) in _LEAST.items():
    value = fields.get(field, least)
    if not isinstance(value, int) or value < least:
      raise InputError(f"{field} is {value!r}, expected an integer of at least {least}.", fix)
  if not found.own and found.module not in _SOUND:
    _raise(found.module, unsound(found))
    _SOUND.add(found.module)
  return found.module(ops=ops, variant=name, **{**found.named[name], **fields})


_LEAST = {
  "num_classes": (0, "Give the number of classes of your data, or 0 for a network without head."),
  "image_size": (1, "Give the side of the images in pixels."),
  "patch_size": (1, "Give the side of a patch in pixels; 1 makes every position a token."),
}


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
  """Returns the name of a network, and the fields that differ from that variant.

  The name is the one that `create` was asked for; the nearest variant's for modules that were made
  without it. `create(name, ops=model.ops, **fields)` makes the model again.

  Raises:
    InputError: Its class is not registered.
  """
  found = architecture_of(model)
  own = {name: getattr(model, name) for name in fields_of(type(model))}

  def changed(name: str) -> dict[str, Any]:
    full = found.full(name)
    return {field: value for field, value in own.items() if value != full[field]}

  if model.variant in found.named:
    return model.variant, changed(model.variant)
  nearest = min(found.named, key=lambda name: len(changed(name)))
  return nearest, changed(nearest)


def canonical(name: str) -> str:
  """Returns the first of all names of the same variant: aliases have the same canonical name.

  Raises:
    InputError: Unknown name.
  """
  found = architecture(name)
  return next(other for other in found.named if found.full(other) == found.full(name))


def fields_of(cls: type[nn.Module]) -> dict[str, Any]:
  """Returns the fields of an architecture that `create` takes, with their defaults."""
  return {f.name: f.default for f in dataclasses.fields(cls) if f.name not in _HIDDEN}


def unsound(found: Architecture) -> list[str]:
  """Returns which traits of an architecture do not fit its networks; nothing is computed."""
  problems = []
  for name, fields in found.checked_variants.items():
    model = found.module(ops=StandardOps(), variant=name, **fields)
    problems += [f"{name}: {problem}" for problem in _unfit(model)]
  return problems


def _unfit(model: nn.Module) -> list[str]:
  paths = set()

  def seen(function, args, kwargs, context):
    paths.add("/".join(context.module.path))
    return function(*args, **kwargs)

  try:
    with nn.intercept_methods(seen):
      outputs, variables = jax.eval_shape(
        model.init_with_output, jax.random.key(0), model.input_spec
      )
  except Exception as error:  # whatever a module of the user's raises
    return [f"it cannot be initialised: {type(error).__name__}: {' '.join(str(error).split())}"]
  problems = []
  named = {
    "grad_cam_layer": model.grad_cam_layer,
    "head": model.head if model.num_classes else None,
  }
  named |= {f"block_paths[{i}]": path for i, path in enumerate(model.block_paths)}
  if model.reads == "images":
    named["input_map"] = model.input_map
  problems += [
    f"{trait} is {path!r}, which is not a module of the network"
    for trait, path in named.items()
    if path is not None and path not in paths
  ]
  if model.num_classes and model.predicts == "classes":
    if outputs.shape != (1, model.num_classes):
      problems.append(
        f"it returns {list(outputs.shape)} for one input, expected [1, {model.num_classes}]"
      )
  if "params" not in variables:
    problems.append("it has no parameters")
  return problems


def _same_place(cls: type, other: type) -> bool:
  places = [(getattr(c, "__module__", ""), getattr(c, "__qualname__", "")) for c in (cls, other)]
  return places[0] == places[1]


def _lacking(module: type) -> list[str]:
  """Returns the traits that a class does not have."""
  if not isinstance(module, type) or not issubclass(module, nn.Module):
    return [f"{module!r} is not a subclass of flax.linen.Module"]
  reads = getattr(module, "reads", "images")
  if reads not in READS:
    return [f"reads is {reads!r}, expected one of {', '.join(map(repr, READS))}"]
  known = {field.name for field in dataclasses.fields(module)}
  lacking = [t for t in TRAITS[reads] if not hasattr(module, t) and t not in known]
  lacking += ["input_map"] if reads == "images" and getattr(module, "input_map", 0) is None else []
  lacking += [] if "ops" in known else ["ops"]
  return [f"it lacks {trait!r}" for trait in lacking]


def _misnamed(
  made: Architecture, variants: Any, test_variants: Any, others: list[Architecture]
) -> list[str]:
  """Returns what is wrong with the names and the fields of an architecture's variants."""
  problems = [] if variants else ["it has no variants"]
  taken = {name: a.module.__name__ for a in others for name in a.named}
  for name in (*variants, *test_variants):
    if name in taken:
      problems.append(f"the name {name!r} is taken by {taken[name]}")
  problems += [
    f"{name!r} is both public and for tests" for name in variants.keys() & test_variants.keys()
  ]
  if not dataclasses.is_dataclass(made.module):
    return problems
  known = fields_of(made.module)
  problems += [
    f"{name!r} sets {field!r}, which is not a field"
    for name, fields in made.named.items()
    for field in fields
    if field not in known
  ]
  return problems


def _raise(module: type, problems: list[str]):
  if problems:
    name = getattr(module, "__name__", repr(module))
    raise InputError(
      f"The registration of {name} has {len(problems)} problem(s):\n  "
      + "\n  ".join(problems)
      + "\n",
      "Inherit from bcos_jax.models.ImageModel or LanguageModel and set what is missing; see "
      "docs/architectures.md.",
    )


def _plain(value: Any) -> Any:
  """Returns a field as Python values: a module is a key of compiled functions, thus hashable."""
  if isinstance(value, list | tuple):
    return tuple(map(_plain, value))
  return value.item() if isinstance(value, np.generic) else value

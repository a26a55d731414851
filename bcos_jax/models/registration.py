"""Architectures as values: module, variants, key tables, and whether its traits are sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib
from typing import Any

from flax import linen as nn
import jax

from ..errors import InputError
from ..ops import StandardOps
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
    module: The Flax module; its properties are the traits of a network, see `base.BaseNetwork`.
    variants: Public name -> fields.
    test_variants: Likewise, small networks for tests: `create` knows them, `names` does not.
    keys: The key tables of its sources (`convert.Keys`): a sequence, a function that returns one,
      or 'module:NAME', which is imported on first use.
    readers: Model type of Hugging Face -> `convert.ConfigReader`, given in the same ways.
    assumed: Fields whose defaults are meant where keys and shapes leave them open, and nothing
      states the architecture.
  """

  module: Any  # type[nn.Module]; which traits it has beside is asked for
  variants: Mapping[str, Fields]
  test_variants: Mapping[str, Fields] = dataclasses.field(default_factory=dict)
  keys: Declared = ()
  readers: Declared = dataclasses.field(default_factory=dict)
  assumed: tuple[str, ...] = ()

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
  except Exception as error:  # any error that a user's module raises
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


def same_place(cls: type, other: type) -> bool:
  places = [(getattr(c, "__module__", ""), getattr(c, "__qualname__", "")) for c in (cls, other)]
  return places[0] == places[1]


def lacking_traits(module: type) -> list[str]:
  """Returns the traits that a class does not have."""
  if not isinstance(module, type) or not issubclass(module, nn.Module):
    return [f"{module!r} is not a subclass of flax.linen.Module"]
  reads = getattr(module, "reads", "images")
  if reads not in READS:
    return [f"reads is {reads!r}, expected one of {', '.join(map(repr, READS))}"]
  known = {field.name for field in dataclasses.fields(module)}
  missing = [t for t in TRAITS[reads] if not hasattr(module, t) and t not in known]
  missing += ["input_map"] if reads == "images" and getattr(module, "input_map", 0) is None else []
  missing += [] if "ops" in known else ["ops"]
  return [f"it lacks {trait!r}" for trait in missing]


def misnamed(
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
  if not hasattr(made.module, "__dataclass_fields__"):  # no Flax module, which is said already
    return problems
  known = fields_of(made.module)
  problems += [
    f"{name!r} sets {field!r}, which is not a field"
    for name, fields in made.named.items()
    for field in fields
    if field not in known
  ]
  return problems


def refuse(module: type, problems: list[str]):
  if problems:
    name = getattr(module, "__name__", repr(module))
    raise InputError(
      f"The registration of {name} has {len(problems)} problem(s):\n  "
      + "\n  ".join(problems)
      + "\n",
      "Inherit from bcos_jax.models.ImageModel or LanguageModel and set what is missing; see "
      "docs/architectures.md.",
    )

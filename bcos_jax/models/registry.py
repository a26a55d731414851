"""The register of architectures: each is declared once, in one value that all others read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import numpy as np

from ..errors import InputError, unknown_name
from ..ops import Ops
from .base import BaseNetwork
from .registration import (
  Architecture,
  Declared,
  Fields,
  fields_of,
  lacking_traits,
  misnamed,
  refuse,
  same_place,
  unsound,
)

_ARCHITECTURES: dict[type[nn.Module], Architecture] = {}
_UNLISTED: dict[type[nn.Module], Architecture] = {}
_SOUND: set[type[nn.Module]] = set()


def register(
  module: type[BaseNetwork],
  variants: Mapping[str, Fields],
  *,
  test_variants: Mapping[str, Fields] | None = None,
  keys: Declared = (),
  readers: Declared = (),
  assumed: tuple[str, ...] = (),
) -> Architecture:
  """Makes an architecture known: to `create`, conversion, explanations, attributions, training.

  Registering a module of the same name again replaces it, as notebooks do when a cell runs again.

  Args:
    module: The Flax module; see `docs/architectures.md` for its traits.
    variants: Public name -> fields of the module.
    test_variants: Likewise, small networks for tests, which `names` leaves out.
    keys: See `Architecture`.
    readers: See `Architecture`.
    assumed: See `Architecture`.

  Returns:
    The architecture.

  Raises:
    InputError: The module lacks a trait, a name is taken, or a field is unknown: all problems in
      one message. What only a network shows, such as an input map that it does not have, is
      checked when the first one is created; the key tables, when the first one is converted.
  """
  made = Architecture(
    module, dict(variants), dict(test_variants or {}), keys, readers or {}, assumed
  )
  replaced = [cls for cls in _ARCHITECTURES if same_place(cls, module)]
  others = [a for cls, a in _ARCHITECTURES.items() if cls not in replaced]
  refuse(module, [*lacking_traits(module), *misnamed(made, variants, test_variants or {}, others)])
  for cls in replaced:
    del _ARCHITECTURES[cls]
  _ARCHITECTURES[module] = made
  return made


def register_unlisted(module: type[BaseNetwork], name: str) -> None:
  """Makes an architecture known that is nothing without fields: `create` takes it, no list has it.

  Args:
    module: The Flax module.
    name: What `create` calls it.
  """
  _UNLISTED[module] = Architecture(module, {name: {}})
  _SOUND.add(module)


def architectures() -> tuple[Architecture, ...]:
  """Returns all architectures."""
  return tuple(_ARCHITECTURES.values())


def architecture(name: str) -> Architecture:
  """Returns the architecture of a variant.

  Raises:
    InputError: Unknown name, with the nearest one.
  """
  known = (*_ARCHITECTURES.values(), *_UNLISTED.values())
  found = next((a for a in known if name in a.named), None)
  if found is None:
    raise unknown_name("architecture", name, names())
  return found


def architecture_of(model: nn.Module) -> Architecture:
  """Returns the architecture of a network.

  Raises:
    InputError: Its class is not registered.
  """
  found = _ARCHITECTURES.get(type(model)) or _UNLISTED.get(type(model))
  if found is None:
    raise InputError(
      f"{type(model).__name__} is not a registered architecture.",
      "Pass a network made by create(), or register its class with bcos_jax.models.register().",
    )
  return found


def is_registered(name: str) -> bool:
  """Whether `create` takes a name."""
  return any(name in a.named for a in (*_ARCHITECTURES.values(), *_UNLISTED.values()))


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
    sides = value if field == "image_size" and isinstance(value, tuple) else (value,)
    if len(sides) > 2 or not all(isinstance(side, int) and side >= least for side in sides):
      raise InputError(f"{field} is {value!r}, expected an integer of at least {least}.", fix)
  if not found.own and found.module not in _SOUND:
    refuse(found.module, unsound(found))
    _SOUND.add(found.module)
  return found.module(ops=ops, variant=name, **{**found.named[name], **fields})


_LEAST = {
  "num_classes": (0, "Give the number of classes of your data, or 0 for a network without head."),
  "image_size": (1, "Give the side of the images in pixels, or height and width."),
  "patch_size": (1, "Give the side of a patch in pixels; 1 makes every position a token."),
}


def describe(model: nn.Module) -> tuple[str, dict[str, Any]]:
  """Returns the name of a network, and the fields that differ from that variant.

  The name is the one that was passed to `create`; the nearest variant's for modules that were made
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


def _plain(value: Any) -> Any:
  """Returns a field as Python values: a module is a key of compiled functions, thus hashable."""
  if isinstance(value, list | tuple):
    return tuple(map(_plain, value))
  return value.item() if isinstance(value, np.generic) else value

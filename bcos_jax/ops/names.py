"""Names of layer families, and families as plain values: what bundles and recipes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any

from ..errors import InputError, unknown_name
from .base import Ops
from .bcos import BcosOps
from .standard import StandardOps

_FAMILIES: dict[str, type[Ops]] = {"standard": StandardOps, "bcos": BcosOps}
_OWN = frozenset(_FAMILIES)
_PRESETS: dict[str, Callable[..., Ops]] = {
  "bcos_v1": BcosOps.v1,
  "bcos_v2": BcosOps.v2,
  "bcos_lm": BcosOps.lm,
  "bcos_lm_decoder": BcosOps.lm_decoder,
  "bcos_lm_plain": BcosOps.lm_plain,
  "aloe": BcosOps.aloe,
}


def register(name: str, family: type[Ops]) -> type[Ops]:
  """Registers a user-defined family, so that its networks can be saved and loaded.

  Call it in the module that defines the family, and import that module before loading. The same
  class may be registered again, such as by running a cell of a notebook twice.

  Args:
    name: What stands in bundles and recipes as `family`.
    family: A subclass of `Ops`, `StandardOps` or `BcosOps`, whose fields all have defaults. If it
      adds fields, decorate it with `dataclasses.dataclass(frozen=True, kw_only=True)`.

  Returns:
    The family.

  Raises:
    InputError: The name is taken, or the class is not a usable family.
  """
  other = _FAMILIES.get(name, _PRESETS.get(name))
  if other is not None and (name in _OWN or _where(other) != _where(family)):
    raise InputError(f"The ops family {name!r} exists already.", "Choose another name.")
  if not (isinstance(name, str) and name.isidentifier()):
    raise InputError(f"The name of the family is {name!r}.", "Use letters, digits and underscores.")
  if problem := _unusable(family):
    raise InputError(f"The ops family {name!r} cannot be used: {problem}.", "See docs/families.md.")
  _FAMILIES[name] = family
  return family


def _where(family: Any) -> tuple[str, str]:
  return family.__module__, family.__qualname__


def _unusable(family: type[Ops]) -> str:
  """Returns why a class is not a family; '' if it is one."""
  if not (isinstance(family, type) and issubclass(family, Ops)):
    return f"{family!r} is not a subclass of bcos_jax.Ops"
  if missing := sorted(family.__abstractmethods__):
    return f"{family.__name__} lacks {', '.join(missing)}"
  known = {field.name for field in dataclasses.fields(family)}
  if undecorated := sorted(inspect.get_annotations(family).keys() - known):
    return (
      f"{family.__name__} annotates {', '.join(undecorated)} but is not a dataclass: decorate it "
      "with dataclasses.dataclass(frozen=True, kw_only=True)"
    )
  try:
    default = family()
    hash(default)
  except TypeError as error:
    return f"{family.__name__}() fails, {error}: give every field a hashable default"
  return ""


def to_dict(ops: Ops) -> dict[str, Any]:
  """Returns a family as plain values: `family` and every field.

  Raises:
    InputError: The class of the family is not registered, so nothing could read it back.
  """
  names = {cls: name for name, cls in _FAMILIES.items()}
  cls = type(ops)
  if cls not in names:
    raise InputError(
      f"The ops family {cls.__name__} is not registered: a saved network could not be loaded.",
      f"Call bcos_jax.ops.register('{cls.__name__.lower()}', {cls.__name__}) where it is defined.",
    )
  return {"family": names[cls], **dataclasses.asdict(ops)}


def from_dict(fields: Mapping[str, Any]) -> Ops:
  """Returns the family that `to_dict` wrote; absent fields take their defaults.

  A `family` may be registered, or name a preset: 'standard', 'bcos', 'bcos_v1', 'bcos_v2',
  'bcos_lm', 'bcos_lm_decoder', 'bcos_lm_plain', 'aloe' (which takes `implementation` too).

  Raises:
    InputError: Unknown family or field, with the nearest name; or a value that cannot be used.
  """
  fields = current(fields)
  presets = {**_FAMILIES, **_PRESETS}
  family = fields.pop("family", None)
  if family not in presets:
    error = unknown_name("ops family", family, presets)
    own = "Import the module that registers it (bcos_jax.ops.register) if it is your own."
    raise InputError(error.cause, f"{error.fix} {own}")
  known = {f.name for f in dataclasses.fields(_FAMILIES.get(family, BcosOps))}
  if family == "aloe":
    known.add("implementation")
  default = presets[family]()
  for name, value in fields.items():
    if name not in known:
      raise unknown_name(f"field of the {family!r} ops", name, known)
    fields[name] = _value(name, value, getattr(default, name, None))
  return presets[family](**fields)


def _value(name: str, value: Any, default: Any) -> Any:
  """Returns a field as its family has it; parts of a nested value leave the rest as by default."""
  if isinstance(value, list):
    return tuple(value)
  if not dataclasses.is_dataclass(default) or isinstance(default, type):
    return value
  if isinstance(value, type(default)):
    return value
  known = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
  if not isinstance(value, Mapping):
    last = list(known)[-1]
    raise InputError(
      f"{name} is {value!r}, expected some of its fields: {', '.join(known)}.",
      f"For example {name}={ {last: known[last]} }.",
    )
  for key in value:
    if key not in known:
      raise unknown_name(f"field of {name}", key, known)
  return dataclasses.replace(default, **value)


def current(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns the fields of a family under the names of today.

  Version 0.1.0 wrote `unit_norm` and `cosine_of_weights` in place of `weights`.

  Args:
    fields: Of a family, others among them; `family` may be any name that `from_dict` takes.
    prefix: What stands before the names of the family's fields.
  """
  fields = dict(fields)
  unit, cosine, weights = (prefix + n for n in ("unit_norm", "cosine_of_weights", "weights"))
  preset = {"bcos": BcosOps, **_PRESETS}.get(str(fields.get(f"{prefix}family")))
  if preset is None or weights in fields or not fields.keys() & {unit, cosine}:
    return fields
  own = preset().weights
  is_unit, is_cosine = fields.pop(unit, own == "unit"), fields.pop(cosine, own == "cosine")
  fields[weights] = "cosine" if is_cosine else "unit" if is_unit else "plain"
  return fields

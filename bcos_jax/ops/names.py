"""Layer families as plain values: what bundles and recipes hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from .. import functional as F
from ..errors import unknown_name
from ..inputs import Encoding
from .base import Ops
from .bcos import BcosOps
from .standard import StandardOps

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

"""Detection: the architecture and the layout whose keys and shapes are those of a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn

from bcos_jax import models
from bcos_jax.errors import InputError
from bcos_jax.models import Architecture

from .porting import fitted, targets, wanted
from .sizes import colored
from .sources import Checkpoint, Tensors
from .state_dict import explained, num_classes
from .tables.keys import Keys, tables_of
from .tables.rules import Rule
from .tables.templates import parse

_DEEPEST = 6
UNPROVEN = "nothing proves the architecture"
"""How the note begins that networks of other functions have the same keys and shapes."""


def shared_prefixes(state: Tensors) -> list[str]:
  """Returns the words that all keys begin with, each with its dot: '', 'model.', 'model.net.'."""
  names = list(state)
  first = names[0].split(".")[:-1][:_DEEPEST]
  prefixes = [""]
  for i in range(1, len(first) + 1):
    prefix = ".".join(first[:i]) + "."
    if not all(name.startswith(prefix) for name in names):
      break
    prefixes.append(prefix)
  return prefixes


def unprefixed(state: Tensors, candidates: list[Keys]) -> Tensors:
  """Takes off what all keys begin with, as far as the tables then explain more."""
  if not candidates:
    return state
  options = []
  for prefix in shared_prefixes(state):
    stripped = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    count = max(explained(stripped, keys) for keys in candidates)
    options.append((count, -len(prefix), stripped))
  return max(options, key=lambda option: option[:2])[2]


@dataclasses.dataclass(frozen=True)
class Found:
  """What the keys and shapes of a checkpoint fit.

  Attributes:
    state: The keys as the table names them.
    architecture: Name of a variant.
    layout: How the keys are named.
    note: What to say of the choice.
  """

  state: Tensors
  architecture: str
  layout: str
  note: str


def detect(checkpoint: Checkpoint, layout: str | None) -> Found:
  """Finds the one architecture whose keys and shapes are those of the checkpoint.

  Raises:
    InputError: None fits, or several of different functions of which none is the plain one.
  """
  found: dict[nn.Module, tuple[Tensors, str, str]] = {}
  for architecture in models.architectures():
    candidates = _candidates(architecture, layout)
    state = unprefixed(checkpoint.tensors, [keys for keys, _ in candidates])
    tried: list[Keys] = []
    for keys, names in candidates:
      # Layouts may share a table, which says nothing new.
      same = (keys.table is k.table and keys.ops == k.ops and keys.fits is k.fits for k in tried)
      if not any(same) and explained(state, keys) == len(state):
        tried.append(keys)
        for name, model in _variants(state, keys, architecture, names).items():
          found.setdefault(_function(model), (state, name, keys.layout))
  if not found:
    raise InputError(
      f"The keys and shapes of {checkpoint.origin!r} fit no architecture "
      f"({len(checkpoint.tensors)} keys, such as {next(iter(checkpoint.tensors))!r}).",
      "Pass the intended one as --architecture, to see what does not fit.",
    )
  chosen = next(iter(found)) if len(found) == 1 else _plain(tuple(found))
  names = [name for _, name, _ in found.values()]
  if chosen is None:
    raise InputError(
      f"The keys and shapes fit {len(names)} architectures of different functions: "
      f"{', '.join(names)}.",
      "Choose one with --architecture.",
    )
  state, name, layout = found[chosen]
  note = f"architecture {name!r}, found by its keys and shapes"
  if others := [repr(other) for other in names if other != name]:
    note = (
      f"{UNPROVEN}; check with --verify: {name!r} is the plain one of those with these keys and "
      f"shapes, {', '.join(others)} (--architecture chooses)"
    )
  return Found(state, name, layout, note)


def _candidates(found: Architecture, layout: str | None) -> list[tuple[Keys, tuple[str, ...]]]:
  """Returns the tables to try, each with the names of the variants that it may be of."""
  candidates: list[tuple[Keys, tuple[str, ...]]] = []
  for keys in tables_of(found):
    if layout not in (None, keys.layout):
      continue
    if keys.per is None:
      candidates.append((keys, tuple(found.variants)))
      continue
    networks = {name: models.create(name, ops=keys.ops) for name in found.variants}
    candidates += [(keys.of(m), (name,)) for name, m in networks.items() if keys.fits(m)]
  return candidates


def _function(model: nn.Module) -> nn.Module:
  """Returns a network without what changes its training only: equal ones compute the same."""
  fields = models.fields_of(type(model))
  plain: dict[str, Any] = {"drop_path": 0.0} if "drop_path" in fields else {}
  if isinstance(getattr(model, "layer_scale", None), float):
    plain["layer_scale"] = 1.0  # initial value
  return model.clone(**plain)


def _plain(networks: tuple[nn.Module, ...]) -> nn.Module | None:
  """Returns the one that is meant where nothing says otherwise; None if there is none.

  All others differ from it only in fields whose defaults its architecture declares so.
  """
  kinds = {type(model) for model in networks}
  if len(kinds) > 1:
    return None
  found = models.architecture_of(networks[0])
  defaults = models.fields_of(found.module)
  differing = {
    field for field in defaults if len({getattr(model, field) for model in networks}) > 1
  }
  if not differing <= set(found.assumed):
    return None
  plain = [m for m in networks if all(getattr(m, f) == defaults[f] for f in differing)]
  return plain[0] if len(plain) == 1 else None


def _variants(
  state: Tensors, keys: Keys, found: Architecture, names: tuple[str, ...]
) -> dict[str, nn.Module]:
  """Returns those of an architecture's variants that the keys fill."""
  fields = num_classes(state, keys.table, found.module.head)
  named = {name: models.create(name, ops=keys.ops, **fields) for name in names}
  named = _built_alike(state, keys, named)
  named = {name: m.clone(ops=colored(state, keys.table, m)) for name, m in named.items()}
  return {
    name: model for name, model in named.items() if keys.fits(model) and fits(state, keys, model)
  }


def _built_alike(state: Tensors, keys: Keys, named: dict[str, nn.Module]) -> dict[str, nn.Module]:
  """Returns the networks with the blocks and the input map that the keys are for.

  What they say of themselves is enough to tell most variants apart, without tracing them.
  """
  inside = {
    "/".join(parts[1:i])
    for parts in (path.split("/") for path in targets(state, keys.table))
    for i in range(2, len(parts))
  }
  blocks = inside.intersection(*[{b for m in named.values() for b in m.block_paths}])
  return {
    name: model
    for name, model in named.items()
    if set(model.block_paths) == blocks and model.input_map in (None, *inside)
  }


def fits(state: Tensors, keys: Keys, model: nn.Module) -> bool:
  """Whether the keys fill every leaf, each with its shape."""
  rules = [entry for entry in keys.table if isinstance(entry, Rule)]
  if all(None not in rule.sources and rule.axes.keeps_size for rule in rules):
    # Most variants are told apart by their size alone, without a list of what does not fit.
    templates = [template for rule in rules for template in rule.sources]
    held = [
      key for key in state if any(parse(t, key) is not None for t in templates if t is not None)
    ]
    if sum(state[key].size for key in held) != sum(leaf.size for leaf in wanted(model).values()):
      return False
  try:
    fitted(state, keys.table, wanted(model))
  except InputError:
    return False
  return True

"""Detection: the architecture and the layout whose keys and shapes are those of a checkpoint."""

from __future__ import annotations

from flax import linen as nn

from bcos_jax import models
from bcos_jax.errors import InputError
from bcos_jax.models import Architecture

from .porting import fitted, wanted
from .sizes import colored
from .sources import Checkpoint, Tensors
from .state_dict import explained, num_classes
from .tables.keys import Keys, tables_of
from .tables.rules import Rule
from .tables.templates import parse

_DEEPEST = 6


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


def detect(checkpoint: Checkpoint, layout: str | None) -> tuple[Tensors, str, str]:
  """Finds the one architecture whose keys and shapes are those of the checkpoint."""
  found: dict[nn.Module, tuple[Tensors, str, str]] = {}
  for architecture in models.architectures():
    candidates = [keys for keys in tables_of(architecture) if layout in (None, keys.layout)]
    state = unprefixed(checkpoint.tensors, candidates)
    for keys in candidates:
      if explained(state, keys) == len(state) and (fitting := _variants(state, keys, architecture)):
        # Variants that differ in their names only are one.
        for name, model in fitting.items():
          found.setdefault(model, (state, name, keys.layout))
        break  # further tables with these keys say nothing new
  names = [name for _, name, _ in found.values()]
  if len(names) == 1:
    return next(iter(found.values()))
  if names:
    raise InputError(
      f"The keys and shapes fit {len(names)} architectures: {', '.join(names)}.",
      "Choose one with --architecture.",
    )
  raise InputError(
    f"The keys and shapes of {checkpoint.origin!r} fit no architecture "
    f"({len(checkpoint.tensors)} keys, such as {next(iter(checkpoint.tensors))!r}).",
    "Pass the intended one as --architecture, to see what does not fit.",
  )


def _variants(state: Tensors, keys: Keys, found: Architecture) -> dict[str, nn.Module]:
  """Returns the variants of an architecture that the keys fill."""
  fields = num_classes(state, keys.table, found.module.head)
  named = {name: models.create(name, ops=keys.ops, **fields) for name in found.variants}
  named = {name: m.clone(ops=colored(state, keys.table, m)) for name, m in named.items()}
  return {
    name: model for name, model in named.items() if keys.fits(model) and fits(state, keys, model)
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

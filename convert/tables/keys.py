"""Key tables: what the keys of one layout mean for one architecture."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import linen as nn
from flax import traverse_util

from bcos_jax import models
from bcos_jax.errors import InputError
from bcos_jax.models import Architecture
from bcos_jax.ops import Ops
from bcos_jax.variables import abstract_variables

from .rules import Rule, Table
from .templates import parse


@dataclasses.dataclass(frozen=True)
class Keys:
  """The keys that one layout gives one architecture.

  Attributes:
    layout: How checkpoints name their tensors: 'torchvision', 'timm', 'huggingface', 'bcos_v2',
      'bcosification', ...
    ops: The family that the network of such a checkpoint belongs to.
    table: The rules.
    modules: Pairs of templates: a module of the PyTorch network, and the Flax module that
      computes the same, in the order of computation. Verification compares their outputs.
    form: Which of several forms of this layout it is. Bundles remember it, so that converting
      back writes the keys that were read.
    fits: Which networks of the architecture have these keys, where keys depend on its fields.
    per: The rules and the pairs of modules of one network, where numbers in the keys depend on its
      fields; `of` puts them in place of `table` and `modules`.
  """

  layout: str
  ops: Ops
  table: Table = ()
  modules: tuple[tuple[str, str], ...] = ()
  form: str = ""
  fits: Callable[[Any], bool] = lambda model: True
  per: Callable[[Any], tuple[Table, tuple[tuple[str, str], ...]]] | None = None

  def of(self, model: nn.Module) -> Keys:
    """Returns the keys of one network."""
    if self.per is None:
      return self
    table, modules = self.per(model)
    return dataclasses.replace(self, table=table, modules=modules, per=None)


_SOUND: dict[type[nn.Module], tuple[Keys, ...]] = {}


def tables_of(architecture: Architecture) -> tuple[Keys, ...]:
  """Returns the key tables of an architecture.

  Raises:
    InputError: They are registered by a user, and do not fit the variables of its networks: all
      problems in one message.
  """
  tables = architecture.key_tables()
  if architecture.own or _SOUND.get(architecture.module) == tables:
    return tables
  if problems := unsound(architecture):
    raise InputError(
      f"The key tables of {architecture.module.__name__} have {len(problems)} problem(s):\n  "
      + "\n  ".join(problems)
      + "\n",
      "Write one rule for each leaf of the network's variables.",
    )
  _SOUND[architecture.module] = tables
  return tables


def unsound(architecture: Architecture) -> list[str]:
  """Returns which leaves of an architecture's networks no key table of it writes exactly once."""
  tables = architecture.key_tables()
  if wrong := [repr(keys) for keys in tables if not isinstance(keys, Keys)]:
    return [f"{keys} is not a convert.Keys" for keys in wrong]
  problems = []
  for name in architecture.checked_variants:
    networks = [(keys, models.create(name, ops=keys.ops)) for keys in tables]
    found = [(keys, _unwritten(m, keys.of(m))) for keys, m in networks if keys.fits(m)]
    if found and all(problems for _, problems in found):
      keys, least = min(found, key=lambda pair: len(pair[1]))
      problems += [f"{keys.layout!r}, {name}: {problem}" for problem in least]
  return problems


def _unwritten(model: nn.Module, keys: Keys) -> list[str]:
  templates = [t for entry in keys.table if isinstance(entry, Rule) for t in entry.targets]
  counts = {
    path: sum(parse(template, path) is not None for template in templates)
    for path in traverse_util.flatten_dict(abstract_variables(model), sep="/")
  }
  return [f"{path!r} is written by {n} rules" for path, n in counts.items() if n != 1]


def all_layouts() -> tuple[str, ...]:
  """Returns every layout that any architecture has keys of, in order."""
  tables = [keys for found in models.architectures() for keys in tables_of(found)]
  return tuple(sorted({keys.layout for keys in tables}))

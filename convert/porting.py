"""Porting as a bijection: tables of rules, applied with every key accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import difflib
import functools
import re
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np

from bcos_jax.errors import InputError
from bcos_jax.io.tensor_files import LazyTensor
from bcos_jax.variables import abstract_variables

from .tables.rules import Rule, Skip, Table, key_templates, matcher
from .tables.templates import parse, render

Numbers = tuple[tuple[str, str], ...]


@functools.lru_cache(maxsize=512)  # detection asks for many networks several times
def wanted(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes and dtypes of a model's leaves by path."""
  wanted: dict[str, Any] = traverse_util.flatten_dict(abstract_variables(model), sep="/")
  return wanted


def port(
  state: Mapping[str, Any],
  table: Table,
  wanted: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Maps a state dict to the leaves of a Flax tree.

  Args:
    state: Source key -> tensor: anything with a shape that NumPy can read, and that is read only
      once, when its leaf is made.
    table: The rules of this architecture and source.
    wanted: Flax path -> array or shape of the network to fill.

  Returns:
    Flax path -> tensor, and the skipped tensors by source key: copies, so that what PyTorch does
    to its own tensors afterwards changes nothing here.

  Raises:
    InputError: Any key matched by no rule or by several, any leaf filled twice or never, any
      shape that differs: all of them in one message.
  """
  groups, skipped = fitted(state, table, wanted)
  leaves: dict[str, np.ndarray] = {}
  for group in groups.items():
    paths, _, make = _made(group, state, wanted)
    leaves |= dict(zip(paths, make(), strict=True))
  return leaves, {key: np.array(state[key]) for key in skipped}


def lazy_port(
  state: Mapping[str, LazyTensor], table: Table, wanted: Mapping[str, Any]
) -> tuple[dict[str, LazyTensor], dict[str, np.ndarray]]:
  """Like `port`, but the leaves stay in the source until they are read, one at a time."""
  groups, skipped = fitted(state, table, wanted)
  leaves: dict[str, LazyTensor] = {}
  for group in groups.items():
    paths, parts, make = _made(group, state, wanted)
    dtype = np.result_type(*(part.dtype for part in parts if part is not None))
    together = _Together(make)
    for index, path in enumerate(paths):
      read = functools.partial(together.take, index)
      leaves[path] = LazyTensor(tuple(wanted[path].shape), dtype, read)
  return leaves, {key: np.array(state[key]) for key in skipped}


class _Together:
  """Leaves that are made at once; each is kept until it is taken."""

  def __init__(self, make: Callable[[], list[np.ndarray]]):
    self._make = make
    self._kept: dict[int, np.ndarray] = {}

  def take(self, index: int) -> np.ndarray:
    if index not in self._kept:
      self._kept = dict(enumerate(self._make()))
    return self._kept.pop(index)


def _made(
  group: tuple[tuple[Rule, Numbers], dict[str, str]],
  state: Mapping[str, Any],
  wanted: Mapping[str, Any],
) -> tuple[list[str], list[Any], Callable[[], list[np.ndarray]]]:
  """Returns the paths of a group, the tensors that make them, and a function that does."""
  (rule, numbers), keys = group
  paths = [render(template, dict(numbers)) for template in rule.targets]
  parts = [None if template is None else state[keys[template]] for template in rule.sources]
  shapes = [wanted[path].shape for path in paths]
  return paths, parts, lambda: rule.to_flax(parts, shapes)


def targets(state: Mapping[str, Any], table: Table) -> set[str]:
  """Returns the paths that the keys of a state dict are for, whatever the network."""
  matching = matcher(table)
  paths: set[str] = set()
  for key in state:
    for rule, _, numbers in matching(key):
      if isinstance(rule, Rule):
        paths.update(render(template, dict(numbers)) for template in rule.targets)
  return paths


Groups = dict[tuple[Rule, Numbers], dict[str, str]]


def fitted(
  state: Mapping[str, Any], table: Table, wanted: Mapping[str, Any]
) -> tuple[Groups, list[str]]:
  """Makes sure that a state dict fits, without reading its tensors; arguments as for `port`.

  Returns:
    For each rule and its numbers, template -> key; and the keys that are skipped.

  Raises:
    InputError: As `port`.
  """
  groups, skipped, problems = _matched(state, table, wanted)
  filled: set[str] = set()
  for (rule, numbers), keys in groups.items():
    paths = [render(template, dict(numbers)) for template in rule.targets]
    twice = [path for path in paths if path in filled]
    if twice:
      given = ", ".join(map(repr, keys.values()))
      problems += [f"{path!r} is filled twice, the second time by {given}" for path in twice]
      continue
    filled |= set(paths)
    problems += _unfit(rule, numbers, keys, paths, state, wanted)
  problems += [_missing(path, wanted, table) for path in sorted(wanted.keys() - filled)]
  _raise(problems)
  return groups, skipped


def _matched(
  state: Mapping[str, Any], table: Table, wanted: Mapping[str, Any]
) -> tuple[Groups, list[str], list[str]]:
  """Returns the keys of each rule's group by template, the skipped keys, and the problems."""
  groups: Groups = {}
  skipped, problems = [], []
  matching = matcher(table)
  for key, tensor in state.items():
    matches = matching(key)
    if len(matches) != 1:
      problems.append(
        f"{key!r} {list(tensor.shape)} is matched by {len(matches)} rules"
        + ("" if matches else _nearest_source(key, table))
      )
      continue
    ((entry, template, numbers),) = matches
    skip = isinstance(entry, Skip)
    paths = [render(t, numbers) for t in ((entry.beside,) if skip else entry.targets)]
    unknown = [path for path in paths if path not in wanted]
    if unknown:
      problems.append(
        f"{key!r} {list(tensor.shape)} belongs to {unknown[0]!r}, which this network "
        f"does not have{_nearest(unknown[0], wanted)}"
      )
    elif skip:
      if not entry.optional:
        shape = () if entry.scalar else wanted[paths[0]].shape
        problems += _misfit(key, tensor, shape, paths[0])
      skipped.append(key)
    else:
      groups.setdefault((entry, tuple(numbers.items())), {})[template] = key
  return groups, skipped, problems


def _unfit(rule, numbers, keys, paths, state, wanted) -> list[str]:
  """Returns what is wrong with the tensors of one rule's group."""
  problems, where = [], ", ".join(paths)
  shape = rule.source_shape([wanted[path].shape for path in paths])
  for template in rule.sources:
    if template in keys:
      tensor = state[keys[template]]
      problems += _misfit(keys[template], tensor, shape, where)
      if not _is_floating(tensor):
        problems.append(
          f"{keys[template]!r} has dtype {tensor.dtype}, expected floating-point weights, not "
          f"quantised ones (for {where!r})"
        )
    elif template is not None:
      key = render(template, dict(numbers))
      problems.append(f"{key!r} {list(shape)} (for {where!r}) is missing")
  return problems


def export(
  leaves: Mapping[str, np.ndarray], table: Table, skipped: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The inverse of `port`: maps the leaves of a Flax tree to a state dict.

  Args:
    leaves: Flax path -> tensor.
    table: The rules.
    skipped: What `port` returned as skipped; absent keys take the default of their `Skip`.

  Raises:
    InputError: A leaf that no rule writes, or several.
  """
  state, problems, done = {}, [], set()
  for path, tensor in leaves.items():
    matches = [
      (entry, numbers)
      for entry in table
      if isinstance(entry, Rule)
      for template in entry.targets
      if (numbers := parse(template, path)) is not None
    ]
    if len(matches) != 1:
      problems.append(f"{path!r} is written by {len(matches)} rules")
      continue
    ((rule, numbers),) = matches
    group = (rule, tuple(numbers.items()))
    if group not in done:
      done.add(group)
      paths = [render(template, numbers) for template in rule.targets]
      absent = [p for p in paths if p not in leaves]
      if absent:
        problems.append(f"{path!r} cannot be written without {absent[0]!r}")
        continue
      parts = rule.to_torch([leaves[p] for p in paths])
      for template, part in zip(rule.sources, parts, strict=True):
        if template is not None:
          state[render(template, numbers)] = part
    for entry in table:
      if isinstance(entry, Skip) and (numbers := parse(entry.beside, path)) is not None:
        state |= _restored(entry, numbers, tensor, skipped)
  _raise(problems)
  return state


def _restored(
  skip: Skip, numbers: Mapping[str, str], sibling: np.ndarray, skipped: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the keys that a Skip writes beside a leaf."""
  if "*}" in skip.source:
    return {key: np.array(t) for key, t in skipped.items() if parse(skip.source, key) is not None}
  key = render(skip.source, numbers)
  if key not in skipped and skip.optional:
    return {}
  return {key: np.array(skipped.get(key, skip.default(sibling)))}


def _misfit(key: str, tensor: Any, shape: tuple[int, ...], path: str) -> list[str]:
  if tuple(tensor.shape) == tuple(shape):
    return []
  return [f"{key!r} has shape {list(tensor.shape)}, expected {list(shape)} (for {path!r})"]


def _is_floating(tensor: Any) -> bool:
  """Whether a NumPy, PyTorch or lazy tensor has a floating-point dtype of at least 16 bits."""
  name = str(tensor.dtype)
  return "float" in name and not name.removeprefix("torch.").startswith("float8")


def _missing(path: str, wanted: Mapping[str, Any], table: Table) -> str:
  for entry in (e for e in table if isinstance(e, Rule)):
    for template in entry.targets:
      if (numbers := parse(template, path)) is not None:
        targets = [render(t, numbers) for t in entry.targets]
        shape = list(entry.source_shape([wanted[t].shape for t in targets if t in wanted]))
        keys = ", ".join(repr(render(t, numbers)) for t in key_templates(entry))
        return f"{keys} {shape} (for {path!r}) is missing"
  return f"{path!r} {list(wanted[path].shape)} is filled by no rule"


def _nearest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
  near = difflib.get_close_matches(name, list(known), n=1)
  return f" (nearest: {near[0]!r})" if near else ""


def _nearest_source(key: str, table: Table) -> str:
  numbers = re.findall(r"\d+", key)

  def plausible(template: str) -> str:
    left = iter(numbers)
    return re.sub(r"\{\w+\*?\}", lambda _: next(left, "0"), template)

  known = [plausible(template) for entry in table for template in key_templates(entry)]
  return _nearest(key, known)


def _raise(problems: Sequence[str]):
  if problems:
    raise InputError(
      f"The tensors do not fit ({len(problems)} problems):\n  " + "\n  ".join(problems) + "\n",
      "Check the architecture, the source and the number of classes.",
    )

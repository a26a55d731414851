"""Porting as a bijection: tables of rules, applied with every key accounted for.

A table pairs name templates, `"layer{i}.{j}.conv{k}.weight"` with
`"params/layer{i}_{j}/conv{k}/kernel"`. Each `{field}` stands for a number, so a template reads and
writes names alike and one table serves both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import functools
import re
from typing import Any

import numpy as np

from bcos_jax.errors import InputError

from .layouts import AS_IS, Layout


@dataclasses.dataclass(frozen=True)
class Rule:
  """One tensor of the source is one leaf of the Flax tree.

  Attributes:
    source: Template of the source key.
    target: Template of the Flax path, `collection/module/.../leaf`.
    layout: How the numbers are laid out.
  """

  source: str
  target: str
  layout: Layout = AS_IS


@dataclasses.dataclass(frozen=True)
class Skip:
  """A tensor of the source that the Flax network has no use for.

  Attributes:
    source: Template of the source key.
    reason: Why it is not needed.
    beside: Template of the Flax path whose presence calls for this key when converting back.
    fill: The value to write for a network that did not come from this source.
    dtype: Its dtype.
    scalar: Whether it has shape (); otherwise it has the shape of `beside`.
  """

  source: str
  reason: str
  beside: str
  fill: float = 0.0
  dtype: str = "float32"
  scalar: bool = False

  def default(self, sibling: np.ndarray) -> np.ndarray:
    """Returns the value that a fresh network would have."""
    return np.full(() if self.scalar else sibling.shape, self.fill, self.dtype)


Table = tuple[Rule | Skip, ...]


def port(
  state: Mapping[str, np.ndarray],
  table: Table,
  wanted: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Maps a state dict to the leaves of a Flax tree.

  Args:
    state: Source key -> tensor.
    table: The rules of this architecture and source.
    wanted: Flax path -> array or shape of the network to fill.

  Returns:
    Flax path -> tensor, and the skipped tensors by source key: copies, so that what PyTorch does
    to its own tensors afterwards changes nothing here.

  Raises:
    InputError: Any key matched by no rule or by several, any leaf filled twice or never, any
      shape that differs: all of them in one message.
  """
  leaves, skipped, problems = {}, {}, []
  for key, tensor in state.items():
    matches = [(entry, found) for entry in table if (found := parse(entry.source, key)) is not None]
    if len(matches) != 1:
      problems.append(
        f"{key!r} {list(tensor.shape)} is matched by {len(matches)} rules"
        + ("" if matches else _nearest_source(key, table))
      )
      continue
    ((entry, numbers),) = matches
    skip = isinstance(entry, Skip)
    path = render(entry.beside if skip else entry.target, numbers)
    if path not in wanted:
      problems.append(
        f"{key!r} {list(tensor.shape)} belongs to {path!r}, which this network "
        f"does not have{_nearest(path, wanted)}"
      )
    elif skip:
      problems += _misfit(key, tensor, () if entry.scalar else wanted[path].shape, path)
      skipped[key] = np.array(tensor)
    elif path in leaves:
      problems.append(f"{path!r} is filled twice, the second time by {key!r}")
    else:
      problem = _misfit(key, tensor, _source_shape(entry.layout, wanted[path].shape), path)
      problems += problem
      leaves[path] = None if problem else np.array(entry.layout.to_flax(tensor), order="C")
  problems += [
    _missing(path, wanted[path].shape, table) for path in sorted(wanted.keys() - leaves.keys())
  ]
  _raise(problems)
  return leaves, skipped


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
  state, problems = {}, []
  for path, tensor in leaves.items():
    matches = 0
    for entry in table:
      if isinstance(entry, Rule) and (numbers := parse(entry.target, path)) is not None:
        matches += 1
        state[render(entry.source, numbers)] = np.array(entry.layout.to_torch(tensor), order="C")
      elif isinstance(entry, Skip) and (numbers := parse(entry.beside, path)) is not None:
        key = render(entry.source, numbers)
        state[key] = np.array(skipped.get(key, entry.default(tensor)))
    if matches != 1:
      problems.append(f"{path!r} is written by {matches} rules")
  _raise(problems)
  return state


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
  pieces = re.split(r"\{(\w+)\}", template)
  seen: set[str] = set()
  pattern = ""
  for index, piece in enumerate(pieces):
    if index % 2 == 0:
      pattern += re.escape(piece)
    else:
      pattern += f"(?P={piece})" if piece in seen else rf"(?P<{piece}>\d+)"
      seen.add(piece)
  return re.compile(pattern)


def parse(template: str, name: str) -> dict[str, str] | None:
  """Returns the numbers that make `template` equal `name`, or None."""
  found = _pattern(template).fullmatch(name)
  return None if found is None else found.groupdict()


def render(template: str, numbers: Mapping[str, str]) -> str:
  """Fills the numbers into a template."""
  return template.format(**numbers)


def _source_shape(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
  return layout.to_torch(np.broadcast_to(np.float32(0), shape)).shape


def _misfit(key: str, tensor: np.ndarray, shape: tuple[int, ...], path: str) -> list[str]:
  if tensor.shape == tuple(shape):
    return []
  return [f"{key!r} has shape {list(tensor.shape)}, expected {list(shape)} (for {path!r})"]


def _missing(path: str, shape: tuple[int, ...], table: Table) -> str:
  for entry in table:
    if isinstance(entry, Rule) and (numbers := parse(entry.target, path)) is not None:
      key, shape = render(entry.source, numbers), _source_shape(entry.layout, shape)
      return f"{key!r} {list(shape)} (for {path!r}) is missing"
  return f"{path!r} {list(shape)} is filled by no rule"


def _nearest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
  near = difflib.get_close_matches(name, list(known), n=1)
  return f" (nearest: {near[0]!r})" if near else ""


def _nearest_source(key: str, table: Table) -> str:
  numbers = re.findall(r"\d+", key)

  def plausible(template: str) -> str:
    left = iter(numbers)
    return re.sub(r"\{\w+\}", lambda _: next(left, "0"), template)

  return _nearest(key, [plausible(entry.source) for entry in table])


def _raise(problems: Sequence[str]):
  if problems:
    raise InputError(
      f"The tensors do not fit ({len(problems)} problems):\n  " + "\n  ".join(problems) + "\n",
      "Check the architecture, the source and the number of classes.",
    )

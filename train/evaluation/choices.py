"""Checks of options of the metrics: one that is given must be read by a requested metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

from bcos_jax.errors import InputError


def changed(choices: Any, options: Collection[str]) -> dict[str, Any]:
  """Returns which of the options, fields of a dataclass by name, differ from their defaults."""
  defaults = {field.name: field.default for field in dataclasses.fields(choices)}
  given = {name: getattr(choices, name) for name in options}
  return {name: value for name, value in given.items() if value != defaults[name]}


def check_read(choices: Any, readers: Mapping[str, Collection[str]]) -> None:
  """Raises InputError if an option is given that no requested metric reads.

  Args:
    choices: A dataclass of options, with the requested metrics as `names`.
    readers: Option to the metrics that read it.
  """
  for name, value in changed(choices, readers).items():
    if not set(readers[name]) & set(choices.names):
      raise InputError(
        f"{name} is {value!r}, but no metric of {', '.join(choices.names)} reads it.",
        f"Add one that does ({', '.join(readers[name])}), or omit {name}.",
      )


def refuse(options: Any, made: type, kind: str, reads: str) -> None:
  """Raises InputError if a flag of the other kind of metrics is given.

  Args:
    options: Parsed flags.
    made: The dataclass of options of the other kind; where a flag has its default, or 0, it is
      not given.
    kind: What those are for.
    reads: What the network reads.
  """
  shared = ("names", "batch_size", "published")
  for field in dataclasses.fields(made):
    value = getattr(options, field.name, field.default)
    if field.name not in shared and value not in (field.default, 0):
      raise InputError(
        f"--{field.name}={value} is for {kind}, the network reads {reads}.",
        f"Omit --{field.name}.",
      )

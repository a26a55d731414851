"""Declarations of the keys of a recipe: default, documentation, range, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import pathlib
from typing import Any

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class When:
  """A condition on the values of a recipe.

  Attributes:
    holds: Whether it is fulfilled by values by dotted key.
    text: What fulfils it, for messages; "" for what always holds.
    parts: Conditions that must all hold; () for one that has no parts.
  """

  holds: Callable[[Values], bool]
  text: str = ""
  parts: tuple[When, ...] = ()

  def __and__(self, other: When) -> When:
    parts = (*(self.parts or (self,)), *(other.parts or (other,)))
    parts = tuple(part for part in parts if part.text)
    text = " and ".join(part.text for part in parts)
    return When(lambda values: self.holds(values) and other.holds(values), text, parts)

  def __or__(self, other: When) -> When:
    text = f"({self.text}, or {other.text})"
    return When(lambda values: self.holds(values) or other.holds(values), text)

  def unmet(self, values: Values) -> str:
    """Returns what is missing, for messages."""
    parts = self.parts or (self,)
    return " and ".join(part.text for part in parts if not part.holds(values))


ALWAYS = When(lambda values: True)


def chosen(key: str, *names: Any) -> When:
  """Returns the condition that a key has one of some values."""
  *most, last = (str(name) for name in names if name != "")
  text = " or ".join(filter(None, (", ".join(most), last)))
  return When(lambda values: values[key] in names, f"{key}={text}")


def given(key: str) -> When:
  """Returns the condition that a key is set: neither 0, "" nor empty."""
  return When(lambda values: bool(values[key]), f"{key} set")


def absent(key: str) -> When:
  """Returns the condition that a key is not set."""
  return When(lambda values: not values[key], f"{key} not set")


def is_file(key: str) -> When:
  """Returns the condition that a key names one file."""
  return When(lambda values: _is_file(values[key]), f"{key} set to one file")


def is_no_file(key: str) -> When:
  """Returns the condition that a key does not name a file."""
  return When(lambda values: not _is_file(values[key]), f"{key} not set to one file")


def _is_file(path: str) -> bool:
  return pathlib.Path(path).expanduser().is_file()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
  """One key of a recipe.

  Attributes:
    name: Dotted.
    default: Its value where a recipe sets none; its type is that of all values.
    doc: What it means.
    when: What reads it; where that is not chosen, the key keeps its default.
    least: Of numbers.
    most: Of numbers.
    below: Numbers are less than this.
    names: The texts that are known; () for any text.
    duration: Whether it is a number of steps, or text such as "90 epochs".
    patterns: "names" if its items are regular expressions, "pairs" if pairs that begin with one.
    open: A value beside these that a fine-tuning fills in; None for no such value.
  """

  name: str
  default: Any
  doc: str
  when: When
  least: float | None = None
  most: float | None = None
  below: float | None = None
  names: tuple[str, ...] = ()
  duration: bool = False
  patterns: str = ""
  open: Any = None


def key(default: Any, doc: str, **options: Any) -> Any:
  """Returns the field of a section; `options` are those of `Key`."""
  return dataclasses.field(default=default, metadata={"doc": doc, **options})


def keys_of(section: str, cls: type, when: When = ALWAYS) -> list[Key]:
  """Returns the keys that a dataclass declares for a section; "" is that of the whole recipe.

  What reads the section reads each of its keys, as far as the key itself has no further condition.
  """
  found = []
  for field in dataclasses.fields(cls):
    options = dict(field.metadata)
    read = when & options.pop("when", ALWAYS)
    name = f"{section}.{field.name}" if section else field.name
    found.append(Key(name=name, default=field.default, when=read, **options))
  return found


def nested(values: Values) -> dict[str, Any]:
  """Returns sections within sections, from values by dotted key."""
  sections: dict[str, Any] = {}
  for name, value in values.items():
    *path, last = name.split(".")
    section = sections
    for part in path:
      section = section.setdefault(part, {})
    section[last] = value
  return sections

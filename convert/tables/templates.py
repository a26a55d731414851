"""Name templates: each `{field}` stands for a number, so that one reads and writes names alike."""

from __future__ import annotations

from collections.abc import Mapping
import functools
import re

FIELD = re.compile(r"\{\w+\}")


def skeleton(name: str) -> str:
  """Returns a name with 0 for every number."""
  return re.sub(r"\d+", "0", name)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
  pieces = re.split(r"\{(\w+\*?)\}", template)
  seen: set[str] = set()
  pattern = ""
  for index, piece in enumerate(pieces):
    if index % 2 == 0:
      pattern += re.escape(piece)
    elif piece.endswith("*"):
      pattern += f"(?P<{piece[:-1]}>.*)"
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
  return template.replace("*}", "}").format(**numbers)

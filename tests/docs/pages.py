"""The blocks of code on the pages, in order, and what the pages say about running them.

A comment right before a block tells the walk about it, in the page itself:

  <!-- given: photos, images -->        files and values that the reader brings; `givens` makes them
  <!-- file: plain.py -->               the block is this file, in the working directory
  <!-- run with --short: an hour -->    run with further arguments, for the reason stated
  <!-- not run: needs ImageNet -->      parsed only, for the reason stated
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex

from ..common import ROOT

PAGES = {page.name: page for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
SHELL, SESSION, PYTHON, OUTPUT = "bash", "console", "python", ""

_BLOCK = re.compile(r"((?:^<!-- [^\n]* -->\n)*)^```([^\n]*)\n(.*?)^```$", re.S | re.M)
_COMMENT = re.compile(r"<!-- (given|file|run with|not run):? (.*?) -->\n")
_INLINE = re.compile(r"`((?:bcos-jax|python|make|pip|git|eval) [^`\n]+)`")


@dataclasses.dataclass(frozen=True)
class Command:
  """A command as a page prints it.

  Attributes:
    text: The command, without prompt and comment, on one line.
    printed: What the page shows as its output; empty where it shows none.
  """

  text: str
  printed: str = ""

  @property
  def words(self) -> list[str]:
    """Its words, as a shell splits them."""
    return shlex.split(self.text, comments=True)


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of code of a page.

  Attributes:
    page: Name of the page.
    line: Where it begins.
    language: SHELL, SESSION (commands after `$ `, with output), PYTHON or OUTPUT.
    text: What is in it.
    given: Names of what the reader brings.
    file: Name of the file that the block is; empty: it is run.
    extra: Arguments that are added to each command, so that the walk ends.
    not_run: Why it is only parsed; empty: it is run.
  """

  page: str
  line: int
  language: str
  text: str
  given: tuple[str, ...] = ()
  file: str = ""
  extra: str = ""
  not_run: str = ""

  def commands(self) -> list[Command]:
    """Returns the commands of a block for a shell, in order."""
    joined = self.text.replace("\\\n", " ")
    if self.language == SHELL:
      return [Command(line) for line in joined.splitlines() if line.partition("#")[0].strip()]
    if self.language == SESSION:
      parts = re.split(r"^\$ ", joined, flags=re.M)
      assert not parts[0], (self.page, self.line, "output before the first command")
      return [Command(*part.partition("\n")[::2]) for part in parts[1:]]
    return []

  def __str__(self) -> str:
    return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
  """Returns the blocks of a page, in order."""
  return [_block(page, match) for match in _BLOCK.finditer(_text(page))]


def _block(page: str, match: re.Match[str]) -> Block:
  comments, language, text = match.groups()
  said = dict(_COMMENT.findall(comments))
  extra, _, reason = said.get("run with", "").partition(": ")
  assert bool(extra) == bool(reason), (page, comments, "says no reason")
  return Block(
    page=page,
    line=match.string[: match.start(2)].count("\n") + 1,
    language=language,
    text=text,
    given=tuple(filter(None, said.get("given", "").split(", "))),
    file=said.get("file", ""),
    extra=extra,
    not_run=said.get("not run", ""),
  )


def inline(page: str) -> list[Command]:
  """Returns the commands that a page names within its text."""
  return [Command(text) for text in _INLINE.findall(_BLOCK.sub("", _text(page)))]


def _text(page: str) -> str:
  return PAGES[page].read_text(encoding="utf-8")


def path(page: str) -> pathlib.Path:
  """Returns where a page lies."""
  return PAGES[page]

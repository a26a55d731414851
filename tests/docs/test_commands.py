"""Every command of the pages is either run by the walk or parsed by what would run it."""

import contextlib

import pytest

from bcos_jax import InputError
from bcos_jax.models.published import ZOO

from . import checks, givens, pages, test_walk

BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page)]
PRINTED = [(block, command) for block in BLOCKS for command in block.commands()]
INLINE = [(page, command) for page in pages.PAGES for command in pages.inline(page)]


@pytest.mark.parametrize(
  "command",
  [pytest.param(command, id=f"{where} {command.text}") for where, command in [*PRINTED, *INLINE]],
)
def test_commands_parse(command):
  """Those that run as well, so that a renamed option shows within a second."""
  refused = command.printed.startswith("error: ")
  with pytest.raises(InputError) if refused else contextlib.nullcontext():
    checks.check(command)


def test_every_command_is_run_or_parsed():
  """Of every block it is known what it is, and why it is not run if it is not."""
  for block in BLOCKS:
    assert block.language in (pages.SHELL, pages.SESSION, pages.PYTHON, pages.OUTPUT), block
    if block.language == pages.OUTPUT:
      assert not block.text.startswith("$ "), f"{block}: commands with output are `console`"
      assert not (block.given or block.extra or block.file or block.not_run), block
    if block.language == pages.PYTHON:
      compile(block.text, str(block), "exec")
    assert not (block.not_run and (block.given or block.extra)), block
    for name in block.given:
      assert name in givens.names(), (block, name)
  run = [command for block, command in PRINTED if not block.not_run]
  parsed = [command for block, command in PRINTED if block.not_run]
  whole = sum(
    line.startswith("$ ") or (language == pages.SHELL and not line.startswith("  "))
    for language, line in _lines()
  )
  assert len(run) + len(parsed) == whole, "a command that neither runs nor is parsed"
  assert len(run) > len(parsed), (len(run), len(parsed))
  assert test_walk.SLOW <= set(pages.PAGES)


def _lines():
  """Yields the lines of all blocks as they stand on the pages, with the language."""
  for page in pages.PAGES.values():
    language = None
    for line in page.read_text(encoding="utf-8").splitlines():
      if line.startswith("```"):
        language = line[3:] if language is None else None
      elif language is not None and line:
        yield language, line


def test_the_published_networks_are_those_of_the_model_zoo():
  page = pages.path("published_weights.md").read_text(encoding="utf-8")
  for name, of in ZOO.items():
    assert f"| `{name}` | `{of.file}` | {of.top1:.1f} % |" in page
    options = f"--architecture={name} --layout=bcos_v2"
    checks.check(pages.Command(f"bcos-jax convert {of.file} bundles/{name} {options}"))

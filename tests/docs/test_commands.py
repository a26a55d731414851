"""Every command of the pages is either run by the walk or parsed by what would run it."""

import pytest

from . import checks, pages

ALL = [block for page in pages.PAGES for block in pages.blocks(page)]
COMMANDS = [
  *((str(block), command) for block in ALL for command in block.commands()),
  *((page, command) for page in pages.PAGES for command in pages.inline(page)),
]


@pytest.mark.parametrize("command", [pytest.param(c, id=f"{where} {c.text}") for where, c in COMMANDS])
def test_commands_parse(command):
  checks.check(command)

"""The command `quickstart`, the offline example."""

from __future__ import annotations

import pathlib

from .command import Commands, add_command


def add_quickstart(commands: Commands) -> None:
  command = add_command(
    commands,
    "quickstart",
    _quickstart,
    "train, B-cosify, fine-tune and explain a small network on real digits",
    "bcos-jax quickstart --workdir=runs/quickstart",
  )
  command.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs/quickstart"),
    help="folder for networks, figure and report",
  )
  command.set_defaults(after_stop="run the same command again; a quickstart starts over.")
  command.add_argument("--seed", type=int, default=0, help="random seed")
  command.add_argument(
    "--short", action="store_true", help="a fraction of the steps, as a smoke test"
  )


def _quickstart(options, _):
  from ..studies import quickstart

  quickstart.quickstart(
    options.workdir, seed=options.seed, length=quickstart.SHORT if options.short else None
  )

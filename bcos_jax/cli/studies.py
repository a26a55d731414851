"""The command `study`."""

from __future__ import annotations

import pathlib

from .command import add_command


def add_study(commands):
  command = add_command(
    commands,
    "study",
    _study,
    "train small networks, and measure what B-cosification does to them",
    "bcos-jax study b-sweep --dataset=digits",
  )
  command.add_argument(
    "study",
    help="equivalence, speedup, b-sweep, options, methods, sanity, robustness, alignment, clip or "
    "texts",
  )
  command.add_argument(
    "--dataset", default="", help="shape_scenes or digits, the first if not given; texts: reviews"
  )
  command.add_argument(
    "--network", default="", help="architecture, see `bcos-jax models`; the recipe's if not given"
  )
  command.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs/studies"),
    help="folder of networks and findings, shared by all studies",
  )
  command.add_argument("--seed", type=int, default=0, help="seed of everything")
  command.add_argument(
    "--short", action="store_true", help="a fraction of the steps; shows that everything runs"
  )


def _study(options, _):
  from .. import studies

  studies.run(
    options.study,
    workdir=options.workdir,
    dataset=options.dataset,
    network=options.network,
    seed=options.seed,
    short=options.short,
  )

"""The command `study`, which runs offline studies."""

from __future__ import annotations

import pathlib

from .command import Commands, add_command


def add_study(commands: Commands) -> None:
  command = add_command(
    commands,
    "study",
    _study,
    "train small networks and measure the effects of B-cosification",
    "bcos-jax study b-sweep --dataset=digits",
  )
  command.add_argument(
    "study",
    help="equivalence, speedup, b-sweep, options, methods, sanity, robustness, alignment, clip, "
    "closed-form, calibration, replication, texts or mail",
  )
  command.add_argument(
    "--dataset",
    default="",
    help="shape_scenes (default), digits or fashion_mnist (see `bcos-jax prepare`); for the study "
    "texts: reviews; mail: spam_assassin",
  )
  command.add_argument(
    "--network",
    default="",
    help="architecture, see `bcos-jax models`; vit or vitc, small ones of fashion_mnist; default: "
    "the recipe's",
  )
  command.add_argument(
    "--init", default="", help="bundle of a pretrained encoder that the study mail starts from"
  )
  command.add_argument(
    "--workdir",
    type=pathlib.Path,
    default=pathlib.Path("runs/studies"),
    help="folder of networks and results, shared by all studies",
  )
  command.add_argument("--seed", type=int, default=0, help="random seed")
  command.add_argument(
    "--seeds",
    type=int,
    default=1,
    help="how many seeds, from --seed on (closed-form, calibration, replication)",
  )
  command.add_argument(
    "--short", action="store_true", help="a fraction of the steps, as a smoke test"
  )


def _study(options, _):
  from .. import studies

  studies.run(
    options.study,
    workdir=options.workdir,
    dataset=options.dataset,
    network=options.network,
    init=options.init,
    seed=options.seed,
    seeds=options.seeds,
    short=options.short,
  )

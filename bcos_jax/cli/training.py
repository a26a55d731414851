"""The commands `prepare`, `train` and `compile`."""

from __future__ import annotations

import pathlib
import sys

from ..errors import InputError
from .command import Commands, add_command, number, whole

PREPARED = (
  *("imagenet2012", "mnist", "fashion_mnist", "kmnist"),
  *(f"emnist/{name}" for name in ("letters", "balanced", "byclass", "bymerge", "digits", "mnist")),
  *("cifar10", "cifar100", "voc_boxes", "voc_masks", "coco_boxes", "coco_masks", "imagenet_s"),
  *("funny_birds", "spam_assassin"),
)
"""Data sets of `prepare`, whose readers are slow to import."""


def add_prepare(commands: Commands) -> None:
  command = add_command(
    commands,
    "prepare",
    _prepare,
    "turn the official files of a data set into array_record, without TensorFlow",
    "bcos-jax prepare imagenet2012 --source=downloads --data_dir=data",
  )
  command.add_argument("dataset", choices=PREPARED, help="name of the data set")
  command.add_argument(
    "--source",
    "--archives",
    type=pathlib.Path,
    required=True,
    help="the official archive, or the folder that it is in or was unpacked to (docs/running.md)",
  )
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument("--splits", default="", help="which splits to prepare; default: all")
  command.add_argument(
    "--any_size", action="store_true", help="accept files with only some of the pictures"
  )


def _prepare(options, _):
  from ..train.data.archives import known

  settings = {"data_dir": options.data_dir, "complete": not options.any_size}
  if options.splits:
    settings["splits"] = options.splits.split(",")
  print(f"Prepared {known.PREPARED[options.dataset](options.source, **settings)}")


def add_train(commands: Commands) -> None:
  command = add_command(
    commands,
    "train",
    _train,
    "train a recipe and save the network",
    "bcos-jax train --config=digits:scratch --workdir=runs/scratch --config.optimizer.lr=1e-3",
  )
  command.set_defaults(
    takes_overrides=True, after_stop="run the same command to continue from the last checkpoint."
  )
  command.add_argument(
    "--config",
    required=True,
    help="name or .py file of a recipe, then :variant,variant; single fields as --config.a.b=value",
  )
  command.add_argument("--workdir", help="folder of the run; an existing run is resumed")
  command.add_argument("--print_config", action="store_true", help="print the recipe and stop")
  command.add_argument(
    "--download",
    action="store_true",
    help="download the networks that the recipe starts from, if they are hub ids",
  )
  _add_hosts(command)


def _add_hosts(command):
  """Adds the flags that `hosts.join` reads."""
  command.add_argument(
    "--distributed",
    action="store_true",
    help="one process per host, detected from the cluster (Cloud TPU, Slurm, Open MPI, ...)",
  )
  command.add_argument(
    "--coordinator", help="HOST:PORT of process 0, where the cluster cannot be detected"
  )
  command.add_argument(
    "--num_processes", type=whole(1, 2**20), help="number of processes, with --coordinator"
  )
  command.add_argument(
    "--process_id", type=int, help="number of this process, 0, 1, ..., with --coordinator"
  )
  command.add_argument(
    "--join_timeout",
    type=whole(1, 10**6),
    default=300,
    help="seconds to wait for the other processes",
  )


def _train(options, overrides):
  from ..train import config, hosts
  from ..train import main as training

  if options.print_config:
    print(config.format_config(config.load_config(options.config, overrides)))
    return
  if not options.workdir:
    raise InputError(
      "--workdir is missing or empty, expected a folder for the run.",
      "For example: --workdir=runs/first.",
    )
  hosts.join(options)
  if options.download:
    from ..train import start

    recipe = config.load_config(options.config, overrides)
    start.fetch((recipe.init, recipe.objective.get("teacher", "")))
  print(f"Saved {training.main(options.config, overrides, options.workdir)}")


def add_compile(commands: Commands) -> None:
  command = add_command(
    commands,
    "compile",
    _compile,
    "compile a recipe's training step for a TPU slice, or estimate it for GPUs, none of them here",
    "bcos-jax compile --config=bcosify_cnn:resnet50_v1 --topology=v5e:16x16 "
    "--config.data.batch_size=4096",
  )
  command.set_defaults(takes_overrides=True)
  command.add_argument("--config", required=True, help="as for train")
  command.add_argument("--topology", required=True, help="e.g. v5e:16x16, v4:2x2x4, h100:8")
  command.add_argument(
    "--examples",
    type=whole(1),
    default=1_281_167,
    help="size of the training set (ImageNet's)",
  )
  command.add_argument(
    "--utilisation",
    type=number(above=0, most=1),
    default=0.4,
    help="assumed share of the chip's peak performance, for the estimates",
  )


def _compile(options, overrides):
  from ..train import config, estimates

  estimates.check_topology(options.topology)
  recipe = config.load_config(options.config, overrides)
  if not estimates.is_gpu(options.topology):
    print(f"Compiling for {options.topology}; this takes minutes.", flush=True)
  try:
    cost = estimates.of_recipe(recipe, options.topology, options.examples)
  except MemoryError as error:
    print(f"error: the step does not fit: {error}", file=sys.stderr)
    print(
      "  fix: more devices, a smaller --config.data.batch_size, --config.accumulate, or "
      "--config.ops.dtype=bfloat16.",
      file=sys.stderr,
    )
    return 1
  assumed = {"examples": options.examples, "utilisation": options.utilisation}
  estimates.report(cost, print, recipe, **assumed)
  return 0 if cost.fits else 1

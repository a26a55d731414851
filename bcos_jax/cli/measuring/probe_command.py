"""The command `probe`, which measures a network's features; `probing` does the work."""

from __future__ import annotations

import pathlib

from ...errors import InputError
from ..command import Commands, add_command, add_network, number, whole


def add_probe(commands: Commands) -> None:
  command = add_command(
    commands,
    "probe",
    _probe,
    "train a classifier on a network's features, and classify by nearest neighbours",
    "bcos-jax probe runs/quickstart/bcosified --dataset=digits --features=runs/features "
    "--output=runs/probed",
  )
  add_network(command)
  command.add_argument(
    "--dataset",
    required=True,
    help="folder of pictures (a folder per class, or train/ and val/), table of labels (CSV) "
    "beside its pictures, pattern in quotes, or TFDS name, in array_record",
  )
  command.add_argument(
    "--labels", default="", help="table of files and labels (CSV), for a folder without classes"
  )
  command.add_argument("--train_split", default="train", help="split to train on")
  command.add_argument("--test_split", default="test", help="split to measure on")
  command.add_argument("--data_dir", default="", help="folder of the data sets")
  command.add_argument(
    "--damaged", choices=["fail", "skip"], default="fail", help="handling of unreadable pictures"
  )
  command.add_argument("--features", type=pathlib.Path, help="folder for cached features")
  command.add_argument("--batch_size", type=int, default=64, help="images at a time, for features")
  command.add_argument("--workers", type=int, default=0, help="decoding processes")
  _add_head_options(command)
  command.add_argument("--knn", type=int, default=20, help="number of nearest neighbours; 0: none")
  command.add_argument(
    "--metric", default="euclidean", help="distance of the neighbours: euclidean or cosine"
  )
  command.add_argument(
    "--teacher", help="another network, as above, whose k-NN predictions are compared"
  )
  command.add_argument("--seed", type=int, default=0, help="random seed")
  command.add_argument(
    "--output", type=pathlib.Path, help="folder for the bundle of network and probe"
  )
  command.add_argument(
    "--results", type=pathlib.Path, help="folder for probe.json and rates.csv, what was measured"
  )


def _add_head_options(command):
  command.add_argument(
    "--head",
    default="",
    help="linear, bcos or bcos_mlp; default: that of the network's family",
  )
  command.add_argument(
    "--loss",
    default="",
    help="uniform_off_label_bce, bce or cross_entropy; default: the first for B-cos heads and "
    "the last for linear ones",
  )
  command.add_argument(
    "--rates", default="0.01,0.003,0.001", help="learning rates of the sweep, comma-separated"
  )
  command.add_argument(
    "--epochs", type=whole(1, 10**6), default=50, help="passes over the training set"
  )
  command.add_argument(
    "--probe_batch",
    type=int,
    default=0,
    help="examples at a time, for the probe; 0: 8192, or fewer for small data sets",
  )
  command.add_argument(
    "--weight_decay", type=number(0, 1000), default=1e-4, help="weight decay of AdamW"
  )
  command.add_argument(
    "--hidden",
    type=int,
    default=0,
    help="hidden units of bcos_mlp; 0: the number of the network's features",
  )
  command.add_argument(
    "--normalise", action="store_true", help="scale the probe's input features to unit length"
  )
  command.add_argument(
    "--select",
    default="held_out",
    help="data to select rate and epoch on: held_out training examples or, as published and "
    "optimistic, test",
  )
  command.add_argument(
    "--held_out", type=number(0, 1), default=0.1, help="share of the training set that is held out"
  )


def _probe(options, _):
  from ...train.probes import probe
  from . import probing

  bounds = {"batch_size": 1, "probe_batch": 0, "workers": 0, "knn": 0, "seed": 0}
  for name, least in bounds.items():
    if (value := getattr(options, name)) < least:
      raise InputError(f"--{name}={value}, expected at least {least}.", f"Change --{name}.")
  try:
    rates = tuple(float(rate) for rate in options.rates.split(","))
  except ValueError as error:
    raise InputError(
      f"--rates={options.rates!r}, expected numbers.", "For example: --rates=0.01,0.003."
    ) from error
  shared = {"head", "loss", "epochs", "weight_decay", "hidden", "normalise", "select", "held_out"}
  chosen = probe.ProbeOptions(
    rates=rates,
    batch_size=options.probe_batch,
    seed=options.seed,
    **{name: getattr(options, name) for name in shared},
  )
  choices = probing.ProbingChoices(
    folder=options.features,
    image_batch=options.batch_size,
    options=chosen,
    **{
      name: getattr(options, name)
      for name in (
        *("dataset", "train_split", "test_split", "data_dir", "damaged"),
        *("workers", "knn", "metric", "teacher", "output", "labels", "results", "download"),
      )
    },
  )
  probing.run(options.bundle, choices)

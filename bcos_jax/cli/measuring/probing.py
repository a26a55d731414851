"""The implementation of `bcos-jax probe`: features, probe, k-NN, and the merged network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

import bcos_jax

from ...errors import InputError
from ...explain import saving
from ...inputs import of_pictures
from ...io import bundles, files
from ...train.data import Dataset, measured, pipeline
from ...train.probes import features, heads, knn, probe
from ...train.probes.features import Features
from ..command import bar

_WRITTEN = ("probe.json", "rates.csv")
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbingChoices:
  """What to compute, and from what.

  Attributes:
    dataset: TFDS name, or folder of pictures.
    train_split: Split to train on.
    test_split: Split to measure on.
    data_dir: See `data.open_dataset`.
    folder: Where features are kept, or None.
    damaged: `fail` or `skip`: pictures that cannot be read.
    image_batch: Images at a time, for the features.
    workers: Decoding processes.
    options: Of the probe.
    knn: Number of neighbours; 0 for none.
    metric: Of the neighbours.
    teacher: Another network, whose neighbours' predictions are compared, or None.
    output: Folder of the joined network's bundle, or None.
    labels: Table of labels of a folder of pictures, "" for a folder per class.
    results: Folder for what was measured, as JSON and CSV, or None.
    download: Lets hub ids be fetched.
  """

  dataset: str
  train_split: str = "train"
  test_split: str = "test"
  data_dir: str = ""
  folder: pathlib.Path | None = None
  damaged: str = "fail"
  image_batch: int = 64
  workers: int = 0
  options: probe.ProbeOptions = dataclasses.field(default_factory=probe.ProbeOptions)
  knn: int = 20
  metric: str = "euclidean"
  teacher: str | os.PathLike | None = None
  output: pathlib.Path | None = None
  labels: str = ""
  results: pathlib.Path | None = None
  download: bool = False


def run(bundle: str | os.PathLike, choices: ProbingChoices, say: Say = print) -> probe.Probe:
  """Probes a bundle and prints the results.

  Args:
    bundle: A network, whatever `bcos_jax.load` opens.
    choices: See `ProbingChoices`.
    say: Function that prints one line of output.

  Raises:
    InputError: See `features.extract`, `probe.fit`, `knn.classify` and `heads.join`; whatever
      can be told from the arguments is told before any work.
  """
  network = bcos_jax.load(bundle, download=choices.download)
  options = choices.options.resolved(network.model)
  if choices.results:
    given = [choices.labels] if choices.labels else []
    saving.checked_output(choices.results, given, _WRITTEN)
  trained = measured.trained_on(network.config)
  splits = [
    measured.open_measured(
      choices.dataset, split, choices.data_dir, labels=choices.labels, trained=trained
    )[0]
    for split in (choices.train_split, choices.test_split)
  ]
  teacher = None
  if choices.teacher:
    teacher = bcos_jax.load(choices.teacher, download=choices.download)
  _check(choices, options, network, teacher, splits)
  train, test = _features(network, splits, choices, choices.folder)
  for part in (train, test):
    left_out = f", {part.damaged} damaged left out" if part.damaged else ""
    say(f"features: {len(part)} x {part.values.shape[1]} of {part.name}{left_out}")
  found = probe.fit(network.model, train, test, options)
  for line in table(found):
    say(line)
  fields: dict[str, Any] = {"k": choices.knn, "metric": choices.metric}
  neighbours = None
  if choices.knn:
    neighbours = knn.classify(train, test, **fields)
    say(f"k-NN, k={choices.knn}, {choices.metric}: {neighbours.accuracy:.2%} on {test.name}")
  if teacher and neighbours:
    folder = choices.folder and choices.folder / "teacher"
    other = knn.classify(*_features(teacher, splits, choices, folder), **fields)
    say(f"k-NN of the teacher: {other.accuracy:.2%}")
    say(f"both predict the same for {knn.agreement(other, neighbours):.2%}")
  if choices.results:
    _write(choices.results, choices, found, neighbours)
    say(f"written: {choices.results / 'probe.json'}, {choices.results / 'rates.csv'}")
  if choices.output:
    _save(choices.output, network, found, train, test)
    say(f"Saved {choices.output}")
  return found


def _check(
  choices: ProbingChoices,
  options: probe.ProbeOptions,
  network: bundles.Bundle,
  teacher: bundles.Bundle | None,
  splits: Sequence[Dataset],
) -> None:
  """Refuses what would fail only after the work."""
  for bundle in (network, teacher) if teacher else (network,):
    features.headless(bundle.model, bundle.variables)
  knn.check_k(choices.knn or 1, len(splits[0]), choices.metric)
  if teacher and not choices.knn:
    raise InputError(
      "A teacher is compared by nearest neighbours, but knn=0.", "For example, set --knn=20."
    )
  labels = splits[0].labels
  if labels is not None and not splits[0].multi_label:
    probe.check_held_out(np.bincount(labels), splits[0].name, options)
  if choices.folder:
    files.check_new(choices.folder)
  if choices.output:
    bundles.check_replaceable(choices.output)
    classes = len(splits[0].label_names)
    head = heads.make(network.model, classes, options.head, normalise=options.normalise)
    heads.joined_model(network.model, classes, head)


def _features(
  network: bundles.Bundle,
  splits: Sequence[Dataset],
  choices: ProbingChoices,
  folder: pathlib.Path | None,
) -> list[Features]:
  read = of_pictures(network.preprocess)
  return [
    features.extract(
      network.model,
      network.variables,
      pipeline.Examples(split, read, skip_damaged=choices.damaged == "skip"),
      folder=folder,
      batch_size=choices.image_batch,
      workers=choices.workers,
      progress=bar(f"features of {split.name}", -(-len(split) // choices.image_batch)),
    )
    for split in splits
  ]


def table(found: probe.Probe) -> Iterator[str]:
  """Yields the lines of a probe's table: every learning rate, and which was chosen on what."""
  options, on = found.options, f"{found.selected_on} held-out training examples"
  if options.select == "test":
    on = "the test set itself, so its accuracy is an optimistic one"
  yield f"head {options.head}, loss {options.loss}, {options.epochs} epochs"
  yield f"rate and epoch chosen on {on}"
  yield f"{'rate':>10}{'epoch':>8}{'chosen on':>12}{'test':>10}"
  for i, row in enumerate(found.rates):
    mark = "  <- chosen" if i == found.chosen else ""
    yield f"{row.rate:>10g}{row.epoch:>8}{row.selection:>12.2%}{row.test:>10.2%}{mark}"


def _write(folder: pathlib.Path, choices: Any, found: probe.Probe, neighbours: Any) -> None:
  """Writes what was measured: probe.json, and rates.csv with a row for each learning rate."""
  near = None
  if neighbours is not None:
    near = {"k": choices.knn, "metric": choices.metric, "accuracy": float(neighbours.accuracy)}
  row = found.rates[found.chosen]
  chosen = {"rate": float(row.rate), "epoch": int(row.epoch)}
  about = {"dataset": choices.dataset, "accuracy": float(found.accuracy), "chosen": chosen}
  files.write(folder / "probe.json", (json.dumps({**about, "knn": near}, indent=1) + "\n").encode())
  rows = [
    {"rate": r.rate, "epoch": r.epoch, "selection": r.selection, "test": r.test}
    for r in found.rates
  ]
  files.write(folder / "rates.csv", saving.table(rows))


def _save(
  output: pathlib.Path,
  network: bundles.Bundle,
  found: probe.Probe,
  train: Features,
  test: Features,
) -> None:
  model, variables = probe.join(network.model, network.variables, found)
  about = {
    "train": train.name,
    "test": test.name,
    "accuracy": found.accuracy,
    "rate": found.rates[found.chosen].rate,
    "epoch": found.rates[found.chosen].epoch,
    **{key: value for key, value in dataclasses.asdict(found.options).items() if key != "rates"},
  }
  bcos_jax.save(
    output,
    model,
    variables,
    preprocess=network.preprocess,
    labels=found.label_names,
    provenance={"probe": about, "network": network.config["provenance"]},
  )

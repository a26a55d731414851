"""Fine-tuning on a user's pictures: defaults derived from the network and the data."""

from __future__ import annotations

from collections.abc import Callable
import json
import math
import os
import pathlib

from ml_collections import ConfigDict
import numpy as np

from bcos_jax import ops, render
from bcos_jax.errors import InputError
from bcos_jax.inputs import of_pictures
from bcos_jax.io.bundles import Bundle

from . import config as configs
from . import sharding, start
from .data import Dataset, open_splits, pipeline
from .evaluation import showcase
from .evaluation.evaluate import average_precision
from .loop import TrainResult
from .state import new_key

Say = Callable[[str], None]

_MANY = 100_000
_WORTH_WORKERS = 2_000


def resolve(config: ConfigDict) -> tuple[ConfigDict, start.Network | None]:
  """Fills in what a fine-tuning recipe leaves open, and prepares the network.

  Fields that are 0, -1 (`data.workers`) or "" (losses) are chosen as `sizes` and `_losses` say;
  image size and interpolation are those of the bundle, the classes those of the data.

  Args:
    config: A recipe with `finetune`.

  Returns:
    The complete recipe, and the network with its new head, or None if the recipe names no bundle:
    then a network is drawn.

  Raises:
    InputError: Neither bundle nor architecture is named; or see `start.finetuned`,
      `data.open_splits`.
  """
  config = ConfigDict(config.to_dict(), type_safe=False)
  train_set, _ = open_splits(config.data)
  classes = len(train_set.label_names)
  if config.model.num_classes not in (0, classes):
    raise InputError(
      f"config.model.num_classes={config.model.num_classes}, but {train_set.name} has {classes}.",
      "Leave out --config.model.num_classes: the data say it.",
    )
  family = ops.from_dict(config.ops.to_dict())
  network = None
  if config.init:
    bundle = start.open_bundle(config.init)
    _check_asked(config, bundle, family)
    network = start.finetuned(
      bundle,
      family,
      classes,
      new_key(config.seed),
      fold_mean=config.fold_mean,
      calibrate=config.calibrate,
    )
    family = network[0].ops
    config.model = ConfigDict({"name": bundle.config["architecture"], "num_classes": classes})
    config.ops = ConfigDict(ops.to_dict(family))
    if not config.data.image_size:
      read = of_pictures(bundle.preprocess)
      config.data.update(
        image_size=read.size[0], resize=read.resize, interpolation=read.interpolation
      )
  elif not config.model.name:
    raise InputError(
      "A fine-tuning needs a network to start from.", "Set --config.init to a bundle's folder."
    )
  config.model.num_classes = classes
  _fill(config, train_set, family)
  configs.check_values({**configs.flatten(config), "finetune": False})
  return configs.settle(config), network


def _check_asked(config: ConfigDict, bundle: Bundle, family: ops.Ops) -> None:
  """Raises InputError for fields that the recipe sets and the bundle decides."""
  architecture, model = bundle.config["architecture"], bundle.model
  if config.model.name not in ("", architecture):
    raise InputError(
      f"The bundle {config.init!r} holds {architecture!r}, the config names {config.model.name!r}.",
      "Leave out --config.model.name: the bundle says it.",
    )
  fields = {name: value for name, value in config.model.items() if name != "num_classes"}
  start.check_fields(ConfigDict(fields), config.init, model)
  if model.ops.conventional and not family.conventional:
    return  # They are those of the B-cos network.
  for name in config.ops:
    own = getattr(model.ops, name, None)
    if name != "family" and own != getattr(family, name, None):
      raise InputError(
        f"ops.{name}={config.ops[name]!r} does nothing: the bundle {config.init!r} has {own!r}, "
        "and is fine-tuned as it is.",
        f"Leave out --config.ops.{name}, or start from a conventional network.",
      )


def sizes(count: int, divisor: int = 1) -> dict[str, int]:
  """Returns batch size, steps and steps between evaluations for a number of training pictures.

  Batches: a tenth of the pictures as a power of two, from 8 to 64, or 256 for 100,000 pictures and
  more, rounded up to a multiple of `divisor`. Steps: 20 epochs, but from 300 to 50,000. Twenty
  evaluations.
  """
  batch = 256 if count >= _MANY else 2 ** min(max(int(math.log2(max(count / 10, 1))), 3), 6)
  batch = -(-batch // divisor) * divisor
  steps = min(max(20 * count // batch, 300), 50_000)
  return {"batch_size": batch, "steps": steps, "eval_every": max(steps // 20, 1)}


def _fill(config: ConfigDict, train_set: Dataset, family: ops.Ops) -> None:
  data = config.data
  divisor = sharding.batch_divisor(sharding.make_mesh(config.mesh)) * config.accumulate
  chosen = sizes(len(train_set), divisor)
  data.batch_size = data.batch_size or chosen["batch_size"]
  epoch = max(len(train_set) // data.batch_size, 1)
  config.steps = configs.as_steps(config.steps, epoch) or chosen["steps"]
  config.eval_every = configs.as_steps(config.eval_every, epoch) or max(config.steps // 20, 1)
  config.checkpoint_every = config.checkpoint_every or config.eval_every
  config.optimizer.warmup_steps = config.optimizer.warmup_steps or config.steps // 20
  config.log_every = config.log_every or max(config.eval_every // 5, 1)
  if data.workers < 0:
    data.workers = min(8, os.cpu_count() or 1) if len(train_set) >= _WORTH_WORKERS else 0
  if train_set.labels is None:
    data.balance = 0.0
  name, eval_name = _losses(family, train_set.multi_label)
  config.loss.name = config.loss.name or name
  config.loss.eval_name = config.loss.eval_name or eval_name


def _losses(family: ops.Ops, multi_label: bool) -> tuple[str, str]:
  """Returns the losses of training and evaluation."""
  if multi_label:
    return "bce", "bce"
  if family.probability == "sigmoid":
    return "uniform_off_label_bce", "bce"
  return "cross_entropy", "cross_entropy"


def conclude(
  result: TrainResult, config: ConfigDict, workdir: pathlib.Path, say: Say = print
) -> None:
  """Measures the network on the held-out pictures and explains some right and wrong predictions.

  Writes evaluation.json (the measures, by class as well) and report.html, and prints the metrics.

  Args:
    result: Of the run.
    config: As `resolve` returned it.
    workdir: The run's folder.
    say: Function that prints one line of output.
  """
  _, dataset = open_splits(config.data)
  examples = pipeline.Examples(
    dataset, of_pictures(result.preprocess), skip_damaged=config.data.damaged == "skip"
  )
  softmax = config.loss.eval_name == "cross_entropy"
  predicted = showcase.predict(
    result,
    examples,
    softmax=softmax,
    batch_size=config.data.eval_batch_size,
    workers=config.data.workers,
  )
  probabilities, labels, readable = predicted
  by_class = _by_class(probabilities[readable], labels[readable], result.labels)
  measures = {**result.metrics, "by_class": by_class}
  (workdir / "evaluation.json").write_text(json.dumps(measures, indent=2) + "\n", encoding="utf-8")
  rows = _summary(result, dataset.multi_label, by_class)
  width = max(len(name) for name, _ in rows)
  for name, value in rows:
    say(f"  {name:<{width}}  {value}")
  wrong, right = showcase.choose(predicted)
  render.report(
    workdir / "report.html",
    f"Explanations by {config.model.name}",
    showcase.entries(result, examples, predicted, wrong, right),
    intro=f"{len(examples)} pictures were held out. Below, the measures on them, then "
    f"{len(wrong)} predictions that are wrong, the surest first, and {len(right)} that are right. "
    "Of a wrong one, the predicted class is contrasted with the true one.",
    summary=[("", "measured"), *rows],
    options=render.Options(
      # The published averaging window of 15 is for pictures of 224 pixels.
      smooth=max(1, round(15 * examples.preprocess.size[0] / 224)) | 1,
      probability="softmax" if softmax else "sigmoid",
    ),
  )
  say(f"Explained {len(wrong)} wrong and {len(right)} right predictions in {workdir}/report.html")


def _by_class(
  probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
  """Returns, by class, the number of pictures and accuracy or, of several, average precision."""
  found = {}
  for i, name in enumerate(names):
    of_class = labels == i if labels.ndim == 1 else labels[:, i] > 0.5
    row: dict[str, float] = {"count": int(of_class.sum())}
    if row["count"] and labels.ndim == 1:
      row["accuracy"] = float(np.mean(probabilities[of_class].argmax(-1) == i))
    elif row["count"]:
      row["average_precision"] = average_precision(probabilities[:, i], of_class)
    found[name] = row
  return found


def _summary(
  result: TrainResult, multi_label: bool, by_class: dict[str, dict[str, float]]
) -> list[tuple[str, str]]:
  metrics = result.metrics
  of_all = "all labels right" if multi_label else "accuracy"
  rows = [(f"{of_all}, of {metrics['count']:.0f} held-out pictures", f"{metrics['accuracy']:.1%}")]
  if multi_label:
    rows.append(("mean average precision", f"{metrics['mean_average_precision']:.3f}"))
  last = result.history[-1]["step"]
  rows.append(("best step, of those evaluated", f"{metrics['step']:.0f} of {last:.0f}"))
  for name, row in by_class.items():
    if "accuracy" in row:
      rows.append((f"accuracy, {name} ({row['count']})", f"{row['accuracy']:.1%}"))
    elif row["count"]:
      rows.append(
        (f"average precision, {name} ({row['count']})", f"{row['average_precision']:.3f}")
      )
  return rows

"""Fine-tuning on one's own pictures: what a recipe leaves open comes from network and data."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import json
import math
import os
import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np

import bcos_jax
from bcos_jax import ops, render
from bcos_jax.errors import InputError

from . import config as configs
from . import sharding, start
from .data import Dataset, open_splits, pipeline
from .evaluate import average_precision
from .loop import TrainResult
from .state import new_key

Say = Callable[[str], None]

MOST_SHOWN = 6
"""Pictures in the report that are predicted right, and as many that are not."""

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
  family = ops.from_dict(config.ops.to_dict())
  network = None
  if config.init:
    bundle = start.open_bundle(config.init)
    network = start.finetuned(bundle, family, classes, new_key(config.seed))
    family = network[0].ops
    config.model = ConfigDict({"name": bundle.config["architecture"], "num_classes": classes})
    config.ops = ConfigDict(ops.to_dict(family))
    if not config.data.image_size:
      read = bundle.preprocess
      config.data.update(
        image_size=read.size[0], resize=read.resize, interpolation=read.interpolation
      )
  elif not config.model.name:
    raise InputError(
      "A fine-tuning needs a network to start from.", "Set --config.init to a bundle's folder."
    )
  config.model.num_classes = classes
  _fill(config, train_set, family)
  configs.check(ConfigDict({**config.to_dict(), "finetune": False}))
  return config.lock(), network


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
  if isinstance(family, ops.BcosOps):
    return "uniform_off_label_bce", "bce"
  return "cross_entropy", "cross_entropy"


def conclude(
  result: TrainResult, config: ConfigDict, workdir: pathlib.Path, say: Say = print
) -> None:
  """Measures the network on the held-out pictures and explains some right and wrong predictions.

  Writes evaluation.json (the measures, by class as well) and report.html, and says the measures.

  Args:
    result: Of the run.
    config: As `resolve` returned it.
    workdir: The run's folder.
    say: Prints a line.
  """
  _, dataset = open_splits(config.data)
  examples = pipeline.Examples(
    dataset, result.preprocess, skip_damaged=config.data.damaged == "skip"
  )
  softmax = config.loss.eval_name == "cross_entropy"
  probabilities, labels, readable = _predict(result, examples, config, softmax)
  by_class = _by_class(probabilities[readable], labels[readable], result.labels)
  measures = {**result.metrics, "by_class": by_class}
  (workdir / "evaluation.json").write_text(json.dumps(measures, indent=2) + "\n", encoding="utf-8")
  rows = _summary(result, dataset.multi_label, by_class)
  width = max(len(name) for name, _ in rows)
  for name, value in rows:
    say(f"  {name:<{width}}  {value}")
  wrong, right = _choose(probabilities, labels, readable)
  render.report(
    workdir / "report.html",
    f"Explanations by {config.model.name}",
    _entries(result, examples, wrong, "Wrong", probabilities, labels)
    + _entries(result, examples, right, "Right", probabilities, labels),
    intro=f"{len(examples)} pictures were held out. Below, the measures on them, then "
    f"{len(wrong)} predictions that are wrong, the surest first, and {len(right)} that are right.",
    summary=[("", "measured"), *rows],
    options=render.Options(
      # The published averaging window of 15 is for pictures of 224 pixels.
      smooth=max(1, round(15 * result.preprocess.size[0] / 224)) | 1,
      probability="softmax" if softmax else "sigmoid",
    ),
  )
  say(f"Explained {len(wrong)} wrong and {len(right)} right predictions in {workdir}/report.html")


def _predict(
  result: TrainResult, examples: pipeline.Examples, config: ConfigDict, softmax: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns probabilities [N, C], labels [N] or [N, C], and which examples could be read [N]."""
  model, variables = result.model, jax.device_get(result.variables)
  activation = jax.nn.softmax if softmax else jax.nn.sigmoid
  apply = jax.jit(lambda images: activation(model.apply(variables, model.ops.encoding(images))))
  batches = pipeline.eval_batches(
    examples,
    batch_size=min(config.data.eval_batch_size, len(examples)),
    workers=config.data.workers,
  )
  parts = []
  with contextlib.closing(iter(batches)) as iterator:
    for batch in iterator:
      parts.append((np.asarray(apply(batch["image"])), batch["label"], batch["mask"] > 0))
  whole = (np.concatenate(column)[: len(examples)] for column in zip(*parts, strict=True))
  probabilities, labels, readable = whole
  return probabilities, labels, readable


def _by_class(
  probabilities: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
  """Returns, by class, the number of pictures and accuracy or, of several, average precision."""
  found = {}
  for i, name in enumerate(names):
    of_class = labels == i if labels.ndim == 1 else labels[:, i] > 0.5
    row = {"count": int(of_class.sum())}
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


def _choose(
  probabilities: np.ndarray, labels: np.ndarray, readable: np.ndarray
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
  """Returns (picture, class to explain) of wrong and of right predictions.

  The wrong ones are the surest, each with the class that it is most wrong about. The right ones
  are of as many classes as there are.
  """
  classes = probabilities.shape[1]
  truth = np.eye(classes)[labels] if labels.ndim == 1 else labels
  if labels.ndim == 1:
    correct = probabilities.argmax(-1) == labels
    wrong_class = probabilities.argmax(-1)
  else:
    correct = ((probabilities > 0.5) == (truth > 0.5)).all(-1)
    wrong_class = np.abs(probabilities - truth).argmax(-1)
  error = np.abs(probabilities - truth)[np.arange(len(truth)), wrong_class]
  wrong = np.flatnonzero(~correct & readable)
  wrong = wrong[np.argsort(-error[wrong], kind="stable")][:MOST_SHOWN]
  sure = np.where(truth > 0.5, probabilities, -1).argmax(-1)  # Of a picture without labels: 0.
  right = np.flatnonzero(correct & readable & truth.any(-1))
  seen: dict[int, int] = {}
  turn = {}
  for i in right:
    turn[i] = seen[sure[i]] = seen.get(sure[i], 0) + 1
  right = sorted(right, key=lambda i: (turn[i], sure[i]))[:MOST_SHOWN]
  return [(int(i), int(wrong_class[i])) for i in wrong], [(int(i), int(sure[i])) for i in right]


def _entries(
  result: TrainResult,
  examples: pipeline.Examples,
  chosen: list[tuple[int, int]],
  verdict: str,
  probabilities: np.ndarray,
  labels: np.ndarray,
) -> list[render.Entry]:
  if not chosen:
    return []
  images = np.stack([examples[i]["image"] for i, _ in chosen])
  targets = np.array([target for _, target in chosen])
  variables = jax.device_get(result.variables)
  explanation = bcos_jax.explain(result.model, variables, images, targets, batch_size=4)
  entries = []
  for row, (i, _) in enumerate(chosen):
    name = examples.dataset.source[i].get("name", f"example {i}")
    answer = probabilities[i] > 0.5 if labels.ndim > 1 else probabilities[i].argmax()
    true, given = (_names(of, result.labels) for of in (labels[i], answer))
    entries.append(
      render.Entry(
        explanation,
        row,
        result.labels,
        title=f"{verdict}: {given}" + (f"; is {true}" if verdict == "Wrong" else ""),
        note=f"{name}. True: {true}.",
      )
    )
  return entries


def _names(labels: np.ndarray, names: tuple[str, ...]) -> str:
  if np.ndim(labels) == 0:
    return names[int(labels)]
  return ", ".join(names[i] for i in np.flatnonzero(labels)) or "no label"

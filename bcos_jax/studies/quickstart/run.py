"""The quickstart: B-cosification, in closed form and by fine-tuning, and explanation.

Real data (handwritten digits), no download, a few minutes on two CPU cores. Every number in the
table that it prints is measured by the run.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
import time
from typing import Any

from flax import linen as nn
import jax
from ml_collections import ConfigDict
import numpy as np

import bcos_jax

from ... import attribution, metrics, render
from ...inputs import Preprocess, of_pictures
from ...io.bundles import EXAMPLES, check_writable
from ...ops import BcosOps
from ...train.config import load_config
from ...train.data import open_dataset, pipeline
from ...train.evaluation.evaluate import evaluate
from ...train.loop import TrainResult, train
from .findings import QuickstartFindings

Say = Callable[[str], None]
_FIGURE_IMAGES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
  """How long a quickstart takes.

  Attributes:
    pretrain: Steps of the conventional network.
    finetune: Steps of the B-cosified network and of the one from scratch.
    eval_every: Steps between evaluations.
    grids: Most grids of the pointing game.
    pictures: Training digits, without their labels, for the closed form.
  """

  pretrain: int = 300
  finetune: int = 120
  eval_every: int = 10
  grids: int = 30
  pictures: int = 512


SHORT = Length(pretrain=120, finetune=60, eval_every=20, grids=4, pictures=160)
"""Shows that everything runs; the numbers mean little."""


def quickstart(
  workdir: str | os.PathLike = "runs/quickstart",
  *,
  length: Length | None = None,
  seed: int = 0,
  progress: bool = True,
  say: Say = print,
) -> QuickstartFindings:
  """Trains, B-cosifies, fine-tunes, explains and compares on the digits.

  Args:
    workdir: For the three networks (bundles), figure.png, report.html, findings.json and the runs'
      metrics.
    length: How long; None takes the full length.
    seed: Of everything.
    progress: Whether to show progress bars.
    say: Function that prints one line of output.

  Returns:
    The findings that the printed table shows.

  Raises:
    InputError: The folder cannot be written.
  """
  began = time.monotonic()
  length = length or Length()
  workdir = check_writable(workdir)
  run = _Run(workdir, length, seed, progress)

  say("1/6  Training a conventional ResNet-8 on handwritten digits")
  conventional = run.train("conventional", length.pretrain)
  images, labels = _test_digits(conventional)

  say("2/6  B-cosifying it: same weights, B=2, no biases")
  twin = conventional.model, conventional.variables
  equivalence = _difference_at_b1(*twin, images)
  bcos = bcos_jax.bcosify(*twin, ops=BcosOps(b=2.0))
  at_start = evaluate(*bcos, _examples(conventional))["accuracy"]

  say("3/6  B-cosifying it in closed form: from unlabelled digits, without training")
  closed = _in_closed_form(conventional, length.pictures)

  say("4/6  Fine-tuning the B-cos network")
  tuned = run.train("bcosify", length.finetune, init=bcos)

  say("5/6  Training the same B-cos network from scratch")
  scratch = run.train("scratch", length.finetune)

  say("6/6  Explaining")
  explanation: Any = bcos_jax.explain(tuned.model, tuned.variables, images, batch_size=100)
  names = ("conventional", "closed_form", "bcosified", "scratch")
  trained: _Networks = dict(zip(names, (conventional, closed, tuned, scratch), strict=True))
  pointing = _pointing(trained, explanation.logits, images, labels, length.grids)
  findings = _findings(trained, tuned, explanation, pointing, at_start, equivalence, length, began)
  _draw(workdir, findings, conventional, tuned, explanation, labels)
  _write(workdir, findings, trained)
  for name in trained:
    _add_examples(workdir / name, images, labels)
  _conclude(findings, workdir, say)
  return findings


def _findings(
  trained: _Networks,
  tuned: TrainResult,
  explanation: bcos_jax.Explanation,
  pointing: tuple[dict[str, float], int],
  at_start: float,
  equivalence: float,
  length: Length,
  began: float,
) -> QuickstartFindings:
  accuracy = {name: result.metrics["accuracy"] for name, result in trained.items()}
  return QuickstartFindings(
    accuracy={**accuracy, "bcosified_at_start": at_start},
    equivalence=equivalence,
    steps=length.finetune,
    steps_to_scratch=_steps_to(tuned, accuracy["scratch"]),
    pictures=length.pictures,
    pointing=pointing[0],
    pointing_grids=pointing[1],
    completeness=float(np.max(explanation.completeness_error)),
    seconds=time.monotonic() - began,
  )


def _write(workdir: pathlib.Path, findings: QuickstartFindings, trained: _Networks) -> None:
  """Writes the networks as bundles, and the findings as numbers."""
  for name, result in trained.items():
    _save(workdir / name, name, result)
  report = dataclasses.asdict(findings)
  (workdir / "findings.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class _Calibrated:
  """A network that no run has trained; fields as those of a `TrainResult`, and how it was made."""

  model: nn.Module
  variables: Any
  metrics: dict[str, float]
  labels: tuple[str, ...]
  preprocess: Preprocess | None
  origin: dict[str, Any]


_Networks = dict[str, TrainResult | _Calibrated]


@dataclasses.dataclass(frozen=True)
class _Run:
  """Trains variants of the digits recipe, each in a fresh folder."""

  workdir: pathlib.Path
  length: Length
  seed: int
  progress: bool

  def train(self, variant: str, steps: int, init: Any = None) -> TrainResult:
    config = _recipe(variant, steps, min(self.length.eval_every, steps), self.seed)
    # A quickstart measures from the first step on, so it never resumes an older run.
    folder = self.workdir / "runs" / f"{variant}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    return train(config, workdir=folder, init=init, progress=self.progress)


def _recipe(variant: str, steps: int, eval_every: int, seed: int) -> ConfigDict:
  return load_config(
    f"digits:{variant}",
    [
      f"--config.steps={steps}",
      f"--config.eval_every={eval_every}",
      f"--config.seed={seed}",
      "--config.init=",
    ],
  )


def _examples(result: TrainResult) -> pipeline.Examples:
  return pipeline.Examples(
    open_dataset("digits", "test"), of_pictures(result.preprocess), keep=True
  )


def _test_digits(result: TrainResult) -> tuple[np.ndarray, np.ndarray]:
  return pipeline.to_arrays(_examples(result))


def _in_closed_form(conventional: TrainResult, count: int) -> _Calibrated:
  """Returns the network's B-cos twin in closed form, from training digits without labels."""
  digits = pipeline.Examples(
    open_dataset("digits", "train"), of_pictures(conventional.preprocess), keep=True
  )
  images = pipeline.to_arrays(digits)[0]
  images = images[np.random.default_rng(0).permutation(len(images))[:count]]
  model, variables = bcos_jax.bcosify(
    conventional.model, conventional.variables, ops=BcosOps(b=2.0), calibrate=images
  )
  measured = evaluate(model, variables, _examples(conventional))
  origin = {
    "bcosified": {"from": {"made by": "bcos-jax quickstart", "network": "conventional"}},
    "calibrated": {"inputs": "pictures", "count": len(images)},
  }
  return _Calibrated(
    model, variables, measured, conventional.labels, conventional.preprocess, origin
  )


def _difference_at_b1(model: nn.Module, variables: Any, images: np.ndarray) -> float:
  twin, twin_variables = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent())
  with jax.default_matmul_precision("highest"):
    before, after = (
      jax.jit(net.apply)(v, net.ops.encoding(images))
      for net, v in ((model, variables), (twin, twin_variables))
    )
  return float(np.abs(before - after).max() / np.abs(before).max())


def _steps_to(result: TrainResult, accuracy: float) -> int | None:
  return next((int(row["step"]) for row in result.history if row["accuracy"] >= accuracy), None)


def _pointing(
  trained: _Networks,
  logits: np.ndarray,
  images: np.ndarray,
  labels: np.ndarray,
  num_grids: int,
) -> tuple[dict[str, float], int]:
  """Plays with all explanations on the same grids, those of the fine-tuned network's confidence."""
  tuned, closed = trained["bcosified"], trained["closed_form"]
  played = {
    name: metrics.grid_pointing_game(
      attribute,
      logits,
      images,
      labels,
      grid=2,
      num_grids=num_grids,
      smooth=5,
      batch_size=10,
    )
    for name, attribute in (
      ("bcos", metrics.attribute_with(tuned.model, tuned.variables)),
      ("closed_form", metrics.attribute_with(closed.model, closed.variables)),
      ("input_x_gradient", _input_x_gradient(trained["conventional"])),
    )
  }
  scores = {name: result.mean for name, result in played.items()}
  bcos = played["bcos"]
  return {**scores, "random": bcos.random, "uniform": bcos.uniform}, bcos.num_grids


def _input_x_gradient(result: TrainResult | _Calibrated) -> Callable[..., np.ndarray]:
  return attribution.attribute_with("input_x_gradient", result.model, result.variables)


def _save(folder: pathlib.Path, name: str, result: TrainResult | _Calibrated):
  bcos_jax.save(
    folder,
    result.model,
    result.variables,
    preprocess=result.preprocess,
    labels=result.labels,
    provenance={
      "made by": "bcos-jax quickstart",
      "network": name,
      "metrics": result.metrics,
      **(result.origin if isinstance(result, _Calibrated) else {}),
    },
  )


def _add_examples(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray):
  """Puts a digit of some classes into a bundle, for the app to begin with."""
  from PIL import Image

  (folder / EXAMPLES).mkdir(exist_ok=True)
  for digit in (0, 7, 4, 3, 5, 8):
    image = images[int(np.flatnonzero(labels == digit)[0])]
    pixels = np.round(255 * image).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.save(folder / EXAMPLES / f"digit {digit}.png")


def _draw(
  workdir: pathlib.Path,
  findings: QuickstartFindings,
  conventional: TrainResult,
  tuned: TrainResult,
  explanation: bcos_jax.Explanation,
  labels: np.ndarray,
):
  """Draws one digit of several classes, and the report."""
  rows = [int(np.flatnonzero(labels == digit)[0]) for digit in (0, 7, 4, 3, 5, 8)]
  ex = jax.tree.map(lambda leaf: leaf[np.array(rows)], explanation)
  baseline = _input_x_gradient(conventional)(ex.images, ex.target)
  # Pictures of 24 pixels: the published window of 15 is for 224.
  options = render.Options(smooth=3)
  render.figures(
    ex,
    range(_FIGURE_IMAGES),
    tuned.labels,
    workdir / "figure.png",
    baselines={"input x gradient,\nconventional network": baseline},
    options=options,
  )
  entries = [
    render.Entry(ex, i, tuned.labels, note=f"True class: {tuned.labels[labels[row]]}.")
    for i, row in enumerate(rows)
  ]
  render.report(
    workdir / "report.html",
    "B-cosified digits",
    entries,
    summary=findings.table(),
    intro="A conventional network was B-cosified and fine-tuned briefly. Below, what its "
    "explanations are worth, and what it saw in some digits of the test set.",
    options=options,
  )


def _conclude(findings: QuickstartFindings, workdir: pathlib.Path, say: Say):
  rows = findings.table()
  width = max(len(name) for name, _ in rows)
  say("")
  for name, value in rows[1:]:
    say(f"  {name:<{width}}  {value}")
  say(f"""
Saved in {workdir}:
  figure.png                        digits, explanations, contributions
  report.html                       the same and more, opens in a browser
  findings.json                     the numbers above
  conventional, closed_form, bcosified, scratch
                                    the networks; explain a picture of yours with
      bcos-jax explain {workdir / "bcosified"} PICTURE""")

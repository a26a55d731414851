"""Selection of the predictions that a report explains: some wrong, some right."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np

import bcos_jax
from bcos_jax import render

from ..data import pipeline

MOST_SHOWN = 6
"""Pictures in a report that are predicted right, and as many that are not."""


class Choice(NamedTuple):
  """A prediction to explain.

  Attributes:
    picture: Its place in the data set.
    target: The class to explain.
    rival: The class to contrast it with, the true one of a wrong prediction; None for none.
  """

  picture: int
  target: int
  rival: int | None = None


Chosen = list[Choice]


class Predictor(Protocol):
  """A trained network: a `Bundle` or a `TrainResult`."""

  @property
  def model(self) -> nn.Module: ...
  @property
  def variables(self) -> Any: ...
  @property
  def labels(self) -> tuple[str, ...]: ...


class Predicted(NamedTuple):
  """Predictions of a network for the N examples of a data set.

  Attributes:
    probabilities: [N, C].
    labels: int [N], or [N, C] where a picture may have several.
    readable: bool [N], which examples could be read.
  """

  probabilities: np.ndarray
  labels: np.ndarray
  readable: np.ndarray


def predict(
  network: Predictor,
  examples: pipeline.Examples,
  *,
  softmax: bool,
  batch_size: int,
  workers: int = 0,
) -> Predicted:
  """Predicts all examples; `softmax` over the classes, else a sigmoid for each."""
  model, variables = network.model, jax.device_get(network.variables)
  activation = jax.nn.softmax if softmax else jax.nn.sigmoid

  @jax.jit
  def apply(images):
    logits: Any = model.apply(variables, model.ops.encoding(images))
    return activation(logits)

  batches = pipeline.eval_batches(
    examples, batch_size=pipeline.batch_of(examples, model, batch_size), workers=workers
  )
  parts = []
  with contextlib.closing(iter(batches)) as iterator:
    for batch in iterator:
      parts.append((np.asarray(apply(batch["image"])), batch["label"], batch["mask"] > 0))
  return Predicted(
    *(np.concatenate(column)[: len(examples)] for column in zip(*parts, strict=True))
  )


def choose(predicted: Predicted) -> tuple[Chosen, Chosen]:
  """Returns wrong and right predictions to explain.

  The wrong ones are the most confident, each with its highest-scoring wrong class and the true
  class that it should have been. The right ones are of as many classes as there are.
  """
  probabilities, labels, readable = predicted
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
  return [
    Choice(int(i), int(wrong_class[i]), _rival(probabilities[i], truth[i], wrong_class[i]))
    for i in wrong
  ], [Choice(int(i), int(sure[i])) for i in right]


def _rival(probabilities: np.ndarray, truth: np.ndarray, wrong: int) -> int | None:
  """The class to contrast a wrong one with: the least probable true class, if there is another.

  A true class that was missed is contrasted with the most probable class that is not true.
  """
  others = np.flatnonzero(truth <= 0.5 if truth[wrong] > 0.5 else truth > 0.5)
  if not len(others):
    return None
  best = probabilities[others].argmax() if truth[wrong] > 0.5 else probabilities[others].argmin()
  return int(others[best])


def entries(
  network: Predictor,
  examples: pipeline.Examples,
  predicted: Predicted,
  wrong: Chosen,
  right: Chosen,
) -> list[render.Entry]:
  """Explains the chosen predictions for a report, the wrong ones first."""
  chosen = [*wrong, *right]
  if not chosen:
    return []
  images = np.stack([examples[choice.picture]["image"] for choice in chosen])
  # Where there is no rival, the class stands twice: one compiled function serves all.
  targets = np.array([[c.target, c.target if c.rival is None else c.rival] for c in chosen])
  variables = jax.device_get(network.variables)
  explanation = bcos_jax.explain(network.model, variables, images, targets, batch_size=4)
  found = []
  for row, (i, _, rival) in enumerate(chosen):
    verdict = "Wrong" if row < len(wrong) else "Right"
    name = examples.dataset.source[i].get("name", f"example {i}")
    probabilities, labels = predicted.probabilities[i], predicted.labels[i]
    answer = probabilities > 0.5 if np.ndim(labels) else probabilities.argmax()
    true, given = (_names(of, examples.dataset.label_names) for of in (labels, answer))
    found.append(
      render.Entry(
        explanation,
        (row, 0),
        network.labels,
        rival=None if rival is None else (row, 1),
        title=f"{verdict}: {given}" + (f"; is {true}" if verdict == "Wrong" else ""),
        note=f"{name}. True: {true}.",
      )
    )
  return found


def _names(labels: np.ndarray, names: tuple[str, ...]) -> str:
  if np.ndim(labels) == 0:
    return names[int(labels)]
  return ", ".join(names[i] for i in np.flatnonzero(labels)) or "no label"

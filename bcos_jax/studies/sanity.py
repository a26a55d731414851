"""Sanity checks of explanations: a randomisation study (arXiv 1810.03292, 1912.09818)."""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
import numpy as np

from .. import attribution, metrics, render
from ..errors import InputError
from ..train.loop import TrainResult
from .lab import Lab, StudyPictures
from .study import Findings
from .tables import Table

OWN = "B-cos"
_METHODS = ("input_x_gradient", "guided_backprop")
_SHUFFLED = "--config.data.label_noise=1.0"

# A function of variables that makes an explainer.
ExplainerOf = Callable[..., Callable]


def study(lab: Lab) -> Findings:
  """Randomises parameters, labels and classes; B-cos and other methods on the same network."""
  tuned, shuffled = lab.bcosified(), lab.bcosified(_SHUFFLED)
  some = lab.pictures.some(lab.setting.num_images)
  layers = metrics.layers_of(tuned.model, some.images)
  makers = {OWN: functools.partial(metrics.attribute_with, tuned.model), **_post_hoc(lab, tuned)}
  cascades, rows = {}, []
  for name, explainer_of in makers.items():
    cascades[name], scores = _checks(tuned, shuffled, explainer_of, some, layers)
    rows += [(name, check, s.mean, s.random, len(s.scores)) for check, s in scores.items()]
    lab.say(f"  {name}: " + ", ".join(f"{row[1]} {row[2]:.2f}" for row in rows[-3:]))
  return Findings(
    title=f"Sanity checks of explanations, {lab.dataset}",
    question="Spearman's rank correlation of an explanation with that after a change: of the "
    "parameters, layer after layer from the logits down, each shuffled (the mean over the stages, "
    "and in the plot each stage); of the training labels, drawn at random (the network was "
    f"fine-tuned on them and has {shuffled.metrics['accuracy']:.1%} on the test set); of the "
    "explained class. All on the B-cosified network "
    f"({tuned.metrics['accuracy']:.1%}), with {len(some.images)} pictures. Low is good; "
    "the similarity with noise is what unrelated maps have.",
    table=Table(
      {"explanation": "", "changed": "", "similarity": ".3f", "with noise": ".3f", "pictures": "d"},
      rows,
    ),
    answer=_answer(rows, cascades[OWN]),
    plots={
      "sanity": (
        "Similarity of explanations while layers are shuffled from the logits down",
        render.curves(
          [
            render.Panel(
              curves={
                name: (range(len(layers) + 1), [1.0, *stages.values()])
                for name, stages in cascades.items()
              },
              x="layers shuffled",
              y="similarity",
              levels={"unrelated maps": 0.0},
            )
          ]
        ),
      )
    },
  )


def _post_hoc(lab: Lab, result: TrainResult) -> dict[str, ExplainerOf]:
  """Returns the methods that apply to the network; says which do not."""
  variables = jax.device_get(result.variables)
  one = lab.pictures.some(1)

  def of(name: str) -> ExplainerOf:
    return lambda variables: attribution.attribute_with(name, result.model, variables)

  found = {}
  for name in _METHODS:
    try:
      of(name)(variables)(one.images, one.labels)
    except InputError as reason:
      lab.say(f"  {name} does not apply: {reason.cause}")
    else:
      found[name.replace("_", " ")] = of(name)
  return found


def _checks(
  tuned: TrainResult,
  shuffled: TrainResult,
  explainer_of: ExplainerOf,
  pictures: StudyPictures,
  layers: tuple[str, ...],
) -> tuple[dict[str, float], dict[str, metrics.Scores]]:
  """Returns the similarity at every stage of the cascade, and the scores by what was changed."""
  variables, other = (jax.device_get(result.variables) for result in (tuned, shuffled))
  images, labels = pictures.images, pictures.labels
  cascade = metrics.parameter_randomization(
    explainer_of, variables, images, labels, layers, batch_size=50
  )
  explainer = explainer_of(variables)
  return cascade.by_layer(), {
    "parameters": cascade,
    "labels": metrics.label_randomization(
      explainer, explainer_of(other), images, labels, batch_size=50
    ),
    "class": metrics.class_randomization(
      explainer, images, labels, len(pictures.names), batch_size=50
    ),
  }


def _answer(rows: list[tuple], cascade: dict[str, float]) -> tuple[str, ...]:
  own = {check: similarity for name, check, similarity, *_ in rows if name == OWN}
  first, last = next(iter(cascade.values())), list(cascade.values())[-1]
  return (
    f"B-cos: the similarity is {first:.2f} with the last layer shuffled and {last:.2f} with all, "
    f"{own['labels']:.2f} with a network trained on random labels, and {own['class']:.2f} with "
    f"another class; the largest of the three means is {max(own.values(), key=np.abs):.2f}.",
  )

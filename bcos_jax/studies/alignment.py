"""Label-free alignment: a study of B-cos students against their teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .. import metrics, render
from ..inputs import of_pictures
from ..train.loop import TrainResult
from ..train.objectives.alignment import Alignment
from ..train.probes import knn, probe
from ..train.start import Network, without_head
from . import frozen
from .frozen import Worth
from .lab import Lab, StudyPictures
from .study import Findings
from .tables import Table

STEPS, SHORT_STEPS = 600, 6
TEACHER, BEGUN, STUDENT = "teacher", "student, before", "student, aligned"
_DRAWN = 3


def study(lab: Lab) -> Findings:
  """Aligns the B-cos twin of a conventional network, and compares features and explanations."""
  frozen.check(lab, "shape_scenes", "fashion_mnist")
  before = lab.conventional()
  bundle = lab.bundle("conventional", before)
  steps = SHORT_STEPS if lab.short else STEPS
  begun, result = lab.taught("aligned", f"{lab.dataset}:align", steps, bundle)
  networks = {
    TEACHER: without_head(before.model, jax.device_get(before.variables)),
    BEGUN: begun,
    STUDENT: (result.model, jax.device_get(result.variables)),
  }
  read = of_pictures(before.preprocess)
  worth = frozen.worth(lab, networks, read)
  pictures = lab.pictures_of(read).some(lab.setting.num_images)
  maps = _maps(lab, networks, worth, pictures)
  scores = {name: frozen.localised(lab, found, pictures) for name, found in maps.items()}
  return Findings(
    title=f"Alignment without labels, {lab.dataset}",
    question=_question(lab, before, result, steps),
    table=_table(worth, scores),
    answer=_answer(worth, scores),
    plots=_plots(pictures, maps, scores),
  )


def _question(lab: Lab, before: TrainResult, result: TrainResult, steps: int) -> str:
  assert isinstance(result.objective, Alignment), "of the recipe"
  depths = ", ".join(map(str, result.objective.depths))
  return (
    f"The teacher is a conventional network that was trained for {lab.setting.pretrain} steps with "
    f"labels ({before.metrics['accuracy']:.1%} by its own head). Its B-cos twin (B=2, no biases) "
    f"learns for {steps} steps without any label: cosines of the features at all positions behind "
    f"the blocks {depths}, and of the pooled features. Probes are trained on frozen features, in "
    "the form of the network's own head; 20 nearest neighbours; how often the neighbours of both "
    "say the same. Energy pointing game: the probe's explanations of the labelled class in "
    f"{lab.setting.num_images} pictures, {lab.places}, maps averaged over "
    f"{lab.setting.smooth}x{lab.setting.smooth} pixels. The B-cos networks explain themselves, the "
    "teacher is explained by post-hoc methods."
  )


def _maps(
  lab: Lab, networks: dict[str, Network], worth: dict[str, Worth], pictures: StudyPictures
) -> dict[str, np.ndarray]:
  """Returns maps [N, H, W] of the labelled classes, by network or by method on the teacher."""
  joined = {name: probe.join(*networks[name], worth[name].probe) for name in networks}
  own = {name: _explained(joined[name], pictures) for name in (BEGUN, STUDENT)}
  return {**own, **frozen.post_hoc(lab, *joined[TEACHER], pictures)}


def _explained(network: Network, pictures: StudyPictures) -> np.ndarray:
  return frozen.maps(metrics.attribute_with(*network), pictures)


def _table(worth: dict[str, Worth], scores: Mapping[str, Any]) -> Table:
  rows = []
  for name, found in worth.items():
    own = scores.get(name)
    same = knn.agreement(worth[TEACHER].neighbours, found.neighbours)
    rows.append(
      (
        name,
        "itself" if own else "see below",
        found.probe.accuracy,
        found.neighbours.accuracy,
        same,
        own and own.mean,
        own and own.standard_error,
      )
    )
  for name, score in scores.items():
    if name not in worth:
      rows.append((TEACHER, name, None, None, None, score.mean, score.standard_error))
  rows.append(("–", "random map", None, None, None, scores[STUDENT].random, None))
  columns = {"network": "", "explained by": "", "probe": ".1%", "k-NN": ".1%"}
  columns |= {"k-NN as the teacher": ".1%", "energy pointing": ".3f", "±": ".3f"}
  return Table(columns, rows)


def _answer(worth: dict[str, Worth], scores: Mapping[str, Any]) -> tuple[str, ...]:
  probes = {name: found.probe.accuracy for name, found in worth.items()}
  near = {name: found.neighbours.accuracy for name, found in worth.items()}
  same = {
    name: knn.agreement(worth[TEACHER].neighbours, found.neighbours)
    for name, found in worth.items()
  }
  return (
    f"Probe: the student is {points(probes[STUDENT], probes[TEACHER])} the teacher "
    f"({probes[STUDENT]:.1%} and {probes[TEACHER]:.1%}); before the alignment it had "
    f"{probes[BEGUN]:.1%}.",
    f"Neighbours: the student is {points(near[STUDENT], near[TEACHER])} the teacher, and says the "
    f"same for {same[STUDENT]:.1%} of the pictures; before, for {same[BEGUN]:.1%}.",
    pointing(scores, STUDENT, (BEGUN,)),
  )


def points(own: float, other: float) -> str:
  """States by how many points an accuracy is above or below another."""
  gap = 100 * (own - other)
  return f"{abs(gap):.1f} points {'above' if gap >= 0 else 'below'}"


def pointing(scores: Mapping[str, Any], own: str, others: tuple[str, ...]) -> str:
  """States whether a network's own explanations point better than post-hoc ones of its teacher.

  Args:
    scores: By network or method.
    own: The network.
    others: Of the scores, those that are not of a post-hoc method.
  """
  methods = {n: s.mean for n, s in scores.items() if n not in (own, *others)}
  best = max(methods, key=lambda name: methods[name])
  ahead = scores[own].mean > methods[best]
  return (
    f"Energy pointing: the student's explanations score {scores[own].mean:.3f}, "
    f"{'ahead of' if ahead else 'not ahead of'} the best post-hoc method on the teacher, "
    f"{best} ({methods[best]:.3f}); a random map scores {scores[own].random:.3f}."
  )


def bars(scores: Mapping[str, Any], own: str):
  """Draws energy pointing scores, one bar for each."""
  return render.bars(
    {name: s.mean for name, s in scores.items()},
    errors={name: s.standard_error for name, s in scores.items()},
    marked=[own],
    levels={"random map": scores[own].random},
    x="energy pointing score",
  )


def _plots(pictures: StudyPictures, maps: dict[str, np.ndarray], scores: Mapping[str, Any]):
  drawn = slice(0, _DRAWN)
  names = [pictures.names[label] for label in pictures.labels[drawn]]
  return {
    "alignment-energy": (
      "Energy pointing score of the student, and of post-hoc methods on the teacher",
      bars(scores, STUDENT),
    ),
    "alignment-maps": (
      "Maps of the labelled class: the student before and after, and methods on the teacher",
      render.comparison(
        pictures.images[drawn],
        {name: found[drawn] for name, found in maps.items()},
        names,
        exact=[STUDENT, BEGUN],
      ),
    ),
  }

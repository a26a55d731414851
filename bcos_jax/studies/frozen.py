"""Comparisons of frozen networks' features: probes and nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import numpy as np

from .. import InputError, attribution, metrics
from ..inputs import Preprocess
from ..metrics.scores import maps_of
from ..train.data import open_dataset, pipeline
from ..train.probes import features, knn, probe
from ..train.probes.features import Features
from ..train.start import Network
from .lab import Lab, StudyPictures

METHODS = (
  "input_x_gradient",
  "saliency",
  "integrated_gradients",
  "smooth_grad",
  "guided_backprop",
  "deep_lift",
  "grad_cam",
  "occlusion",
)
"""Post-hoc methods of gradients, and one that masks; the study `methods` has all of them."""

_WINDOW = 32  # Of occlusion, published for pictures of 224 pixels.
_BATCH = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worth:
  """What a network's features are worth.

  Attributes:
    probe: The trained probe; its accuracy is on the test set.
    neighbours: Predictions by the nearest neighbours.
  """

  probe: probe.Probe
  neighbours: knn.Neighbours


def check(lab: Lab, *datasets: str) -> None:
  """Raises InputError unless the data set is one of those that have what the study needs."""
  if lab.dataset not in datasets:
    raise InputError(
      f"The data set {lab.dataset!r} does not tell where objects are, or has no captions, which "
      "this study needs.",
      f"Set --dataset={' or --dataset='.join(datasets)}.",
    )


def worth(lab: Lab, networks: Mapping[str, Network], prepare: Preprocess) -> dict[str, Worth]:
  """Trains a probe on each network's features and looks for neighbours among them.

  Args:
    lab: Of the study.
    networks: Networks of features, by name.
    prepare: What all of them read.
  """
  part = "[:240]" if lab.short else ""
  splits = [
    pipeline.Examples(open_dataset(lab.dataset, f"{split}{part}"), prepare, keep=True)
    for split in ("train", "test")
  ]
  found = {}
  for name, (model, variables) in networks.items():
    train, test = (features.extract(model, variables, split) for split in splits)
    found[name] = _worth(model, train, test, lab)
    lab.say(
      f"  {name}: probe {found[name].probe.accuracy:.1%}, "
      f"neighbours {found[name].neighbours.accuracy:.1%}"
    )
  return found


def _worth(model: Any, train: Features, test: Features, lab: Lab) -> Worth:
  options = probe.ProbeOptions(epochs=2 if lab.short else 50, seed=lab.seed)
  return Worth(probe=probe.fit(model, train, test, options), neighbours=knn.classify(train, test))


def post_hoc(
  lab: Lab, model: Any, variables: Any, pictures: StudyPictures
) -> dict[str, np.ndarray]:
  """Returns the maps [N, H, W] of the pictures' classes by every method that applies.

  Args:
    lab: Of the study; says which methods do not apply.
    model: A classifier.
    variables: Its variables.
    pictures: N pictures.
  """
  side, found = pictures.images.shape[1], {}
  length = max(2, round(_WINDOW * side / 224))
  settings = {"occlusion": {"window": length, "stride": length}}
  for name in METHODS[:3] if lab.short else METHODS:
    method = attribution.attribute_with(name, model, variables, **settings.get(name, {}))
    try:
      found[name.replace("_", " ")] = maps(method, pictures)
    except InputError as reason:
      lab.say(f"  {name} does not apply: {reason.cause}")
  return found


def maps(explainer: Callable[..., np.ndarray], pictures: StudyPictures) -> np.ndarray:
  """Returns an explainer's maps [N, H, W] of the pictures' classes."""
  return maps_of(explainer, pictures.images, pictures.labels, _BATCH)


def localised(lab: Lab, found: np.ndarray, pictures: StudyPictures) -> metrics.Scores:
  """Plays the energy pointing game with the data set's window."""
  assert pictures.regions is not None, "see `check`"
  return metrics.energy_pointing_game(found, pictures.regions, smooth=lab.setting.smooth)

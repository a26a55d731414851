"""The networks of one seed, and what is measured of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

import bcos_jax

from ... import attribution, metrics
from ...errors import InputError
from ...train.loop import TrainResult
from ..closed_form.networks import by_recipe
from ..lab import Lab

CONVENTIONAL, SCRATCH = "conventional", "from scratch"
PUBLISHED, CLOSED, BOTH = "B-cosified", "in closed form", "closed form, fine-tuned"
METHODS: dict[str, dict[str, int]] = {
  "input_x_gradient": {},
  "integrated_gradients": {"steps": 20},
  "guided_backprop": {},
  "grad_cam": {},
}
"""What the conventional network is explained by, where it applies, and settings."""
EXPLAINED = 50
"""Pictures whose explanations are checked to be complete."""

Maps = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkScores:
  """One network of one seed.

  Attributes:
    accuracy: On all test pictures.
    grids: Mean scores of the grid pointing game by explanation; empty if the network classifies
      too few pictures rightly to play.
    energy: Mean scores of the energy pointing game likewise; empty where the places of objects are
      not known.
    incomplete: Largest completeness error of its explanations, relative.
    history: Steps and accuracy of its training's evaluations.
    explainers: By explanation, images [N, H, W, colors] and classes [N] to maps [N, H, W].
  """

  accuracy: float
  grids: Mapping[str, float]
  energy: Mapping[str, float]
  incomplete: float
  history: tuple[tuple[int, float], ...] = ()
  explainers: Mapping[str, Maps] = dataclasses.field(default_factory=dict)

  @property
  def best_grids(self) -> float | None:
    """The best score of the grid pointing game."""
    return max(self.grids.values(), default=None)

  @property
  def best_energy(self) -> float | None:
    """The best score of the energy pointing game."""
    return max(self.energy.values(), default=None)

  def first_step(self, accuracy: float) -> int | None:
    """Returns the first evaluated step that was so accurate, if there is one."""
    return next((step for step, reached in self.history if reached >= accuracy), None)


def of_seed(lab: Lab) -> dict[str, NetworkScores]:
  """Trains the networks of a seed, or takes them from the lab, and measures them, by name."""
  conventional = lab.conventional()
  closed = by_recipe(lab, conventional)
  runs = {
    PUBLISHED: lab.bcosified(),
    BOTH: lab.trained(
      "bcosified-closed", f"{lab.dataset}:bcosify", lab.setting.finetune, init=closed
    ),
    SCRATCH: lab.scratch(),
  }
  found = {
    CONVENTIONAL: _measured(lab, *_network(conventional), post_hoc=True),
    CLOSED: _measured(lab, *closed),
    **{name: _measured(lab, *_network(run), history=run.history) for name, run in runs.items()},
  }
  for name, one in found.items():
    grids = "" if one.best_grids is None else f", grid pointing {one.best_grids:.3f}"
    lab.say(f"  {name:<24} accuracy {one.accuracy:.1%}{grids}")
  return found


def _network(run: TrainResult) -> tuple[Any, Any]:
  return run.model, jax.device_get(run.variables)


def _measured(
  lab: Lab,
  model: Any,
  variables: Any,
  *,
  history: tuple[Mapping[str, float], ...] = (),
  post_hoc: bool = False,
) -> NetworkScores:
  """Measures a network, by its own explanations or by post-hoc methods."""
  pictures = lab.pictures
  logits = metrics.logits_of(model, variables, pictures.images)
  own = {"own": metrics.attribute_with(model, variables)}
  explainers = _post_hoc(lab, model, variables) if post_hoc else own
  some = pictures.some(EXPLAINED)
  ex = bcos_jax.explain(model, variables, some.images, some.labels, batch_size=EXPLAINED)
  return NetworkScores(
    accuracy=float(np.mean(logits.argmax(-1) == pictures.labels)),
    grids=_grids(lab, model, explainers, logits),
    energy=_energy(lab, explainers),
    incomplete=float(np.max(ex.completeness_error)),
    history=tuple((int(row["step"]), row["accuracy"]) for row in history),
    explainers=explainers,
  )


def _post_hoc(lab: Lab, model: Any, variables: Any) -> dict[str, Maps]:
  """Returns the methods that apply to a network; says which do not."""
  image, label = lab.pictures.images[:1], lab.pictures.labels[:1]
  found = {}
  for name, settings in METHODS.items():
    explainer = attribution.attribute_with(name, model, variables, **settings)
    try:
      explainer(image, label)
    except InputError as reason:
      lab.say(f"  {name} does not apply: {reason.cause}")
    else:
      found[name.replace("_", " ")] = explainer
  return found


def _grids(
  lab: Lab, model: Any, explainers: Mapping[str, Maps], logits: np.ndarray
) -> dict[str, float]:
  found = {}
  for name, explainer in explainers.items():
    try:
      found[name] = lab.play(through_windows(lab, model, explainer), logits).mean
    except InputError as reason:
      lab.say(f"  {name}: no grid pointing game: {reason.cause}")
  return found


def through_windows(lab: Lab, model: Any, explainer: Maps) -> Maps:
  """Returns how grids are explained: by a transformer, as published, through windows."""
  side = lab.pictures.images.shape[1]
  if not has_positions(model, side):
    return explainer
  return metrics.strided(explainer, side, side // 2, color=model.ops.encoding.mean)


def has_positions(model: Any, side: int) -> bool:
  """Whether a network only knows the positions of one picture, so that it cannot read a grid."""
  return model.token_layout((side, side)) is not None


def _energy(lab: Lab, explainers: Mapping[str, Maps]) -> dict[str, float]:
  some = lab.pictures.some(lab.setting.num_images)
  if some.regions is None:
    return {}
  return {
    name: metrics.energy_pointing_game(
      explainer, some.regions, some.images, some.labels, smooth=lab.setting.smooth
    ).mean
    for name, explainer in explainers.items()
  }

"""What B-cosification claims, over several seeds: a study (arXiv 2411.00715, tables 1 to 3).

Accuracy, the steps that a pretrained start saves, and localisation, of one network as a
conventional and as a B-cos network: in closed form, fine-tuned, and from random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import bcos_jax

from .. import attribution, metrics, render
from ..errors import InputError
from ..train.loop import TrainResult
from .closed_form.networks import by_recipe
from .lab import Lab
from .seeds import Mean, curve
from .study import Findings
from .tables import Cell, Table

if TYPE_CHECKING:
  from matplotlib.figure import Figure

CONVENTIONAL, SCRATCH = "conventional", "from scratch"
PUBLISHED, CLOSED, BOTH = "B-cosified", "in closed form", "closed form, fine-tuned"
POST_HOC = ("input_x_gradient", "integrated_gradients", "guided_backprop", "grad_cam")
"""Methods that the conventional network is explained by; those that do not apply are left out."""
_ERRORS = 2
"""How many standard errors a difference has to be from 0 to be told."""
_EXPLAINED, _DRAWN = 50, 4

Maps = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
  """One network of one seed.

  Attributes:
    accuracy: On all test pictures.
    pointing: Mean scores of the grid pointing game by explanation; empty if the network classifies
      too few pictures rightly to play.
    incomplete: Largest completeness error of its explanations, relative.
    history: Steps and accuracy of its training's evaluations.
    maps: What it explains pictures by, for figures: the best in the game.
  """

  accuracy: float
  pointing: Mapping[str, float]
  incomplete: float
  history: tuple[tuple[int, float], ...]
  maps: Maps

  @property
  def best(self) -> float | None:
    """The best score of the grid pointing game."""
    return max(self.pointing.values(), default=None)


def study(*labs: Lab) -> Findings:
  """Measures accuracy, steps and localisation of conventional, B-cosified and B-cos networks.

  Args:
    *labs: One for each seed.
  """
  lab = labs[0]
  seeds = [_of_seed(one) for one in labs]
  first = [_first_steps(found) for found in seeds]
  steps = {CONVENTIONAL: lab.setting.pretrain, CLOSED: 0}
  words = (lab.dataset, lab.network, f"{len(labs)} seeds" if len(labs) > 1 else "")
  return Findings(
    title=f"The claims of B-cosification, {', '.join(filter(None, words))}",
    question=_question(labs),
    table=Table(
      {
        "network": "",
        "steps": "d",
        "accuracy": ".1%",
        "accuracy ±": ".1%",
        "first step at the scratch accuracy": ".0f",
        "grid pointing": ".3f",
        "pointing ±": ".3f",
        "completeness error": ".0e",
      },
      [
        (
          name,
          steps.get(name, lab.setting.finetune),
          *_both(_mean(seeds, name, lambda one: one.accuracy)),
          _both(Mean.of([of[name] for of in first]) if all(of.get(name) for of in first) else None)[
            0
          ],
          *_both(_mean(seeds, name, lambda one: one.best)),
          max(found[name].incomplete for found in seeds),
        )
        for name in seeds[0]
      ],
    ),
    answer=(
      *_accuracies(seeds),
      _speed(labs, first),
      *_localisation(seeds),
      _completeness(seeds),
    ),
    plots={
      "replication": ("Accuracy on the test set while training", _curves(seeds)),
      "replication-maps": ("Test pictures explained, first seed", _maps(lab, seeds[0])),
    },
  )


def _of_seed(lab: Lab) -> dict[str, Measured]:
  conventional = lab.conventional()
  given = conventional.model, jax.device_get(conventional.variables)
  closed = by_recipe(lab, conventional)
  runs = {
    PUBLISHED: lab.bcosified(),
    BOTH: lab.trained(
      "bcosified-closed", f"{lab.dataset}:bcosify", lab.setting.finetune, init=closed
    ),
    SCRATCH: lab.scratch(),
  }
  found = {
    CONVENTIONAL: _measured(lab, *given, post_hoc=POST_HOC),
    CLOSED: _measured(lab, *closed),
    **{
      name: _measured(lab, run.model, jax.device_get(run.variables), run)
      for name, run in runs.items()
    },
  }
  for name, one in found.items():
    lab.say(
      f"  {name:<32} accuracy {one.accuracy:.1%}, grid pointing {one.best or float('nan'):.3f}"
    )
  return found


def _measured(
  lab: Lab, model: Any, variables: Any, run: TrainResult | None = None, post_hoc: Sequence[str] = ()
) -> Measured:
  """Measures a network, by its own explanations or by post-hoc methods."""
  pictures = lab.pictures
  logits = metrics.logits_of(model, variables, pictures.images)
  if post_hoc:
    explainers = {
      name.replace("_", " "): attribution.attribute_with(name, model, variables)
      for name in post_hoc
    }
  else:
    explainers = {"own": metrics.attribute_with(model, variables)}
  some = pictures.some(_EXPLAINED)
  ex = bcos_jax.explain(model, variables, some.images, some.labels, batch_size=_EXPLAINED)
  pointing = _pointing(lab, explainers, logits)
  best = max(pointing, key=lambda name: pointing[name], default=next(iter(explainers)))
  return Measured(
    accuracy=float(np.mean(logits.argmax(-1) == pictures.labels)),
    pointing=pointing,
    incomplete=float(np.max(ex.completeness_error)),
    history=tuple((int(row["step"]), row["accuracy"]) for row in run.history) if run else (),
    maps=explainers[best],
  )


def _pointing(lab: Lab, explainers: Mapping[str, Maps], logits: np.ndarray) -> dict[str, float]:
  found = {}
  for name, explainer in explainers.items():
    try:
      found[name] = lab.play(explainer, logits).mean
    except InputError as reason:
      lab.say(f"  {name}: no grid pointing game: {reason.cause}")
  return found


def _first_steps(found: Mapping[str, Measured]) -> dict[str, int | None]:
  """Returns for each training the first step as accurate as the network from scratch at its end."""
  goal = found[SCRATCH].accuracy
  return {
    name: next((step for step, accuracy in one.history if accuracy >= goal), None)
    for name, one in found.items()
    if one.history
  }


def _mean(
  seeds: Sequence[Mapping[str, Measured]], name: str, of: Callable[[Measured], float | None]
) -> Mean | None:
  values = [value for found in seeds if (value := of(found[name])) is not None]
  return Mean.of(values) if len(values) == len(seeds) else None


def _both(mean: Mean | None) -> tuple[Cell, Cell]:
  return (None, None) if mean is None else (mean.value, mean.error)


def _question(labs: Sequence[Lab]) -> str:
  lab, setting = labs[0], labs[0].setting
  return (
    f"{len(labs)} conventional network{'s are' if len(labs) > 1 else ' is'} trained for "
    f"{setting.pretrain} steps and B-cosified (B=2, no biases): in closed form, without labels; "
    f"by {setting.finetune} steps of fine-tuning, as published; and by as many from the closed "
    "form. The same B-cos network is trained from random weights for equally long. Each training "
    f"has the recipe of `configs/{lab.dataset}.py`, whose settings were chosen on training "
    "pictures that were held out; test accuracy is evaluated every "
    f"{setting.eval_every} steps. Grid pointing game: {setting.grid}x{setting.grid}, at most "
    f"{setting.num_grids} grids of the test pictures that a network classifies rightly, the "
    f"surest first, maps averaged over {setting.smooth}x{setting.smooth} pixels. B-cos networks "
    "explain themselves; the conventional one is explained by "
    f"{', '.join(name.replace('_', ' ') for name in POST_HOC)}, and the best counts. "
    f"Completeness error: the largest of {_EXPLAINED} pictures, relative."
  )


def _accuracies(seeds: Sequence[Mapping[str, Measured]]) -> list[str]:
  said = []
  for one, other in ((BOTH, SCRATCH), (PUBLISHED, SCRATCH), (BOTH, PUBLISHED)):
    said.append(f"Accuracy, {one}, less {other}: {_compared(seeds, one, other)}.")
  for name in (PUBLISHED, BOTH, CLOSED):
    said.append(f"Accuracy, {name}, less conventional: {_compared(seeds, name, CONVENTIONAL)}.")
  return said


def _compared(seeds: Sequence[Mapping[str, Measured]], one: str, other: str) -> str:
  """Tells a difference of accuracies, paired by seed, in points."""
  points = Mean.of([100 * (found[one].accuracy - found[other].accuracy) for found in seeds])
  return f"{points.written('.1f')} points{_verdict(points)}"


def _verdict(difference: Mean) -> str:
  if difference.error is None:
    return ""
  told = abs(difference.value) > _ERRORS * difference.error
  return "" if told else f", within {_ERRORS} standard errors of none"


def _speed(labs: Sequence[Lab], first: Sequence[Mapping[str, int | None]]) -> str:
  steps = labs[0].setting.finetune
  parts = []
  for name in (PUBLISHED, BOTH):
    reached = [of[name] for of in first]
    ratios = [steps / at for at in reached if at]
    if len(ratios) < len(reached):
      parts.append(f"{name}: not in every seed")
    else:
      parts.append(f"{name}: {Mean.of(ratios).written('.1f')} times")
  return f"Speed-up to the accuracy from scratch after {steps} steps: {'; '.join(parts)}."


def _localisation(seeds: Sequence[Mapping[str, Measured]]) -> list[str]:
  said = []
  for name in (CLOSED, PUBLISHED, BOTH):
    for other in (SCRATCH, CONVENTIONAL):
      pairs = [(found[name].best, found[other].best) for found in seeds]
      differences = [a - b for a, b in pairs if a is not None and b is not None]
      if len(differences) == len(seeds):
        mean = Mean.of(differences)
        against = "the best post-hoc method" if other == CONVENTIONAL else other
        said.append(
          f"Grid pointing, {name}, less {against}: {mean.written('.3f')}{_verdict(mean)}."
        )
  methods = ", ".join(
    f"{name} {Mean.of([found[CONVENTIONAL].pointing[name] for found in seeds]).written('.3f')}"
    for name in seeds[0][CONVENTIONAL].pointing
    if all(name in found[CONVENTIONAL].pointing for found in seeds)
  )
  return [*said, f"Post-hoc methods of the conventional network: {methods}."] if methods else said


def _completeness(seeds: Sequence[Mapping[str, Measured]]) -> str:
  worst = max(one.incomplete for found in seeds for one in found.values())
  return f"Every explanation is complete: the largest error, relative, is {worst:.0e}."


def _curves(seeds: Sequence[Mapping[str, Measured]]) -> Figure:
  lines = {
    name: curve(
      (at[0][0], Mean.of([accuracy for _, accuracy in at]))
      for at in zip(*(found[name].history for found in seeds), strict=True)
    )
    for name in (BOTH, PUBLISHED, SCRATCH)
  }
  levels = {
    name: float(np.mean([found[name].accuracy for found in seeds]))
    for name in (CONVENTIONAL, CLOSED)
  }
  return render.curves(
    [render.Panel(curves=lines, x="steps", y="accuracy", percent=True, levels=levels)]
  )


def _maps(lab: Lab, found: Mapping[str, Measured]) -> Figure:
  """Draws a few pictures, and the map of the labelled class by each network."""
  some = lab.pictures.some(_DRAWN)
  scores = found[CONVENTIONAL].pointing
  named = max(scores, key=lambda name: scores[name], default="post hoc")
  return render.comparison(
    some.images,
    {
      f"conventional, {named}" if name == CONVENTIONAL else name: one.maps(some.images, some.labels)
      for name, one in found.items()
    },
    [some.names[label] for label in some.labels],
    columns=len(found) + 1,
    exact=[name for name in found if name != CONVENTIONAL],
  )

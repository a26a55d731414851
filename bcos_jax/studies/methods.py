"""B-cos explanations against post-hoc methods: a study of localisation."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import numpy as np

from .. import InputError, attribution, metrics, render
from ..batches import in_batches
from ..train.loop import TrainResult
from .lab import Lab, standard_error
from .study import Findings
from .tables import Table

OWN = "B-cos (B-cosified network)"
_DRAWN = 2
_MOST_GRIDS = 12  # Methods that mask pictures take a minute for a few grids.
# Lengths that are published for pictures of 224 pixels.
_LENGTHS = {
  "occlusion": {"window": 32, "stride": 32},
  "lime": {"segments": 16},
  "kernel_shap": {"segments": 16},
}
_DELETED = ("input_x_gradient", "integrated_gradients", "grad_cam")


@dataclasses.dataclass(frozen=True)
class _Scored:
  pointing: metrics.GridPointingResult
  energy: metrics.Scores | None
  maps: np.ndarray


def study(lab: Lab) -> Findings:
  """Compares a B-cosified network's explanations with all methods on the conventional network."""
  tuned, before = lab.bcosified(), lab.conventional()
  explainers = {OWN: (tuned, _own(tuned)), **_post_hoc(lab, before)}
  logits = {id(r): lab.logits(r) for r in (tuned, before)}
  scored = {}
  for name, (result, explainer) in explainers.items():
    scored[name] = _score(lab, explainer, logits[id(result)])
    lab.say(f"  {name:<28} grid pointing {scored[name].pointing.mean:.3f}")
  setting = lab.setting
  return Findings(
    title=f"Explanations of a B-cosified network and post-hoc methods, {lab.dataset}",
    question="A conventional network "
    f"({before.metrics['accuracy']:.1%}) is explained by every post-hoc method that applies to "
    "it, with its default settings, lengths scaled to the picture, and the B-cosified network "
    f"({tuned.metrics['accuracy']:.1%}) by itself. Grid pointing game: "
    f"{setting.grid}x{setting.grid}, at most {_most_grids(lab)} grids, each network on the "
    "pictures that it classifies rightly, the surest first. Energy pointing game: "
    f"{setting.num_images} pictures, {lab.places}. Maps are averaged over "
    f"{setting.smooth}x{setting.smooth} pixels in both.",
    table=_table(scored),
    answer=_answer(scored),
    plots={
      **_bars(scored, lab),
      "methods-maps": ("Maps of the labelled class by every method", _maps(lab, scored)),
      "deletion": (
        "Probability of the labelled class while the most important blocks are deleted, "
        "B-cosified network",
        _deletion(lab, tuned),
      ),
    },
  )


def _own(result: TrainResult) -> Callable:
  return metrics.attribute_with(result.model, jax.device_get(result.variables))


def _post_hoc(lab: Lab, result: TrainResult) -> dict[str, tuple[TrainResult, Callable]]:
  """Every method that applies to the network; prints which do not."""
  variables = jax.device_get(result.variables)
  image, label = lab.pictures.images[:1], lab.pictures.labels[:1]
  found = {}
  for name in attribution.names():
    explainer = _scaled(name, result.model, variables)
    try:
      explainer(image, label)
    except InputError as reason:
      lab.say(f"  {name} does not apply: {reason.cause}")
      continue
    found[name.replace("_", " ")] = (result, explainer)
  return found


def _scaled(name: str, model, variables) -> Callable:
  """A method whose lengths follow the size of the pictures."""

  def explain(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    share = images.shape[1] / 224
    settings = {key: max(2, round(n * share)) for key, n in _LENGTHS.get(name, {}).items()}
    return attribution.attribute_with(name, model, variables, **settings)(images, targets)

  return explain


def _most_grids(lab: Lab) -> int:
  return min(_MOST_GRIDS, lab.setting.num_grids)


def _score(lab: Lab, explainer: Callable, logits: np.ndarray) -> _Scored:
  some = lab.pictures.some(lab.setting.num_images)
  pointing = lab.play(explainer, logits, num_grids=_most_grids(lab))
  rows = some.images, some.labels
  maps = in_batches(lambda batch: explainer(*batch), rows, 50, precision=None)
  energy = None
  if some.regions is not None:
    energy = metrics.energy_pointing_game(maps, some.regions, smooth=lab.setting.smooth)
  return _Scored(pointing, energy, maps)


def _table(scored: dict[str, _Scored]) -> Table:
  own = scored[OWN]
  rows: list[tuple[str | float | None, ...]] = [
    (
      name,
      s.pointing.mean,
      standard_error(s.pointing),
      s.pointing.num_grids,
      s.energy and s.energy.mean,
      s.energy and s.energy.standard_error,
    )
    for name, s in scored.items()
  ]
  for name, kind in (("random map", "random"), ("oracle", "oracle")):
    energy = own.energy and getattr(own.energy, kind)
    rows.append((name, getattr(own.pointing, kind), None, own.pointing.num_grids, energy, None))
  columns = ("explanation", "grid pointing", "±", "grids", "energy pointing", "± energy")
  return Table(dict(zip(columns, ("", ".3f", ".3f", "d", ".3f", ".3f"), strict=True)), rows)


def _answer(scored: dict[str, _Scored]) -> tuple[str, ...]:
  """States for each game which methods are not beaten."""
  games = {"Grid pointing": {n: s.pointing.mean for n, s in scored.items()}}
  energies = {n: s.energy.mean for n, s in scored.items() if s.energy is not None}
  if energies:
    games["Energy pointing"] = energies
  lines = []
  for game, scores in games.items():
    own = scores.pop(OWN)
    ahead = {name: score for name, score in scores.items() if score >= own}
    best = max(scores, key=lambda name: scores[name])
    said = (
      "behind " + ", ".join(f"{name} ({score:.3f})" for name, score in ahead.items())
      if ahead
      else f"ahead of every post-hoc method, the best of which is {best} ({scores[best]:.3f})"
    )
    lines.append(f"{game}: B-cos scores {own:.3f}, {said}.")
  return tuple(lines)


def _bars(scored: dict[str, _Scored], lab: Lab):
  own = scored[OWN]
  plots = {
    "methods-grid": (
      "Grid pointing score by method",
      render.bars(
        {name: s.pointing.mean for name, s in scored.items()},
        errors={name: standard_error(s.pointing) for name, s in scored.items()},
        marked=[OWN],
        levels={"uniform map": own.pointing.uniform},
        x=f"grid pointing score, {lab.setting.grid}x{lab.setting.grid}",
      ),
    )
  }
  energies = {name: s.energy for name, s in scored.items() if s.energy is not None}
  if own.energy is not None:
    plots["methods-energy"] = (
      "Energy pointing score by method",
      render.bars(
        {name: energy.mean for name, energy in energies.items()},
        errors={name: energy.standard_error for name, energy in energies.items()},
        marked=[OWN],
        levels={"random map": own.energy.random},
        x="energy pointing score",
      ),
    )
  return plots


def _maps(lab: Lab, scored: dict[str, _Scored]):
  some = lab.pictures.some(lab.setting.num_images)
  rows = range(min(_DRAWN, len(some.images)))
  return render.comparison(
    some.images[rows.start : rows.stop],
    {("B-cos" if n == OWN else n): s.maps[rows.start : rows.stop] for n, s in scored.items()},
    [some.names[some.labels[i]] for i in rows],
    exact=["B-cos"],
  )


def _deletion(lab: Lab, result: TrainResult):
  """Deletes by the network's own explanation, by other methods, at random, and by the oracle."""
  some = lab.pictures.some(lab.setting.num_images // 2)
  variables = jax.device_get(result.variables)
  how = metrics.Perturbation(block=max(2, some.images.shape[1] // 14), output="sigmoid")
  network = (result.model, variables, some.images, some.labels)
  own = metrics.deletion(*network, _own(result), how)
  curves = {"B-cos": own.curves, "random": own.random_curves, "oracle": own.oracle_curves}
  no_oracle = dataclasses.replace(how, oracle=False)
  for name in _DELETED:
    method = attribution.attribute_with(name, result.model, variables)
    curves[name.replace("_", " ")] = metrics.deletion(*network, method, no_oracle).curves
  return render.curves(
    [
      render.Panel(
        curves={name: (own.fractions, curve.mean(axis=0)) for name, curve in curves.items()},
        x="share of the picture deleted",
        y="probability of the labelled class",
        percent=True,
      )
    ]
  )

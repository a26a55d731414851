"""The benchmarks of `metrics.suite`, all of them, on a network and its data.

Pictures are read once, the maps of every method on them are made once, and all scores share them.
Two benchmarks measure tuned copies of the network, and two grids of pictures, with maps of their
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import numpy as np

from bcos_jax import attribution, metrics
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.io.bundles import Bundle
from bcos_jax.metrics import suite
from bcos_jax.metrics.grids import select
from bcos_jax.metrics.perturbation import Perturbation

from ..data import part_scenes, pipeline
from ..data.archives import funny_birds
from .explainers import METHODS, OWN, explainer_of

Summary = dict[str, float]
Section = Callable[["Measured"], dict[str, dict[str, Summary]]]
"""From what is measured to the summary of each score of each method."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteChoices:
  """What is measured, and how; part of a result, which is recomputed by them.

  Attributes:
    scores: Names of `SECTIONS`; () for all that apply.
    methods: "own", the network's own explanations, and names of `attribution`.
    num_images: Most pictures to explain, all classified rightly.
    num_slow: Most of them for what takes long for each: tuned networks, ROAD.
    num_tuning: Most other pictures, to tune on.
    num_grids: Grids of DiFull and DiPart, and of the grid pointing game.
    steps: Of tuning to deleted cells; teaching the trigger takes 2.5 times as many.
    batch_size: Pictures at a time.
    seed: Of everything random.
    parts: Folder or archive of FunnyBirds, for networks of its classes; "" for none.
  """

  scores: tuple[str, ...] = ()
  methods: tuple[str, ...] = METHODS
  num_images: int = 200
  num_slow: int = 250
  num_tuning: int = 1000
  num_grids: int = 32
  steps: int = 60
  batch_size: int = 64
  seed: int = 0
  parts: str = ""

  def __post_init__(self):
    for name in self.scores:
      if name not in SECTIONS:
        raise unknown_name("score", name, SECTIONS)
    for name in self.methods:
      if name != OWN and name not in attribution.METHODS:
        raise unknown_name("method", name, (OWN, *attribution.METHODS))
    for field in ("num_images", "num_slow", "num_tuning", "num_grids", "steps", "batch_size"):
      if getattr(self, field) < 1:
        value = getattr(self, field)
        raise InputError(f"{field}={value}, expected at least 1.", f"Raise {field}.")

  def short(self) -> SuiteChoices:
    """Returns choices for a smoke test of a minute or two."""
    return dataclasses.replace(
      self, num_images=16, num_slow=16, num_tuning=64, num_grids=4, steps=40, batch_size=16
    )


@dataclasses.dataclass(frozen=True)
class Measured:
  """A network, the pictures that are explained, and others to tune on.

  Attributes:
    bundle: The network.
    choices: What is measured.
    images: [N, H, W, colors] in [0, 1], all classified rightly.
    labels: int [N].
    others: [M, H, W, colors], to tune on.
    other_labels: int [M].
    data: Name of the data set.
    skipped: What is left out, and why; sections add to it.
  """

  bundle: Bundle
  choices: SuiteChoices
  images: np.ndarray
  labels: np.ndarray
  others: np.ndarray
  other_labels: np.ndarray
  data: str
  skipped: dict[str, str] = dataclasses.field(default_factory=dict)

  @property
  def network(self) -> tuple[nn.Module, Mapping[str, Any]]:
    return self.bundle.model, self.bundle.variables

  @property
  def few(self) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels for what takes long."""
    return self.images[: self.choices.num_slow], self.labels[: self.choices.num_slow]

  @functools.cached_property
  def maps(self) -> dict[str, np.ndarray]:
    """The maps of every method that applies, of all pictures."""
    return self.maps_of(self.bundle.variables, self.images, self.labels)

  def explainers(self) -> dict[str, Callable]:
    """Returns what makes an explainer of a network, by method; lengths follow the pictures."""
    return {name: functools.partial(explainer_of, name) for name in self.choices.methods}

  def maps_of(
    self, variables: Mapping[str, Any], images: np.ndarray, labels: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the maps of every method that applies, for other variables or pictures."""

    def made(make: Callable) -> np.ndarray:
      explainer = make(self.bundle.model, variables)
      return metrics.scores.maps_of(explainer, images, labels, self.choices.batch_size)

    return dict(self.each(made))

  def each(self, made: Callable[[Callable], Any], *, score: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each method's name and what is made of its explainer, if the method applies."""
    for name, make in self.explainers().items():
      try:
        yield name, made(make)
      except InputError as reason:
        self.skipped[f"{score}: {name}" if score else name] = reason.cause


def read(bundle: Bundle, examples: pipeline.Examples, choices: SuiteChoices) -> Measured:
  """Reads the pictures that a suite is measured on, and those that it tunes on.

  Pictures are taken evenly from the data set, every other one for tuning where there are too few.

  Raises:
    InputError: Several labels per picture, or too few that the network classifies rightly.
  """
  if examples.dataset.multi_label:
    raise InputError(
      f"Pictures of {examples.dataset.name} may have several labels, expected one each.",
      "Use a data set with one label per picture.",
    )
  wanted = min(choices.num_images + choices.num_tuning, len(examples))
  rows = np.unique(np.linspace(0, len(examples) - 1, wanted).astype(int))
  measured = max(1, min(choices.num_images, len(rows) // 2))
  first = np.zeros(len(rows), bool)
  first[np.unique(np.linspace(0, len(rows) - 1, measured).astype(int))] = True
  chosen = [examples[i] for i in rows.tolist()]
  images, labels = (np.stack([one[key] for one in chosen]) for key in ("image", "label"))
  logits = metrics.logits_of(bundle.model, bundle.variables, images[first], choices.batch_size)
  right = logits.argmax(axis=1) == labels[first]
  if right.sum() < 8 or (~first).sum() < 8:
    raise InputError(
      f"Of {len(examples)} pictures of {examples.dataset.name}, {measured} were to be explained "
      f"and {int((~first).sum())} to tune on; {int(right.sum())} are classified rightly. Both need "
      "at least 8.",
      "Use more pictures, or a network that was trained on them.",
    )
  return Measured(
    bundle,
    choices,
    images[first][right],
    labels[first][right],
    images[~first],
    labels[~first],
    examples.dataset.name,
  )


def _faithful(measured: Measured) -> dict[str, dict[str, Summary]]:
  """Scores that removals of parts of the pictures decide."""
  side, seed = min(measured.images.shape[1:3]), measured.choices.seed
  given = (*measured.network, measured.images, measured.labels)
  block = max(1, side // 8)
  logit = Perturbation(
    block=block, output="logit", seed=seed, batch_size=measured.choices.batch_size
  )
  likely = dataclasses.replace(logit, output=measured.bundle.model.ops.probability, confidence=0.0)
  benchmarks = {
    "sensitivity_n": suite.sensitivity_n(*given, logit, samples=8),
    "infidelity": suite.infidelity(*given, logit, samples=32),
    "irof": suite.irof(*given, likely, segments=16, fractions=(0, 0.1, 0.25, 0.5, 1)),
    "complexity": suite.complexity_of(len(measured.images), measured.images.shape[1:3]),
  }
  return {name: _compared(measured, name, one) for name, one in benchmarks.items()}


def _road(measured: Measured) -> dict[str, dict[str, Summary]]:
  images, labels = measured.few
  maps = {name: some[: len(images)] for name, some in measured.maps.items()}
  found = {}
  for order in ("most", "least"):
    one = suite.road(
      *measured.network,
      images,
      labels,
      order=order,
      batch_size=measured.choices.batch_size,
      seed=measured.choices.seed,
    )
    found[f"road_{order}"] = _compared(measured, f"road_{order}", one, maps)
  return found


def _in_domain(measured: Measured) -> dict[str, dict[str, Summary]]:
  """IDSDS, of a copy that is tuned to pictures without a cell."""
  images, labels = measured.few
  model, cells = measured.bundle.model, _cells(images.shape[1])
  how = suite.Tuning(steps=measured.choices.steps, seed=measured.choices.seed, rate=5e-4)
  tuned = suite.tuned(
    *measured.network, measured.others, measured.other_labels, suite.without_cells(cells), how
  )
  benchmark = suite.single_deletion(
    model, tuned, images, labels, cells=cells, batch_size=measured.choices.batch_size
  )
  found = _compared(measured, "idsds", benchmark, measured.maps_of(tuned, images, labels))
  right = metrics.logits_of(model, tuned, images).argmax(axis=1) == labels
  return {"idsds": {name: {**one, "accuracy": float(right.mean())} for name, one in found.items()}}


def _cells(side: int) -> int:
  """Returns the published 4 cells per side, or what comes next to it and divides the side."""
  cells = next((n for n in (4, 5, 3, 6, 7, 2, 8) if side % n == 0 and side > n), 0)
  if not cells:
    raise InputError(
      f"Pictures of {side} pixels cannot be cut into equal cells.",
      "Omit idsds, or use pictures of another size.",
    )
  return cells


def _triggers(measured: Measured) -> dict[str, dict[str, Summary]]:
  images, labels = measured.few
  seed = measured.choices.seed
  how = suite.Tuning(steps=5 * measured.choices.steps // 2, rate=5e-4, seed=seed)
  planted = suite.plant_trigger(
    *measured.network, measured.others, measured.other_labels, images, labels, how=how
  )
  maps = measured.maps_of(planted.variables, planted.images, planted.targets)
  clean = metrics.logits_of(measured.bundle.model, planted.variables, images).argmax(axis=1)
  states = {"success": planted.success, "accuracy": float((clean == labels).mean())}
  found = _compared(measured, "trigger", planted.benchmark(), maps)
  return {"trigger": {name: {**one, **states} for name, one in found.items()}}


def _disconnected(setting: str, measured: Measured) -> dict[str, dict[str, Summary]]:
  choices = measured.choices
  logits = 10 * np.eye(measured.labels.max() + 1)[measured.labels]  # all were classified rightly
  grids = suite.disconnected_grids(
    select(logits, measured.labels), measured.images, num_grids=choices.num_grids, seed=choices.seed
  )
  size = max(1, choices.batch_size // 4)

  def made(make: Callable) -> Summary:
    return suite.disconnected(
      *measured.network, make, grids, setting, batch_size=size, seed=choices.seed
    ).summary()

  name = f"di{setting}"
  return {name: dict(measured.each(made, score=name))}


def _grid_pointing(measured: Measured) -> dict[str, dict[str, Summary]]:
  choices = measured.choices
  logits = metrics.logits_of(*measured.network, measured.images, choices.batch_size)
  smooth = 2 * round(15 * measured.images.shape[1] / 224 / 2) + 1

  def made(make: Callable) -> Summary:
    return metrics.grid_pointing_game(
      metrics.for_grids(make(*measured.network)),
      logits,
      measured.images,
      measured.labels,
      grid=2,
      num_grids=choices.num_grids,
      smooth=smooth,
      confidence=0.0,
    ).summary()

  return {"grid_pointing": dict(measured.each(made, score="grid_pointing"))}


def _parts(measured: Measured) -> dict[str, dict[str, Summary]]:
  """FunnyBirds' scores, for networks of `part_scenes`."""
  choices, side = measured.choices, measured.images.shape[1]
  if choices.parts:
    scenes = funny_birds.read_scenes(choices.parts, choices.num_slow, side=side)
  elif measured.data.startswith("part_scenes"):
    count = min(choices.num_slow, part_scenes.COUNTS["test"])
    scenes = part_scenes.part_scenes(count, side=side)
  else:
    raise InputError(
      f"Parts of {measured.data} cannot be removed.",
      "Use a network of part_scenes and --dataset=part_scenes, or one of FunnyBirds and --parts; "
      "or omit parts.",
    )
  effects = suite.measure_parts(*measured.network, scenes, choices.batch_size)

  def made(make: Callable) -> Summary:
    return suite.part_scores(effects, make(*measured.network)).summary()

  found = dict(measured.each(made, score="parts"))
  random = suite.part_scores(effects, suite.random_explainer(choices.seed))
  oracle = suite.part_scores(effects, suite.oracle_explainer(effects))
  limits = {"random": random.mean, "oracle": oracle.mean}
  return {"parts": {name: {**one, **limits} for name, one in found.items()}}


def _compared(
  measured: Measured,
  score: str,
  benchmark: suite.Benchmark,
  maps: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Summary]:
  """Returns the summaries of those methods, of whose maps any can be scored."""
  limits, found = benchmark.limits(measured.choices.seed), {}
  for name, given in (measured.maps if maps is None else maps).items():
    try:
      found[name] = benchmark.score(given, limits=limits).summary()
    except InputError as reason:
      measured.skipped[f"{score}: {name}"] = reason.cause
  return found


SECTIONS: dict[str, Section] = {
  "faithfulness": _faithful,
  "road": _road,
  "idsds": _in_domain,
  "trigger": _triggers,
  "grid_pointing": _grid_pointing,
  "difull": functools.partial(_disconnected, "full"),
  "dipart": functools.partial(_disconnected, "part"),
  "parts": _parts,
}
"""What is measured together, in this order: each returns one score or several."""


def run(
  measured: Measured, done: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, dict[str, dict[str, Summary]]]]:
  """Yields each section and its scores by method; sections that are done are left out.

  A section that does not apply to the network or the data is noted in `measured.skipped`.

  Raises:
    InputError: A score that was asked for by name does not apply.
  """
  asked = measured.choices.scores
  for name in asked or SECTIONS:
    if name in (done or {}):
      continue
    try:
      yield name, SECTIONS[name](measured)
    except InputError as reason:
      if asked:
        raise
      measured.skipped[name] = reason.cause
      yield name, {}

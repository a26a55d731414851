"""Shared setup of the studies: small networks, a data set, one pretrained network.

Networks are kept in the folder and trained by `train`, so a study that was stopped goes on where
it was, and studies of the same data set share what they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import pathlib
import re
from typing import Any

from flax import linen as nn
import jax
from ml_collections import ConfigDict
import numpy as np

import bcos_jax

from .. import metrics, models
from ..errors import unknown_name
from ..inputs import Preprocess, of_pictures
from ..train import start
from ..train.config import PREFIX, load_config
from ..train.data import open_dataset, pipeline
from ..train.evaluation import image_metrics
from ..train.loop import TrainResult, train

Say = Callable[[str], None]

_DARK = 0.05
"""Colour of a silhouette's ground, at most: black, up to what scanning and resizing left."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """How long another network than the recipe's is trained; see `Setting`."""

  pretrain: int
  finetune: int
  eval_every: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """How long networks are trained on a data set, and how their explanations are measured.

  Attributes:
    pretrain: Steps of the conventional network.
    finetune: Steps of a B-cosified network, and of one from scratch.
    eval_every: Steps between evaluations.
    grid: Pictures per side of the grid pointing game.
    num_grids: Most grids.
    smooth: Odd averaging window of the pointing games: the published 15 pixels, of 224, scaled.
    num_images: Pictures to measure on where not all of the test set is.
    validation: Training pictures that a study holds out to choose settings.
    silhouettes: Whether objects lie on black ground, so that where they are needs no masks.
    networks: Variants of the recipe that are other networks, and how long they are trained.
  """

  pretrain: int
  finetune: int
  eval_every: int
  grid: int
  num_grids: int
  smooth: int
  num_images: int = 200
  validation: int = 300
  silhouettes: bool = False
  networks: Mapping[str, Steps] = dataclasses.field(default_factory=dict)


SETTINGS = {
  "digits": Setting(pretrain=300, finetune=120, eval_every=10, grid=2, num_grids=30, smooth=3),
  "shape_scenes": Setting(
    pretrain=600, finetune=300, eval_every=25, grid=3, num_grids=25, smooth=5
  ),
  "fashion_mnist": Setting(
    pretrain=600,
    finetune=300,
    eval_every=25,
    grid=2,
    num_grids=40,
    smooth=3,
    validation=5000,
    silhouettes=True,
    networks={
      "vit": Steps(pretrain=3000, finetune=600, eval_every=50),
      "vitc": Steps(pretrain=2000, finetune=600, eval_every=50),
    },
  ),
}


def _shortened(setting: Setting) -> Setting:
  return dataclasses.replace(
    setting, pretrain=30, finetune=10, eval_every=10, grid=2, num_grids=2, num_images=24
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyPictures:
  """The test pictures of a data set.

  Attributes:
    images: [N, H, W, colors] in [0, 1].
    labels: int [N].
    names: Of the classes.
    regions: bool [N, H, W], where the labelled object is; None if nothing tells.
  """

  images: np.ndarray
  labels: np.ndarray
  names: tuple[str, ...]
  regions: np.ndarray | None

  def some(self, count: int) -> StudyPictures:
    """Returns so many pictures, spread evenly over all."""
    rows = np.unique(np.linspace(0, len(self.images) - 1, count).astype(int))
    regions = None if self.regions is None else self.regions[rows]
    return dataclasses.replace(
      self, images=self.images[rows], labels=self.labels[rows], regions=regions
    )


@dataclasses.dataclass(frozen=True)
class Measures:
  """What explanations of a network are worth.

  Attributes:
    accuracy: On all test pictures.
    grid_pointing: Mean score of the grid pointing game; None if too few pictures could be used.
    grid_pointing_error: Its standard error over the grids; None likewise.
    energy_pointing: Mean score; None where the places of objects are not known.
    bias_share: Mean share of the terms of an output that belong to no pixel: sizes of biases and
      other constants, over theirs and that of the pixels' sum. The logit bias is left out.
  """

  accuracy: float
  grid_pointing: float | None
  grid_pointing_error: float | None
  energy_pointing: float | None
  bias_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
  """A place for a study.

  Attributes:
    workdir: Folder of the networks.
    dataset: One of `SETTINGS`.
    network: Architecture, or a variant of the data set's recipe that is another network; "" for
      that of the recipe.
    seed: Of all trainings.
    short: A fraction of the steps and pictures; shows that everything runs.
    progress: Whether to show progress bars.
    say: Function that prints one line of output.
  """

  workdir: pathlib.Path
  dataset: str = "shape_scenes"
  network: str = ""
  seed: int = 0
  short: bool = False
  progress: bool = True
  say: Say = print

  def __post_init__(self):
    if self.dataset not in SETTINGS:
      raise unknown_name("data set of studies", self.dataset, SETTINGS)
    if self.network and self.network not in SETTINGS[self.dataset].networks:
      models.architecture(self.network)  # refuses an unknown name

  @property
  def setting(self) -> Setting:
    setting = SETTINGS[self.dataset]
    if steps := setting.networks.get(self.network):
      setting = dataclasses.replace(setting, **dataclasses.asdict(steps))
    return _shortened(setting) if self.short else setting

  @property
  def places(self) -> str:
    """What tells where objects are, in words."""
    return "silhouettes" if self.setting.silhouettes else "masks of the labelled object"

  def conventional(self) -> TrainResult:
    """The pretrained network that the study starts from."""
    return self.trained("conventional", f"{self.dataset}:conventional", self.setting.pretrain)

  def bcosified(self, *overrides: str) -> TrainResult:
    """B-cosifies the pretrained network and fine-tunes it.

    Args:
      *overrides: Of the recipe, e.g. "--config.ops.b=1.5".
    """
    bundle = self.bundle("conventional", self.conventional())
    name = "-".join(["bcosified", *(text.removeprefix(PREFIX) for text in overrides)])
    return self.trained(
      re.sub(r"[^\w=.-]", "", name),
      f"{self.dataset}:bcosify",
      self.setting.finetune,
      f"{PREFIX}init={bundle}",
      *overrides,
    )

  def bundle(self, name: str, result: TrainResult) -> pathlib.Path:
    """Returns the folder of a trained network's bundle, written once."""
    folder = self.workdir / f"{name}.bundle"
    if not folder.exists():
      bcos_jax.save(
        folder,
        result.model,
        jax.device_get(result.variables),
        preprocess=result.preprocess,
        labels=result.labels if result.model.num_classes else (),
      )
    return folder

  def taught(
    self, name: str, recipe: str, steps: int, teacher: pathlib.Path, *overrides: str
  ) -> tuple[start.Network, TrainResult]:
    """Teaches the B-cos twin of a teacher; returns what it started from, and the student.

    Args:
      name: Of its folder.
      recipe: With the objective "align" or "clip".
      steps: Of training.
      teacher: Its bundle.
      *overrides: Of the recipe.
    """
    overrides = (f"{PREFIX}objective.teacher={teacher}", *overrides)
    begun = start.network(self._config(recipe, steps, *overrides))
    return begun, self.trained(name, recipe, steps, *overrides)

  def before_fine_tuning(self, *overrides: str) -> float:
    """Returns the test accuracy of what `bcosified` starts from with the same overrides."""
    bundle = self.workdir / "conventional.bundle"
    config = self._config(f"{self.dataset}:bcosify", 1, f"{PREFIX}init={bundle}", *overrides)
    model, variables = start.network(config)
    assert variables is not None, "a recipe with a bundle has its variables"
    logits = metrics.logits_of(model, variables, self.pictures.images)
    return float(np.mean(logits.argmax(-1) == self.pictures.labels))

  def scratch(self) -> TrainResult:
    """The B-cos network that is trained from random weights."""
    return self.trained("scratch", f"{self.dataset}:scratch", self.setting.finetune)

  def trained(
    self, name: str, recipe: str, steps: int, *overrides: str, init: start.Network | None = None
  ) -> TrainResult:
    """Trains a recipe such as "digits:scratch" in the folder `name`, or takes it from there.

    `init` is a network to start from, in place of the recipe's.
    """
    self.say(f"Training {name}: {steps} steps")
    config = self._config(recipe, steps, *overrides)
    return train(config, workdir=self.workdir / name, init=init, progress=self.progress)

  def _config(self, recipe: str, steps: int, *overrides: str) -> ConfigDict:
    if self.network in self.setting.networks:
      recipe = f"{recipe},{self.network}"
    elif self.network:
      overrides = (f"--config.model.name={self.network}", *overrides)
    return load_config(
      recipe,
      [
        f"--config.steps={steps}",
        f"--config.eval_every={self.setting.eval_every}",
        f"--config.seed={self.seed}",
        "--config.init=",
        *overrides,
      ],
    )

  @functools.cached_property
  def pictures(self) -> StudyPictures:
    """The test pictures, as every network of the study reads them."""
    return self.pictures_of(of_pictures(self.conventional().preprocess))

  def pictures_of(self, prepare: Preprocess) -> StudyPictures:
    """The test pictures, as a network with this preprocessing reads them."""
    examples = pipeline.Examples(open_dataset(self.dataset, "test"), prepare)
    images, labels = pipeline.to_arrays(examples)
    dataset, regions = examples.dataset, None
    if "mask" in dataset.source[0]:
      regions = image_metrics.regions(prepare, dataset, range(len(images)))
    elif self.setting.silhouettes:
      regions = images.max(axis=-1) > _DARK
    return StudyPictures(images=images, labels=labels, names=dataset.label_names, regions=regions)

  def logits(self, result: TrainResult) -> np.ndarray:
    """Returns float32 logits [N, C] of all test pictures."""
    return metrics.logits_of(result.model, jax.device_get(result.variables), self.pictures.images)

  def play(self, attribute: Callable, logits: np.ndarray, **settings) -> metrics.GridPointingResult:
    """Plays the grid pointing game with the data set's settings."""
    setting = self.setting
    options = {
      "grid": setting.grid,
      "num_grids": setting.num_grids,
      "smooth": setting.smooth,
      "confidence": 0.0,
      "batch_size": 5,
    }
    return metrics.grid_pointing_game(
      attribute, logits, self.pictures.images, self.pictures.labels, **options | settings
    )

  def measures(self, result: TrainResult) -> Measures:
    """Measures the network's own explanations."""
    variables = jax.device_get(result.variables)
    explainer = metrics.attribute_with(result.model, variables)
    some = self.pictures.some(self.setting.num_images)
    try:
      game = self.play(explainer, self.logits(result))
      pointing, error = game.mean, standard_error(game)
    except bcos_jax.InputError as few:
      self.say(f"  no grid pointing game: {few.cause}")
      pointing = error = None
    energy = None
    if some.regions is not None:
      energy = metrics.energy_pointing_game(
        explainer, some.regions, some.images, some.labels, smooth=self.setting.smooth
      ).mean
    share = bias_share(result.model, variables, some)
    return Measures(result.metrics["accuracy"], pointing, error, energy, share)


def standard_error(game: metrics.GridPointingResult) -> float:
  """That of the mean score, over the grids; NaN for a single one."""
  means = game.scores.mean(axis=1)
  return float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else float("nan")


def bias_share(model: nn.Module, variables: Mapping[str, Any], pictures: StudyPictures) -> float:
  """See `Measures`; of the labelled classes."""
  ex = bcos_jax.explain(model, variables, pictures.images, pictures.labels, batch_size=50)
  constants = sum(
    np.abs(amount) for source, amount in ex.residuals.items() if source != "logit_bias"
  )
  pixels = np.abs(np.asarray(ex.contributions).sum(axis=(1, 2)))
  return float(np.mean(constants / np.maximum(constants + pixels, 1e-30)))

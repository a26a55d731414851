"""Explanation metrics on a data set, by name, as printed by `bcos-jax evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import io

import jax
import numpy as np
from PIL import Image

from bcos_jax import metrics
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.inputs import Preprocess, of_pictures
from bcos_jax.io.bundles import Bundle
from bcos_jax.metrics.perturbation import check_block
from bcos_jax.render.color import check_window

from ..data import Dataset, pipeline
from .choices import check_read

Measured = metrics.Scores | metrics.GridPointingResult

_CURVES = ("deletion", "insertion", "comprehensiveness", "sufficiency")
NAMES = ("accuracy", "grid_pointing", "energy_pointing", *_CURVES, "completeness")
_READERS = {
  "num_images": ("energy_pointing", *_CURVES, "completeness"),
  "grid": ("grid_pointing",),
  "num_grids": ("grid_pointing",),
  "smooth": ("grid_pointing", "energy_pointing"),
  "block": _CURVES,
  "fill": _CURVES,
  "published": ("grid_pointing", "energy_pointing", *_CURVES),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricChoices:
  """What to measure, and how.

  Attributes:
    names: Of `NAMES`.
    num_images: Most images to measure on, evenly spread over the data set; the grid pointing game
      chooses its own.
    batch_size: Images at a time.
    grid: Pictures per side of a grid.
    num_grids: Most grids to play.
    smooth: Odd averaging window of both pointing games, in pixels; 0 for none.
    block: Side of the blocks that are deleted, in pixels; 0 for a 14th of the picture's side.
    fill: See `metrics.Perturbation`.
    published: Whether contributions are those of the authors' code, see `metrics.attribute_with`.
  """

  names: tuple[str, ...]
  num_images: int = 128
  batch_size: int = 32
  grid: int = 3
  num_grids: int = 250
  smooth: int = 15
  block: int = 0
  fill: str = "mean"
  published: bool = False

  def __post_init__(self):
    for name in self.names:
      if name not in NAMES:
        raise unknown_name("metric", name, NAMES)
    check_read(self, _READERS)


def check_sizes(choices: MetricChoices, size: Sequence[int]) -> None:
  """Checks the choices against the sides of a network's pictures, before any work.

  Raises:
    InputError: A window or block that does not fit, with the bound.
  """
  if {"grid_pointing", "energy_pointing"} & set(choices.names):
    check_window(choices.smooth, size)
  if set(_CURVES) & set(choices.names):
    check_block(choices.block or 1, size)


def measure(
  bundle: Bundle, examples: pipeline.Examples, choices: MetricChoices
) -> Iterator[tuple[str, Measured]]:
  """Measures explanations of the labelled classes.

  Args:
    bundle: A network that was trained on the classes of the data set.
    examples: Decoded by the network's own preprocessing, one label each.
    choices: What to measure; "accuracy" is left to `evaluate`.

  Yields:
    Each name and what was measured; its `summary()` has it as plain numbers.

  Raises:
    InputError: No masks to point at, pictures with several labels, or see the metrics.
  """
  if examples.dataset.multi_label:
    raise InputError(
      f"Pictures of {examples.dataset.name} may have several labels, expected one each.",
      "Use a data set with one label per picture.",
    )
  names = [name for name in choices.names if name != "accuracy"]
  explainer = metrics.attribute_with(bundle.model, bundle.variables, published=choices.published)
  if "grid_pointing" in names:
    names.remove("grid_pointing")
    yield "grid_pointing", _play(bundle, examples, choices, explainer)
  if not names:
    return
  count = min(choices.num_images, len(examples))
  rows = np.unique(np.linspace(0, len(examples) - 1, count).astype(int)).tolist()
  objects = None
  if "energy_pointing" in names:
    objects = regions(of_pictures(bundle.preprocess), examples.dataset, rows)
  chosen = [examples[i] for i in rows]
  images, targets = (np.stack([e[key] for e in chosen]) for key in ("image", "label"))
  network = (bundle.model, bundle.variables, images, targets)
  for name in names:
    if name == "energy_pointing":
      assert objects is not None, "read above"
      found = metrics.energy_pointing_game(
        explainer,
        objects,
        images,
        targets,
        smooth=choices.smooth,
        batch_size=choices.batch_size,
      )
    elif name == "completeness":
      found = metrics.completeness(*network, batch_size=choices.batch_size)
    else:
      how = metrics.Perturbation(
        block=choices.block or max(1, min(images.shape[1:3]) // 14),
        fill=choices.fill,
        batch_size=choices.batch_size,
      )
      found = getattr(metrics, name)(*network, explainer, how)
    yield name, found


def _play(
  bundle: Bundle, examples: pipeline.Examples, choices: MetricChoices, explainer: Callable
) -> metrics.GridPointingResult:
  """Plays the grid pointing game; holds the pictures of one batch at a time."""
  source = examples.dataset.source
  network = jax.jit(lambda x: bundle.model.apply(bundle.variables, bundle.model.ops.encoding(x)))
  return metrics.grid_pointing_game(
    explainer,
    lambda images: np.asarray(network(images)),
    _Pictures(examples),
    np.array([source[i]["label"] for i in range(len(examples))]),
    grid=choices.grid,
    num_grids=choices.num_grids,
    smooth=choices.smooth,
  )


class _Pictures:
  """The pictures of examples, each read on demand."""

  def __init__(self, examples: pipeline.Examples):
    self._examples = examples

  def __len__(self) -> int:
    return len(self._examples)

  def __getitem__(self, index: int) -> np.ndarray:
    return self._examples[index]["image"]


def regions(preprocess: Preprocess, dataset: Dataset, rows: Sequence[int]) -> np.ndarray:
  """Returns the labelled objects, bool [N, H, W], cut as the preprocessing cuts pictures.

  Args:
    preprocess: Of the network.
    dataset: Whose records have a `mask`, a PNG with 1 where the labelled object is.
    rows: N examples of it.

  Raises:
    InputError: The data set has no masks.
  """
  cut = dataclasses.replace(preprocess, interpolation="nearest", colors=1)
  found = []
  for row in rows:
    record = dataset.source[row]
    if "mask" not in record:
      raise InputError(
        f"{dataset.name} has no masks of its objects, which energy_pointing needs.",
        "Use shape_scenes, or omit energy_pointing.",
      )
    marked = np.asarray(Image.open(io.BytesIO(record["mask"]))) == 1
    found.append(cut(Image.fromarray(np.uint8(marked) * 255))[..., 0] > 0.5)
  return np.stack(found)

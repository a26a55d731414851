"""Deletion and insertion: the output as the most important pixels are removed or added.

Pictures are cut into blocks, and blocks are ranked by the mean of the signed map over them. All
measures look at the network's output for the target class after the first blocks of that ranking
were deleted, or after all others were. Ties are broken at random.

Deleting is done on the encoded channels, so that a deleted pixel may be one that a picture can
have (a colour, encoded) or, as published for six-channel networks, zero in all channels, which
for the encoding [x, 1 - x] is not a valid colour.

Three rankings are measured on the same images: that of the explanation; a random one; and, as
oracle, that by the measured effect of deleting each block alone. Where effects add up, as in a
linear model, no ranking is better than that oracle's; elsewhere an explanation may beat it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from ..attribution.images import ImageNetwork, prepare
from ..attribution.task import SCORES, Array, Task, check_choice
from ..batches import Progress
from ..errors import InputError
from ..inputs import check_images, side_of
from .rankings import Curves, Parts, check_fractions, scored_curves
from .scores import Maps, Scores, check_count, check_targets, maps_of


def _mean_color(network: ImageNetwork, images: Array) -> Array:
  return network.embed(jnp.mean(images, axis=(1, 2), keepdims=True))


def _nothing(network: ImageNetwork, images: Array) -> Array:
  return jnp.zeros_like(_mean_color(network, images))


_FILLINGS = {"mean": _mean_color, "zero": _nothing}
"""From a network and images to what deleted pixels become: encoded, [B, 1, 1, channels]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation:
  """Settings: how pictures are perturbed, and what is measured.

  Attributes:
    block: Side of a block in pixels; the last block of a row or column may be smaller.
    fill: What a deleted pixel becomes: "mean", the mean colour of its picture; "zero", zero in
      all encoded channels (published); or a colour in [0, 1], a number or one per channel.
    output: "softmax" or "sigmoid" probability of the target, or its "logit".
    confidence: Images whose output is not above it before anything is deleted are excluded.
    oracle: Whether to measure the oracle's ranking too: one forward pass more for every block.
    batch_size: Images in memory, and perturbed pictures per forward pass.
    seed: Of the random ranking and of ties.
  """

  block: int = 16
  fill: str | float | Sequence[float] = "mean"
  output: str = "softmax"
  confidence: float = float("-inf")
  oracle: bool = True
  batch_size: int = 32
  seed: int = 0

  def __post_init__(self):
    check_count("block", self.block)
    check_count("batch_size", self.batch_size)
    check_choice("output", self.output, SCORES)
    if isinstance(self.fill, str):
      check_choice("fill", self.fill, _FILLINGS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveScores(Curves, Scores):
  """Scores of images that come from curves; fractions are of the blocks."""


def deletion(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  maps: Maps,
  how: Perturbation = Perturbation(),
  *,
  fractions: Sequence[float] = tuple(np.linspace(0, 0.8, 11)),
  progress: Progress = iter,
) -> CurveScores:
  """The area under the target's output while the most important blocks are deleted; low is good.

  RISE (arXiv 1806.07421, section 4.1), block by block as in ALOE's evaluation, whose settings are
  these with fill="zero" (and output="sigmoid"). The area is the trapezoidal mean over the range
  of the fractions.

  Args:
    model: Network with `ops`.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    targets: int [N], the explained classes.
    maps: An explainer, or signed maps [N, H, W].
    how: What a deletion is.
    fractions: Of the blocks, ascending in [0, 1]. What is not 0 deletes at least one block.
    progress: Wraps the loop over batches of images, e.g. `tqdm.tqdm`.

  Returns:
    A mean output per image.

  Raises:
    InputError: Images, targets, maps or fractions that cannot be used; no image with confidence.
  """
  given = (model, variables, images, targets, maps, how, fractions, progress)
  return _measured(_area, *given, keep=False, higher_is_better=False)


def insertion(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  maps: Maps,
  how: Perturbation = Perturbation(),
  *,
  fractions: Sequence[float] = tuple(np.linspace(0, 1, 11)),
  progress: Progress = iter,
) -> CurveScores:
  """The area under the target's output while the most important blocks appear; high is good.

  RISE (arXiv 1806.07421, section 4.1), block by block: all blocks but the first are deleted. The
  oracle's ranking is the same as for `deletion`. Arguments and result as for `deletion`.
  """
  given = (model, variables, images, targets, maps, how, fractions, progress)
  return _measured(_area, *given, keep=True, higher_is_better=True)


def comprehensiveness(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  maps: Maps,
  how: Perturbation = Perturbation(),
  *,
  fractions: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5),
  progress: Progress = iter,
) -> CurveScores:
  """The mean loss of output when the most important blocks are deleted; high is good.

  ERASER (arXiv 1911.03429, section 4.1): f(x) - f(x without the top share), averaged over the
  shares. Arguments and result as for `deletion`.
  """
  given = (model, variables, images, targets, maps, how, fractions, progress)
  return _measured(_loss, *given, keep=False, higher_is_better=True)


def sufficiency(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  maps: Maps,
  how: Perturbation = Perturbation(),
  *,
  fractions: Sequence[float] = (0.01, 0.05, 0.1, 0.2, 0.5),
  progress: Progress = iter,
) -> CurveScores:
  """The mean loss of output when only the most important blocks are kept; low is good.

  ERASER (arXiv 1911.03429, section 4.1): f(x) - f(the top share of x alone), averaged over the
  shares. Arguments and result as for `deletion`.
  """
  given = (model, variables, images, targets, maps, how, fractions, progress)
  return _measured(_loss, *given, keep=True, higher_is_better=False)


def _area(curves: np.ndarray, start: np.ndarray, fractions: np.ndarray) -> np.ndarray:
  del start
  return np.trapezoid(curves, fractions, axis=1) / (fractions[-1] - fractions[0])


def _loss(curves: np.ndarray, start: np.ndarray, fractions: np.ndarray) -> np.ndarray:
  del fractions
  return start - curves.mean(axis=1)


def _measured(
  measure: Callable,
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  maps: Maps,
  how: Perturbation,
  fractions: Sequence[float],
  progress: Progress,
  *,
  keep: bool,
  higher_is_better: bool,
) -> CurveScores:
  """Measures the output at each fraction, by each ranking of the blocks, and scores the curves."""
  steps = check_fractions(fractions)
  task = removal_task(model, variables, images, targets, how, progress)
  (images,) = task.inputs
  explained = maps_of(maps, images, targets, how.batch_size)
  check_block(how.block, side_of(images))
  blocks = block_sums(explained, how.block) / block_sums(np.ones((1, *side_of(images))), how.block)
  _, rows, columns = blocks.shape
  importance = blocks.reshape(len(blocks), -1)
  everything = np.ones(importance.shape, bool)
  count = everything.shape[1]
  numbers = np.where(steps > 0, np.maximum(np.floor(steps * count + 0.5), 1), 0)
  why = f"an output of {how.confidence:g} or less before anything is deleted"
  return scored_curves(
    CurveScores,
    Parts(
      task=task,
      free=everything,
      movable=everything,
      make=Blocks(rows, columns, how.block),
    ),
    lambda curves, start: measure(curves, start, steps),
    importance,
    _random_ranking(how.seed, importance.shape),
    np.broadcast_to(numbers.astype(int), (len(images), len(steps))),
    keep=keep,
    oracle=how.oracle,
    seed=how.seed,
    reasons=lambda start: {why: ~(start > how.confidence)},
    fractions=steps,
    higher_is_better=higher_is_better,
  )


def check_block(block: int, size: Sequence[int]) -> None:
  """Checks that pictures of [H, W] pixels have at least two blocks: one alone has no ranking.

  Raises:
    InputError: A block covers the picture.
  """
  if block >= max(size):
    raise InputError(
      f"block={block} covers pictures of {size[0]} x {size[1]} pixels, whose blocks are ranked.",
      f"Use at most {max(max(size) // 2, 1)}; published is a 14th of the side.",
    )


def removal_task(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  how: Perturbation,
  progress: Progress = iter,
) -> Task:
  """Returns the checked task; deleting replaces what does not remain by the filling."""
  network = ImageNetwork(model, variables)
  images = check_images(images, model.ops.encoding)
  targets = check_targets(targets, len(images), _num_classes(model, side_of(images)))
  task = prepare(
    network, images, targets, batch_size=how.batch_size, progress=progress, score=how.output
  )
  if isinstance(how.fill, str):
    filling = Partial(_FILLINGS[how.fill])
  else:
    filling = Partial(_color, _check_color(how.fill, model.ops.encoding.colors))
  return dataclasses.replace(task, removal=Partial(_deleted, filling))


def _deleted(filling: Partial, network: ImageNetwork, images: tuple[Array], remains: Array) -> Any:
  """Returns the outputs for images of which pixels, bool [B, H, W], remain."""
  inputs = network.embed(*images)
  return network.forward(jnp.where(remains[..., None], inputs, filling(network, *images)))


def _color(color: Array, network: ImageNetwork, images: Array) -> Array:
  return network.embed(jnp.broadcast_to(color, (len(images), 1, 1, images.shape[-1])))


@dataclasses.dataclass(frozen=True)
class Blocks:
  """From which blocks of pixels remain, bool [B, rows * columns], to which pixels do."""

  rows: int
  columns: int
  side: int

  def __call__(self, shared: Any, own: Any, remains: Array) -> Array:
    grid = remains.reshape(-1, self.rows, self.columns)
    return grid.repeat(self.side, axis=1).repeat(self.side, axis=2)


def _random_ranking(seed: int, shape: tuple[int, int]) -> np.ndarray:
  """Returns a random order of G blocks for each of N images, [N, G]."""
  drawn = []
  for row in range(shape[0]):
    random = np.random.default_rng((seed, row))
    random.permutation(shape[1])  # the order of equal blocks, see `ranks_of`
    drawn.append(random.permutation(shape[1]))
  return np.stack(drawn)


def block_sums(maps: np.ndarray, block: int) -> np.ndarray:
  """Sums of maps [N, H, W] over blocks, float64 [N, ceil(H / block), ceil(W / block)]."""
  tops, lefts = (range(0, side, block) for side in maps.shape[1:])
  return np.add.reduceat(np.add.reduceat(maps.astype(np.float64), tops, axis=1), lefts, axis=2)


@functools.lru_cache(maxsize=64)
def _num_classes(model: nn.Module, side: tuple[int, int]) -> int:
  image = jax.ShapeDtypeStruct((1, *side, model.ops.encoding.channels), jnp.float32)
  outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
  if getattr(outputs, "ndim", 0) != 2:
    raise InputError(
      "The network has no logits [N, C], which perturbation measures.", "Give a classifier."
    )
  return outputs.shape[1]


def _check_color(fill: Any, colors: int) -> np.ndarray:
  """Returns the colour of deleted pixels, or raises InputError."""
  color = np.asarray(fill, np.float32)
  if color.shape not in ((), (colors,)) or not ((color >= 0) & (color <= 1)).all():
    raise InputError(
      f"fill={fill}, expected a number or {colors} numbers in [0, 1], 'mean' or 'zero'.",
      "Pass a colour in [0, 1]; the network encodes it.",
    )
  return color

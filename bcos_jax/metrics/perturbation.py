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
import numpy as np

from ..batches import Progress, filled
from ..errors import InputError, unknown_name
from ..inputs import check_images
from .scores import Maps, Scores, check_count, check_targets, maps_of, usable

_OUTPUTS = ("softmax", "sigmoid", "logit")


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
    if self.output not in _OUTPUTS:
      raise unknown_name("output", self.output, _OUTPUTS)
    if isinstance(self.fill, str) and self.fill not in ("mean", "zero"):
      raise unknown_name("fill", self.fill, ("mean", "zero"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurveScores(Scores):
  """Scores that come from curves.

  Attributes:
    fractions: [F], the share of the blocks that is deleted or kept.
    curves: [M, F], the output for the target at each fraction.
    random_curves: [M, F], with a random ranking.
    oracle_curves: [M, F], with the oracle's; None if not requested.
  """

  fractions: np.ndarray
  curves: np.ndarray
  random_curves: np.ndarray
  oracle_curves: np.ndarray | None


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
  run = _Run(model, variables, images, targets, maps, how, fractions, progress)
  return run.scores(_area, keep=False, higher_is_better=False)


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
  run = _Run(model, variables, images, targets, maps, how, fractions, progress)
  return run.scores(_area, keep=True, higher_is_better=True)


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
  run = _Run(model, variables, images, targets, maps, how, fractions, progress)
  return run.scores(_loss, keep=False, higher_is_better=True)


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
  run = _Run(model, variables, images, targets, maps, how, fractions, progress)
  return run.scores(_loss, keep=True, higher_is_better=False)


def _area(curves: np.ndarray, start: np.ndarray, fractions: np.ndarray) -> np.ndarray:
  del start
  return np.trapezoid(curves, fractions, axis=1) / (fractions[-1] - fractions[0])


def _loss(curves: np.ndarray, start: np.ndarray, fractions: np.ndarray) -> np.ndarray:
  del fractions
  return start - curves.mean(axis=1)


class _Run:
  """One network, its images and their maps, checked; measures curves."""

  def __init__(self, model, variables, images, targets, maps, how, fractions, progress):
    self.images = check_images(images, model.ops.encoding)
    classes = _num_classes(model, self.images.shape[1:3])
    self.targets = check_targets(targets, len(self.images), classes)
    self.fractions = check_fractions(fractions)
    self.model, self.variables, self.how, self.progress = model, variables, how, progress
    self.color = _check_fill(how.fill, model.ops.encoding.colors)
    self.maps = maps_of(maps, self.images, self.targets, how.batch_size)

  def scores(self, measure: Callable, *, keep: bool, higher_is_better: bool) -> CurveScores:
    """Measures the output at each fraction, by each ranking, and turns curves into scores."""
    size, parts = min(self.how.batch_size, len(self.images)), []
    for first in self.progress(range(0, len(self.images), size)):
      parts.append(self._chunk(np.arange(first, min(first + size, len(self.images))), size, keep))
    start, curves, blind, oracle = (
      None if part[0] is None else np.concatenate(part) for part in zip(*parts, strict=True)
    )
    why = f"an output of {self.how.confidence:g} or less before anything is deleted"
    kept, excluded = usable({why: ~(start > self.how.confidence)})
    found = [None if c is None else c[kept] for c in (curves, blind, oracle)]
    score = [None if c is None else measure(c, start[kept], self.fractions) for c in found]
    return CurveScores(
      scores=score[0],
      random_scores=score[1],
      oracle_scores=score[2],
      higher_is_better=higher_is_better,
      images=kept,
      num_images=len(self.images),
      excluded=excluded,
      fractions=self.fractions,
      curves=found[0],
      random_curves=found[1],
      oracle_curves=found[2],
    )

  def _chunk(self, rows: np.ndarray, size: int, keep: bool):
    """Returns start [B] and three curves [B, F] of some images, which stay on the device."""
    padded = np.minimum(np.arange(rows[0], rows[0] + size), rows[-1])
    inputs = _encode(self.model, self.images[padded])
    filling = _filling(self.model, self.how.fill, self.color, self.images[padded])
    images, targets = (inputs, filling), self.targets[padded]
    blocks = _block_means(self.maps[rows], self.how.block)
    shape, count = blocks.shape[1:], blocks[0].size
    random = [np.random.default_rng((self.how.seed, int(row))) for row in rows]
    ties = np.stack([r.permutation(count) for r in random])
    blind = np.stack([r.permutation(count) for r in random])
    none = np.zeros((len(rows), 1, *shape), bool)
    start = self._outputs(images, targets, none)[:, 0]
    numbers = np.where(
      self.fractions > 0, np.maximum(np.floor(self.fractions * count + 0.5), 1), 0
    )[:, None]

    def curve(importance: np.ndarray) -> np.ndarray:
      order = np.lexsort((ties, -importance.reshape(len(rows), -1)))
      rank = np.argsort(order, axis=1)
      deleted = (rank[:, None] >= numbers) if keep else (rank[:, None] < numbers)
      return self._outputs(images, targets, deleted.reshape(len(rows), -1, *shape))

    oracle = None
    if self.how.oracle:
      each = np.eye(count, dtype=bool).reshape(1, count, *shape).repeat(len(rows), axis=0)
      oracle = curve(start[:, None] - self._outputs(images, targets, each))
    return start, curve(blocks), curve(blind), oracle

  def _outputs(self, images, targets, deleted: np.ndarray) -> np.ndarray:
    """The targets' outputs [B, S] of B images with S sets of deleted blocks [B, S, R, C] each."""
    count, sets = deleted.shape[:2]
    size, jobs = len(targets), count * sets
    found = []
    for job, _ in filled(jobs, size, exact=True):
      row, which = job // sets, job % sets
      with jax.default_matmul_precision("highest"):
        found.append(
          _perturbed(
            self.model,
            self.how.output,
            self.how.block,
            self.variables,
            images,
            row,
            targets[row],
            deleted[row, which],
          )
        )
    return np.concatenate(jax.device_get(found))[:jobs].reshape(count, sets)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _perturbed(model, output, block, variables, images, rows, targets, deleted):
  """Outputs [B] of the targets, for `images[rows]` with blocks [B, R, C] deleted."""
  inputs, filling = images
  height, width = inputs.shape[1:3]
  gone = deleted.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width, None]
  logits = model.apply(variables, jnp.where(gone, filling[rows], inputs[rows]))
  logits = logits.astype(jnp.float32)
  if output == "softmax":
    logits = jax.nn.softmax(logits, axis=-1)
  elif output == "sigmoid":
    logits = jax.nn.sigmoid(logits)
  return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: nn.Module, images: jax.Array) -> jax.Array:
  return model.ops.encoding(images)


def _filling(model, fill, color, images: np.ndarray) -> jax.Array:
  """What deleted pixels become: encoded, [B, 1, 1, channels]."""
  if color is None:
    color = images.mean(axis=(1, 2), keepdims=True)
  encoded = model.ops.encoding(jnp.broadcast_to(color, (len(images), 1, 1, images.shape[-1])))
  return jnp.zeros_like(encoded) if fill == "zero" else encoded


def _block_means(maps: np.ndarray, block: int) -> np.ndarray:
  """Means of maps [N, H, W] over blocks, [N, ceil(H / block), ceil(W / block)]."""
  height, width = maps.shape[1:]
  tops, lefts = range(0, height, block), range(0, width, block)
  sums = np.add.reduceat(np.add.reduceat(maps.astype(np.float64), tops, axis=1), lefts, axis=2)
  heights, widths = (np.diff([*starts, end]) for starts, end in ((tops, height), (lefts, width)))
  return sums / (heights[:, None] * widths)


@functools.lru_cache(maxsize=64)
def _num_classes(model: nn.Module, side: tuple[int, int]) -> int:
  image = jax.ShapeDtypeStruct((1, *side, model.ops.encoding.channels), jnp.float32)
  outputs, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
  if getattr(outputs, "ndim", 0) != 2:
    raise InputError(
      "The network has no logits [N, C], which perturbation measures.", "Give a classifier."
    )
  return outputs.shape[1]


def check_fractions(fractions: Sequence[float]) -> np.ndarray:
  """Returns rising fractions as an array, or raises InputError."""
  array = np.asarray(fractions, np.float64)
  rising = array.ndim == 1 and len(array) > 1 and (np.diff(array) > 0).all()
  if not (rising and array[0] >= 0 and array[-1] <= 1):
    raise InputError(
      f"fractions={list(fractions)}, expected two or more rising numbers in [0, 1].",
      "For example: np.linspace(0, 0.8, 11).",
    )
  return array


def _check_fill(fill, colors: int) -> np.ndarray | None:
  """Returns the colour of deleted pixels, or None for one that depends on the picture."""
  if isinstance(fill, str):
    return None
  color = np.asarray(fill, np.float32)
  if color.shape not in ((), (colors,)) or not ((color >= 0) & (color <= 1)).all():
    raise InputError(
      f"fill={fill}, expected a number or {colors} numbers in [0, 1], 'mean' or 'zero'.",
      "Pass a colour in [0, 1]; the network encodes it.",
    )
  return color

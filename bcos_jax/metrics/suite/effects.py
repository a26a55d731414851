"""Benchmarks that compare what a map gives to regions with what the output loses without them.

Pictures are cut into blocks. The losses of the output without sets of blocks are measured once; a
map is then scored by the sums of its values over the same sets, without another forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import numpy as np

from ...batches import Progress
from ...errors import InputError
from ...inputs import side_of
from ..perturbation import Blocks, Perturbation, block_sums, check_block, removal_task
from ..rankings import Parts
from ..scores import check_count
from ..similarities import similarity
from .benchmark import Benchmark, nothing_excluded

OF_LOGITS = Perturbation(block=8, output="logit")
"""Blocks of 8 pixels get the picture's mean colour, and logits are looked at."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effects:
  """What the outputs of N images lose without sets of blocks.

  Attributes:
    sets: bool [S, G], which of G blocks each set removes.
    losses: float64 [N, S], f(x) - f(x without the set).
    block: Side of a block, in pixels.
    side: Height and width of the images.
  """

  sets: np.ndarray
  losses: np.ndarray
  block: int
  side: tuple[int, int]

  def attributed(self, maps: np.ndarray) -> np.ndarray:
    """Returns the sums of maps [N, H, W] over each set, float64 [N, S]."""
    blocks = block_sums(maps, self.block).reshape(len(maps), -1)
    return blocks @ self.sets.T.astype(np.float64)

  def benchmark(
    self, compare: Callable[..., np.ndarray], oracle: float, **fields: Any
  ) -> Benchmark:
    """Returns the benchmark of scores `compare(sums [N, S], losses [N, S])`."""
    fields = {"reasons": nothing_excluded(len(self.losses)), "higher_is_better": True, **fields}
    return Benchmark(
      measure=lambda maps: compare(self.attributed(maps), self.losses),
      oracle=oracle,
      side=self.side,
      **fields,
    )


def measure_effects(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  sets: Callable[[int, int], np.ndarray],
  how: Perturbation,
  progress: Progress = iter,
) -> Effects:
  """Measures what the outputs lose without sets of blocks: N * (S + 1) forward passes.

  Args:
    model: Network with `ops`.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1].
    targets: int [N].
    sets: (rows, columns of blocks) -> bool [S, rows * columns].
    how: What a removal is, and what is measured.
    progress: Wraps the loop over batches.

  Raises:
    InputError: Images, targets or settings that cannot be used.
  """
  task = removal_task(model, variables, images, targets, how, progress)
  side = side_of(task.inputs[0])
  check_block(how.block, side)
  rows, columns = (-(-length // how.block) for length in side)
  chosen = sets(rows, columns)
  everything = np.ones((len(task), rows * columns), bool)
  make = Blocks(rows, columns, how.block)
  parts = Parts(task=task, free=everything, movable=everything, make=make)
  return Effects(sets=chosen, losses=parts.losses(chosen), block=how.block, side=side)


def single_deletion(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  cells: int = 4,
  fill: Any = "zero",
  output: str = "logit",
  batch_size: int = 64,
) -> Benchmark:
  """The rank correlation of each cell's attribution with the output's loss without it.

  The single deletion score of IDSDS (arXiv 2407.11910, section 3): the picture is cut into cells x
  cells; Spearman's correlation of the sums of the map over the cells with f(x) - f(x without the
  cell), by logits. In-domain it is of a network that was tuned on pictures without a cell, see
  `tuning`: else what is measured may be what an odd picture does to the network.

  The oracle scores 1, random maps 0 in the mean. A flat map has no ranks and is excluded.

  Args:
    model, variables, images, targets: As for `measure_effects`.
    cells: Per side. Published: 4.
    fill: As for `Perturbation`. Published: 0 in all channels.
    output: As for `Perturbation`. Published: the logit.
    batch_size: Pictures per forward pass.

  Raises:
    InputError: As for `measure_effects`; pictures whose sides the cells do not divide.
  """
  check_count("cells", cells)
  height, width = side_of(np.asarray(images))
  if height != width or height % cells:
    raise InputError(
      f"Pictures of {height} x {width} pixels have no {cells} x {cells} equal square cells.",
      "Choose a number of cells that divides the side of square pictures.",
    )
  how = Perturbation(block=height // cells, fill=fill, output=output, batch_size=batch_size)
  found = measure_effects(model, variables, images, targets, _singles, how)
  return found.benchmark(functools.partial(similarity, "spearman"), 1.0)


def sensitivity_n(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  how: Perturbation = OF_LOGITS,
  *,
  fractions: Sequence[float] = (0.05, 0.2, 0.4, 0.6, 0.8),
  samples: int = 12,
) -> Benchmark:
  """The correlation of summed attributions with the output's loss without the same n blocks.

  Sensitivity-n (Ancona et al., arXiv 1711.06104, section 4): Pearson's correlation over random
  sets of n features, for several n up to 80 % of all; features are blocks here, and the score is
  the mean over n. The oracle scores 1, random maps 0 in the mean.

  Args:
    model, variables, images, targets: As for `measure_effects`.
    how: What a removal is. Published: zero, and logits.
    fractions: Of the blocks, the n that are tried; at least one block.
    samples: Random sets for each n. Published: 100.

  Raises:
    InputError: As for `measure_effects`; fractions outside (0, 1), or fewer than three samples.
  """
  if not fractions or not all(0 < share < 1 for share in fractions) or samples < 3:
    raise InputError(
      f"fractions={list(fractions)} and samples={samples}, expected shares between 0 and 1 and at "
      "least 3 samples.",
      "A correlation needs several sets that differ.",
    )

  def sets(rows: int, columns: int) -> np.ndarray:
    count, random = rows * columns, np.random.default_rng(how.seed)
    sizes = np.repeat([min(max(1, round(s * count)), count - 1) for s in fractions], samples)
    return random.permuted(np.arange(count) < sizes[:, None], axis=1)

  found = measure_effects(model, variables, images, targets, sets, how)

  def mean_correlation(sums: np.ndarray, losses: np.ndarray) -> np.ndarray:
    shape = len(losses), len(fractions), samples
    return _pearson(sums.reshape(shape), losses.reshape(shape)).mean(axis=1)

  shape = len(found.losses), len(fractions), samples
  flat = np.ptp(found.losses.reshape(shape), axis=2).min(axis=1) == 0
  reasons = {"an output that removals do not change": flat}
  return found.benchmark(mean_correlation, 1.0, reasons=reasons)


def infidelity(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  targets: np.ndarray,
  how: Perturbation = OF_LOGITS,
  *,
  samples: int = 40,
) -> Benchmark:
  """The squared error of summed attributions as predictions of the output's loss; low is good.

  Infidelity (Yeh et al., arXiv 1901.09392, definition 1) with the removal of random squares (its
  section 3, "square removal"): E[(b * sum of the map over the square - loss)**2], where b, the best
  scale of each map, is the optimal one of its appendix, but never negative, so that a map of wrong
  sign does not pass. It is divided by E[loss**2]: a map that predicts nothing scores 1, the oracle
  0, whatever the network's logits are.

  Args:
    model, variables, images, targets: As for `measure_effects`.
    how: What a removal is; squares are of whole blocks, up to half of the side.
    samples: Squares, the same for all images.

  Raises:
    InputError: As for `measure_effects`.
  """
  check_count("samples", samples)

  def sets(rows: int, columns: int) -> np.ndarray:
    random, most = np.random.default_rng(how.seed), max(1, min(rows, columns) // 2)
    squares = np.zeros((samples, rows, columns), bool)
    for square in squares:
      size = random.integers(1, most + 1)
      top, left = (random.integers(length - size + 1) for length in (rows, columns))
      square[top : top + size, left : left + size] = True
    return squares.reshape(samples, -1)

  found = measure_effects(model, variables, images, targets, sets, how)
  reasons = {"an output that removals do not change": ~found.losses.any(axis=1)}
  return found.benchmark(_relative_error, 0.0, reasons=reasons, higher_is_better=False)


def _singles(rows: int, columns: int) -> np.ndarray:
  return np.eye(rows * columns, dtype=bool)


def _pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """Pearson's correlation along the last axis; NaN where one side is constant."""
  centred = [a - a.mean(axis=-1, keepdims=True) for a in (first, second)]
  sizes = [np.linalg.norm(a, axis=-1) for a in centred]
  found = (centred[0] * centred[1]).sum(axis=-1) / (sizes[0] * sizes[1])
  return np.where(sizes[0] > 1e-9 * np.linalg.norm(first, axis=-1), found, np.nan)


def _relative_error(sums: np.ndarray, losses: np.ndarray) -> np.ndarray:
  size = (sums**2).sum(axis=1)
  scale = np.maximum((sums * losses).sum(axis=1) / np.where(size > 0, size, 1), 0)
  return ((scale[:, None] * sums - losses) ** 2).mean(axis=1) / (losses**2).mean(axis=1)

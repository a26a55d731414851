"""DiFull and DiPart: grids whose outputs cannot see most of the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from ...attribution.families import replaced
from ...attribution.task import check_choice
from ...errors import InputError
from ...ops import Ops
from ..grid_pointing import grid_share
from ..grids import Selection, make_grid, random_grids
from ..scores import Scores, assembled, check_count, logits_of, maps_of, random_maps

Network = tuple[nn.Module, Mapping[str, Any]]
Explain = Callable[[nn.Module, Mapping[str, Any]], Callable[..., np.ndarray]]

SETTINGS = ("full", "part")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisconnectedGrids:
  """Grids of pictures, the last one of the class of the first; see `disconnected_grids`.

  Attributes:
    images: Float32 [G, side * grid, side * grid, colors].
    classes: int [G], the class of the first and the last cell.
    grid: Pictures per side.
  """

  images: np.ndarray
  classes: np.ndarray
  grid: int


def disconnected_grids(
  selection: Selection, images: np.ndarray, *, grid: int = 2, num_grids: int = 64, seed: int = 0
) -> DisconnectedGrids:
  """Makes the grids of DiFull and DiPart (arXiv 2205.10435, section 3.1).

  Pictures are of distinct classes, but the one at the bottom right is another one of the class at
  the top left: an explanation that finds the class instead of what the output sees is in both.

  Args:
    selection: From `grids.select`.
    images: [N, H, W, colors] in [0, 1].
    grid: Pictures per side.
    num_grids: Number of grids; a picture may be in several.
    seed: Of their choice.

  Raises:
    InputError: Too few classes, or no class with two pictures.
  """
  rows, classes = random_grids(selection, grid, num_grids, seed=seed)
  random = np.random.default_rng((seed, 1))
  kept, targets = [], []
  for row, (first, *_) in zip(rows, classes.tolist(), strict=True):
    others = np.setdiff1d(selection.images[first], row)
    if len(others):
      kept.append([*row[:-1], random.choice(others)])
      targets.append(first)
  if not kept:
    raise InputError(
      "No class has two pictures that are classified rightly and with confidence.",
      "Measure on more pictures.",
    )
  tiles = make_grid(np.asarray(images)[np.array(kept)], grid)
  return DisconnectedGrids(images=tiles, classes=np.array(targets), grid=grid)


def disconnected(
  model: nn.Module,
  variables: Mapping[str, Any],
  explain: Explain,
  grids: DisconnectedGrids,
  setting: str = "full",
  *,
  batch_size: int = 16,
  seed: int = 0,
) -> Scores:
  """The share of positive attribution in the only cell that an output can, or mostly does, see.

  Rao et al. (arXiv 2205.10435, section 3.1), as published at the top left and the bottom right
  cell, without smoothing. In DiFull ("full") an output is that of the network on its cell alone:
  what a method puts elsewhere is an error beyond doubt. In DiPart ("part") features are computed on
  the whole grid, and the head reads those of the cell only: what is left is the receptive field.
  Oracle 1, a uniform map 1 / cells. Gradients are right in DiFull by construction, those of B-cos
  networks included; methods that mask or smooth pictures are not.

  Args:
    model: A network with `ops`; for DiPart one whose head reads features with space.
    variables: Its variables.
    explain: Makes an explainer of a network: (model, variables) -> (images, targets) -> maps.
    grids: From `disconnected_grids`.
    setting: "full" or "part".
    batch_size: Grids explained at once.
    seed: Of the random maps.

  Returns:
    Scores of 2 G maps. Excluded are maps without a positive part.

  Raises:
    InputError: Another setting, a network that cannot be cut so, or maps that cannot be used.
  """
  check_choice("setting", setting, SETTINGS)
  check_count("batch_size", batch_size)
  cut = {"full": whole_cell, "part": cell_features}[setting]
  last = grids.grid**2 - 1
  shares, noises = [], []
  for cell in (0, last):
    network, own = cut(model, variables, grids.grid, cell)
    if setting == "part" and cell == 0:
      _check_cut((model, variables), (network, own), grids.images[:1])
    maps = maps_of(explain(network, own), grids.images, grids.classes, batch_size)
    noise = random_maps(seed + cell, range(len(maps)), maps.shape[1:])
    for found, given in ((shares, maps), (noises, noise)):
      held = np.asarray(grid_share(jnp.asarray(given), grids.grid))
      found.append(np.where(held.sum(axis=1) > 0, held[:, cell], np.nan))
  scores, random_scores = np.concatenate(shares), np.concatenate(noises)
  return assembled(
    Scores,
    {"a map without positive part": np.isnan(scores)},
    {"scores": scores, "random_scores": random_scores, "oracle_scores": 1.0},
    higher_is_better=True,
  )


class WholeCell(nn.Module):
  """A network that sees one cell of a grid alone; which, is a variable.

  It has no layer for Grad-CAM: such maps would be of the cell, and not of the grid.
  """

  inner: nn.Module
  ops: Ops
  grid: int

  def setup(self):
    self.cut = CutCell(self.grid)
    self.network = self.inner.clone(ops=self.ops, parent=None)

  def __call__(self, x: jax.Array, train: bool = False) -> Any:
    del train
    return self.network(self.cut(x))


class CutCell(nn.Module):
  """Cuts a cell out of a grid [B, H, W, ...], cells numbered column by column.

  The cell's number is a variable, so that a network is compiled once for all cells.
  """

  grid: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    height, width = x.shape[1] // self.grid, x.shape[2] // self.grid
    cell = self.variable(_PLACE, "cell", lambda: jnp.zeros((), jnp.int32)).value
    x = lax.dynamic_slice_in_dim(x, cell % self.grid * height, height, 1)
    return lax.dynamic_slice_in_dim(x, cell // self.grid * width, width, 2)


_PLACE = "place"  # the collection of the cell's number


def whole_cell(
  model: nn.Module, variables: Mapping[str, Any], grid: int, cell: int
) -> tuple[nn.Module, dict[str, Any]]:
  """Returns a network that sees one cell alone (DiFull), and its variables."""
  nested = {kind: {"network": tree} for kind, tree in variables.items()}
  return WholeCell(model, model.ops, grid), {**nested, **_placed("cut", cell)}


def cell_features(
  model: nn.Module, variables: Mapping[str, Any], grid: int, cell: int
) -> tuple[nn.Module, dict[str, Any]]:
  """Returns a network whose head reads the features of one cell (DiPart), and its variables."""
  network = model.clone(ops=replaced(model.ops, _reads_cell(grid)))
  return network, {**variables, **_placed("cut_cell", cell)}


def _placed(name: str, cell: int) -> dict[str, Any]:
  return {_PLACE: {name: {"cell": np.int32(cell)}}}


@functools.cache
def _reads_cell(grid: int) -> type[Ops]:
  class ReadsCell(Ops):
    """What is averaged at the end is one cell of the features."""

    def average(self, head, x, *, tokens=False):
      if x.ndim != 4 or x.shape[1] % grid or x.shape[2] % grid:
        raise InputError(
          f"The network's head reads features of shape {x.shape}, which have no {grid} x {grid} "
          "cells in space.",
          "DiPart is for convolutional networks; omit it.",
        )
      return super().average(head, CutCell(grid, name="cut_cell")(x), tokens=tokens)

  ReadsCell.__name__ = f"ReadsCell{grid}"
  return ReadsCell


def _check_cut(whole: Network, part: Network, images: np.ndarray) -> None:
  """Raises InputError if the head reads the same as before."""
  before, after = (logits_of(*network, images) for network in (whole, part))
  if np.array_equal(before, after):
    raise InputError(
      f"The head of a {type(whole[0]).__name__} could not be cut to a cell of its features.",
      "DiPart is for networks that end with `ops.readout`; omit it.",
    )

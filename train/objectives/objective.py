"""What a step minimises, as a value: which networks, how they are compared, what is measured."""

from __future__ import annotations

import abc
from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ..data import Dataset

PyTree = Any
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

OWN = "objective"
"""Key, beside the network's own parameters, of those that an objective learns."""


@dataclasses.dataclass(frozen=True, eq=False)
class Objective(abc.ABC):
  """A frozen value that steps are made of; abstract.

  Attributes:
    model: The network that is trained.
  """

  model: nn.Module

  @abc.abstractmethod
  def train(
    self, params: PyTree, stats: PyTree, batch: Batch, frozen: PyTree, rng: jax.Array
  ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
    """Returns the loss, the mean over the batch, and (the next running statistics, the metrics).

    Args:
      params: Of the network, and the objective's own under `OWN` if it has any.
      stats: Running statistics of the network's norms, {} for none.
      batch: {"image": float [N, H, W, C] in [0, 1], "label": int [N] or float [N, C]}, and
        `inputs`.
      frozen: Variables that are not trained, see `plan.Plan`. In evaluations, what the objective
        itself has learned is there as well, under `OWN`.
      rng: Key of this step.
    """

  @abc.abstractmethod
  def evaluate(self, variables: PyTree, batch: Batch, frozen: PyTree) -> Metrics:
    """Returns what is measured of each example, [N] each; "loss" is always there."""

  @property
  @abc.abstractmethod
  def measure(self) -> str:
    """The measure that tells which evaluation is the best; high is good."""

  @property
  def inputs(self) -> Mapping[str, jax.ShapeDtypeStruct]:
    """What a step needs of each example beside picture and label; {} for nothing."""
    return {}

  def inputs_of(self, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns `inputs` for the N examples of a data set, arrays [N, ...].

    Raises:
      InputError: The data set does not have them.
    """
    del dataset
    return {}

  def save(self, folder: pathlib.Path, params: PyTree) -> None:
    """Writes what else was learned beside the network, into a folder of the run; mostly nothing.

    Args:
      folder: Where to.
      params: As `train` takes them, on the host.
    """
    del folder, params

  def own_parameters(self) -> PyTree:
    """Returns the parameters that the objective itself learns, at their start; {} for none."""
    return {}

  def apply_training(
    self, params: PyTree, stats: PyTree, images: jax.Array, rng: jax.Array, **options: Any
  ) -> tuple[Any, dict[str, PyTree]]:
    """Applies the network in training mode: (outputs, changed collections)."""
    collections = ["batch_stats", *(["intermediates"] if options else [])]
    return self.model.apply(
      {"params": params, "batch_stats": stats},
      self.model.ops.encoding(images),
      train=True,
      mutable=collections,
      rngs={"dropout": rng},
      **options,
    )

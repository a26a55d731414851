"""The type of an objective: its networks, its loss and its metrics."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from contextlib import nullcontext
import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from bcos_jax.layers import BatchNorm

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
    statistics: Of its batch norms in training: those of the 'batch', which the running ones follow;
      or the 'running' ones, which then stay as they are.
  """

  model: nn.Module
  statistics: str = dataclasses.field(default="batch", kw_only=True)

  @abc.abstractmethod
  def train(
    self, params: PyTree, stats: PyTree, batch: Batch, frozen: PyTree, rng: jax.Array
  ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
    """Returns the loss, the mean over the batch, and (the next running statistics, the metrics).

    Args:
      params: Of the network, and the objective's own under `OWN` if it has any.
      stats: Running statistics of the network's norms, {} for none.
      batch: Of the run's feed, such as {"image": float [N, H, W, C] in [0, 1], "label": int [N] or
        float [N, C]}, and `extras`.
      frozen: Variables that are not trained, see `plan.Plan`. In evaluations, what the objective
        itself has learned is there as well, under `OWN`.
      rng: Key of this step.
    """

  @abc.abstractmethod
  def evaluate(self, variables: PyTree, batch: Batch, frozen: PyTree) -> Metrics:
    """Returns what is measured of each example, [N] each; "loss" is always there.

    Measures are averaged over examples, by "weight" [N] if that is there as well.
    """

  @property
  @abc.abstractmethod
  def measure(self) -> str:
    """The measure that tells which evaluation is the best; high is good."""

  @property
  def extras(self) -> Mapping[str, jax.ShapeDtypeStruct]:
    """The data of each example that a step needs besides picture and label; {} for none."""
    return {}

  def extras_of(self, dataset: Dataset) -> dict[str, np.ndarray]:
    """Returns `extras` for the N examples of a data set, arrays [N, ...].

    Raises:
      InputError: The data set does not have them.
    """
    del dataset
    return {}

  def save(self, folder: pathlib.Path, params: PyTree) -> None:
    """Writes what was learned besides the network into a folder of the run; usually nothing.

    Args:
      folder: Where to.
      params: As `train` takes them, on the host.
    """
    del folder, params

  def own_parameters(self) -> PyTree:
    """Returns the parameters that the objective itself learns, at their start; {} for none."""
    return {}

  def inputs(self, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns what the network is called with on a batch: arguments, and those by name."""
    return (self.model.ops.encoding(batch["image"]),), {}

  def counted(self, batch: Batch) -> jax.Array:
    """Returns which rows of an evaluation batch are examples, bool [N]; others fill it up."""
    return batch["mask"] > 0

  def apply_evaluating(self, variables: PyTree, batch: Batch) -> jax.Array:
    """Applies the network in evaluation mode."""
    given, named = self.inputs(batch)
    result: Any = self.model.apply(variables, *given, train=False, **named)
    return result

  def apply_training(
    self, params: PyTree, stats: PyTree, batch: Batch, rng: jax.Array, **options: Any
  ) -> tuple[Any, dict[str, PyTree]]:
    """Applies the network in training mode: (outputs, changed collections)."""
    collections = ["batch_stats", *(["intermediates"] if options else [])]
    given, named = self.inputs(batch)
    norms = nn.intercept_methods(_running) if self.statistics == "running" else nullcontext()
    with norms:
      result: Any = self.model.apply(
        {"params": params, "batch_stats": stats},
        *given,
        train=True,
        mutable=collections,
        rngs={"dropout": rng},
        **named,
        **options,
      )
    return result


def _running(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
  """Calls batch norms as in evaluation, all else as it is called."""
  if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
    return call(args[0])
  return call(*args, **kwargs)

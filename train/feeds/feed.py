"""The interface of feeds: batches by step, class names, and metadata for the bundle."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
import pathlib
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from bcos_jax.errors import InputError

from .. import sharding
from ..data import Dataset
from ..data.pipeline import Batches
from ..monitor.writer import MetricWriter
from ..state import TrainState

Hook = Callable[[int, TrainState], None]
Spec = Mapping[str, tuple[tuple[int, ...], Any]]


class Feed(abc.ABC):
  """The examples of a run; abstract.

  Batches are dictionaries of arrays whose first axes are as long as the batch. The loop compiles a
  step for every set of shapes that it meets. "damaged" int32 [n], where it is there, marks
  examples that could not be read, and is taken out before the step.

  Attributes:
    unit: What a batch is made of, for metrics.
    name: Of the training data, for messages.
    labels: Names of the classes, () without any.
    multi_label: Whether examples may have several labels.
    belongings: What the trained network's bundle keeps, as arguments of `pretrained.save`.
  """

  unit: ClassVar[str]
  name: str
  labels: tuple[str, ...]
  multi_label: bool = False
  belongings: Mapping[str, Any]

  def __init__(self, config: ConfigDict, model: nn.Module, mesh: Mesh):
    """Opens the data; arguments and errors as for `open_feed`."""
    self.config, self.mesh = config, mesh

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns how many training examples an epoch has."""

  @abc.abstractmethod
  def batches(self, begin: int) -> Batches:
    """Returns this process's endless training batches, from step `begin` on."""

  @abc.abstractmethod
  def eval_batches(self) -> Batches:
    """Returns this process's batches of one pass over all evaluation examples."""

  @property
  def count(self) -> int:
    """How many pictures or texts there are to train on."""
    return len(self)

  @abc.abstractmethod
  def unlabelled(self, count: int) -> Any:
    """Returns this process's share of some of them, drawn by the recipe's seed.

    Read as evaluations read them: not augmented, nothing hidden.

    Args:
      count: How many of all processes, at most `self.count`.

    Returns:
      Pictures float32 [n, H, W, C] in [0, 1]; or texts {"tokens": int32 [n, L], "mask": bool
      [n, L]}, of one length on all processes.
    """

  @abc.abstractmethod
  def examples_of(self, step: int) -> list[int]:
    """Returns the numbers of the training examples in a step's batch, of all processes."""

  def extend(self, extras_of: Callable[[Dataset], Mapping[str, np.ndarray]]) -> None:
    """Adds to every picture what the objective needs beside it, see `Objective.extras_of`."""
    del extras_of

  def sized(self, batch: dict[str, jax.Array], step: int) -> dict[str, jax.Array]:
    """Returns a batch that is on the devices at the size that its step draws."""
    del step
    return batch

  def explanations(
    self, model: nn.Module, *, every: int, count: int, folder: pathlib.Path, writer: MetricWriter
  ) -> Hook:
    """Returns a hook that shows how the network sees some evaluation examples.

    Raises:
      InputError: Such examples are not drawn while a run goes on.
    """
    raise InputError(
      f"watch.explain_every={every} explains pictures, but the network reads {self.unit}.",
      "Set --config.watch.explain_every=0, and explain the bundle: bcos-jax explain.",
    )

  @property
  def eval_batch_size(self) -> int:
    """Rounded up to a multiple of the devices."""
    return sharding.rounded_up(self.config.data.eval_batch_size, self.mesh)

  def _share(self, rows: np.ndarray) -> np.ndarray:
    """Returns this process's share of rows, in order."""
    return np.array_split(rows, jax.process_count())[jax.process_index()]

  @property
  def _processes(self) -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def check_classes(model: nn.Module, names: tuple[str, ...], where: str) -> None:
  """Raises InputError unless a network has as many classes as its data."""
  if model.num_classes != len(names):
    raise InputError(
      f"The network has {model.num_classes} classes, {where} {len(names)}.",
      f"Set --config.model.num_classes={len(names)}.",
    )

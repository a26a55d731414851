"""Feeds: training and evaluation data of a run, pictures or texts, behind one interface."""

from __future__ import annotations

import flax.linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ..config import TEXT_OBJECTIVES
from .feed import Feed as Feed
from .feed import Spec as Spec
from .images import PictureFeed as PictureFeed
from .images import check_pictures as check_pictures
from .images import picture_batch
from .text import TextFeed as TextFeed
from .text import check_texts, text_batch


def open_feed(config: ConfigDict, model: nn.Module, mesh: Mesh) -> Feed:
  """Returns the examples of a recipe, as its objective asks for them.

  Args:
    config: The recipe.
    model: The network to train.
    mesh: Of the devices that share a batch.

  Raises:
    InputError: Data that cannot be read, or that do not fit the network.
  """
  return (TextFeed if config.objective.name in TEXT_OBJECTIVES else PictureFeed)(
    config, model, mesh
  )


def check_batches(config: ConfigDict, model: nn.Module, capacity: float | None = None) -> None:
  """Refuses batches that cannot be held.

  Args:
    config: The recipe.
    model: The network to train.
    capacity: Bytes of all devices together; None for machines like this one.

  Raises:
    InputError: With the size of the batch and that of the memory.
  """
  if config.objective.name in TEXT_OBJECTIVES:
    check_texts(config, model, capacity)
  else:
    check_pictures(config, capacity)


def batch_spec(config: ConfigDict, model: nn.Module) -> Spec:
  """Returns name -> (shape, dtype) of a recipe's largest training batch, without any data."""
  make = text_batch if config.objective.name in TEXT_OBJECTIVES else picture_batch
  return make(config, model)

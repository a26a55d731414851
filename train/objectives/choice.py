"""The objective that a recipe names."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from bcos_jax.errors import InputError

from .. import losses
from .objective import Objective
from .supervised import Supervised


def from_config(config: ConfigDict, model: nn.Module, multi_label: bool) -> tuple[Objective, Any]:
  """Returns the objective of a recipe, and its frozen variables.

  Args:
    config: The recipe; `loss` and `objective` count.
    model: The network to train.
    multi_label: Whether pictures may have several labels.

  Raises:
    InputError: Values that cannot be used, or that contradict each other.
  """
  loss, eval_loss = (
    losses.from_config(name, config.loss) for name in (config.loss.name, config.loss.eval_name)
  )
  if multi_label and "cross_entropy" in (config.loss.name, config.loss.eval_name):
    raise InputError(
      "The loss cross_entropy expects one label per picture, the data have several.",
      "Set --config.loss.name=bce and --config.loss.eval_name=bce.",
    )
  return Supervised(model, loss, eval_loss, multi_label), {}

"""The methods that benchmarks compare, with settings that take seconds and scale with pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
import numpy as np

from bcos_jax import attribution, metrics

OWN = "own"
"""The network's own explanation."""

_SETTINGS: dict[str, dict[str, Any]] = {
  "integrated_gradients": {"steps": 10},
  "smooth_grad": {"samples": 16},
  "dave": {"samples": 8},
  "rise": {"masks": 200},
}
_LENGTHS: dict[str, dict[str, int]] = {
  "occlusion": {"window": 32, "stride": 32},
  "lime": {"segments": 16},
  "kernel_shap": {"segments": 16},
}
"""Lengths in pixels that are published for pictures of 224 pixels; here they are scaled."""

METHODS = (
  *(OWN, "input_x_gradient", "integrated_gradients"),
  *("guided_backprop", "grad_cam", "dave"),
)
"""Methods by default: those that take seconds."""


def explainer_of(
  name: str, model: nn.Module, variables: Mapping[str, Any]
) -> Callable[..., np.ndarray]:
  """Returns a method, by its name, as a function (images, targets) -> maps."""
  if name == OWN:
    return metrics.attribute_with(model, variables)

  def explain(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    lengths = _LENGTHS.get(name, {})
    scaled = {key: max(2, round(n * images.shape[1] / 224)) for key, n in lengths.items()}
    settings = {**_SETTINGS.get(name, {}), **scaled}
    return attribution.attribute_with(name, model, variables, **settings)(images, targets)

  return explain

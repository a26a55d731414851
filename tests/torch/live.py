"""Shared helpers of the tests against live PyTorch: imports, weights, comparisons."""

from __future__ import annotations

from collections.abc import Iterable
import sys
import types
from typing import Any

import numpy as np
import torch

from bcos_jax import models
from bcos_jax.convert import verify
from bcos_jax.convert.tables.keys import tables_of
from bcos_jax.io.bundles import Bundle

_stand_in: torch.library.Library | None = None


def torchvision() -> types.ModuleType:
  """Returns torchvision, also where its compiled operators do not fit the installed PyTorch.

  Must come before the first import of transformers, which a broken torchvision breaks as well.
  """
  global _stand_in
  try:
    import torchvision
  except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
      raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
      del sys.modules[name]
    # Declares the two operators that the import asks for; no network calls them.
    _stand_in = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
      _stand_in.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
  return torchvision


def numpy_state(network: torch.nn.Module) -> dict[str, np.ndarray]:
  """Returns a copy of the state dict as NumPy arrays."""
  return {key: tensor.detach().numpy().copy() for key, tensor in network.state_dict().items()}


def stirred(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
  """Moves every vector, table and statistic off its trivial initial value; evaluation mode."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for key, tensor in network.state_dict().items():
      if not tensor.is_floating_point():
        continue
      noise = torch.randn(tensor.shape, generator=generator)
      if key.endswith("running_var"):
        tensor.copy_(1 + 0.5 * noise.abs())
      else:
        tensor.add_(0.1 * noise if tensor.ndim == 1 else 0.02 * noise)
  return network.eval()


def encoded(side: int, count: int = 2, channels: int = 3, seed: int = 0) -> np.ndarray:
  """Returns inputs as a network sees them, [count, side, side, channels]."""
  return np.random.RandomState(seed).standard_normal((count, side, side, channels)).astype("f")


def assert_computes_the_same(
  network: torch.nn.Module, bundle: Bundle, inputs: Iterable[np.ndarray], limit: float = 1e-5
) -> None:
  """Compares outputs and every paired module on each batch of encoded inputs."""
  keys = _keys(bundle)
  for batch in inputs:
    checks = verify.compare(network, bundle, keys, batch)
    for torch_template, flax_template in keys.modules:
      stem = torch_template.partition("{")[0]
      assert any(c.torch.startswith(stem) for c in checks), (torch_template, flax_template)
    limits = {verify.GRADIENT: verify.GRADIENT_TOLERANCE}
    worst: Any = [c for c in checks if not c.error <= limits.get(c.torch, limit)]
    assert not worst, worst[0]


def _keys(bundle: Bundle):
  provenance = bundle.config["provenance"]
  source, layout = provenance["source"], provenance.get("layout", "")
  family = type(bundle.model.ops)
  return next(
    keys.of(bundle.model)
    for keys in tables_of(models.architecture_of(bundle.model))
    if (keys.layout, keys.form) == (source, layout)
    and type(keys.ops) is family
    and keys.fits(bundle.model)
  )

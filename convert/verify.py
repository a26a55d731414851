"""Layer-by-layer comparison of a converted network with its PyTorch original."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.io.bundles import Bundle

from .tables.keys import Keys
from .tables.templates import parse, render

OUTPUT, GRADIENT = "output", "gradient of the input"

TOLERANCE = 1e-4  # Float32 through a hundred layers.
# A ReLU's input within rounding of zero, or two largest values of a pooling window within rounding
# of each other, may fall on either side; the gradient jumps there, while the output does not.
GRADIENT_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class Check:
  """How far one layer of the Flax network is from the same layer in PyTorch.

  Attributes:
    torch: Name of the PyTorch module, or 'output'.
    flax: Path of the Flax module, or 'output'.
    error: Norm of the difference, relative to the norm of PyTorch's value.
  """

  torch: str
  flax: str
  error: float

  @property
  def agrees(self) -> bool:
    """Whether the error is one of rounding."""
    return self.error <= (GRADIENT_TOLERANCE if self.torch == GRADIENT else TOLERANCE)


def compare(network: Any, bundle: Bundle, keys: Keys, inputs: np.ndarray) -> list[Check]:
  """Runs both networks and compares every pair of modules of `keys`, and the outputs.

  Args:
    network: The PyTorch network, in evaluation mode; its output is a tensor, or has `logits`,
      or `pooler_output`.
    bundle: The converted network.
    keys: Whose `modules` name the pairs.
    inputs: Encoded images [N, H, W, channels] float32 (see `Encoding`), or tokens [N, T].

  Returns:
    One check per pair in the order of computation, then the outputs, and for images the gradient
    of each image's largest output with respect to it.
  """
  theirs, theirs_out = _run_torch(network, inputs)
  ours, ours_out = _run_flax(bundle, inputs)
  checks = []
  for torch_template, flax_template in keys.modules:
    for name, value in theirs.items():
      if (numbers := parse(torch_template, name)) is not None:
        path = render(flax_template, numbers)
        checks.append(Check(name, path, error(value, ours[path]) if path in ours else np.inf))
  checks.append(Check(OUTPUT, OUTPUT, error(theirs_out, ours_out)))
  if inputs.ndim == 4 and theirs_out.ndim == 2:
    targets = np.argmax(theirs_out, axis=-1)
    gradients = (
      _torch_gradient(network, inputs, targets),
      np.asarray(_gradient(bundle.model, bundle.variables, inputs, targets)),
    )
    checks.append(Check(GRADIENT, GRADIENT, _distance(*gradients)))
  return checks


def _torch_gradient(network: Any, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
  import torch

  x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(inputs, -1, 1))).requires_grad_()
  outputs = _result(network(x))
  outputs[torch.arange(len(targets)), torch.from_numpy(targets)].sum().backward()
  return np.moveaxis(x.grad.numpy(), 1, -1)


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model: nn.Module, variables: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
  def chosen(x):
    with jax.default_matmul_precision("highest"):
      outputs: Any = model.apply(variables, x)
    return outputs[jnp.arange(len(targets)), targets].sum()

  return jax.grad(chosen)(inputs)


def error(expected: np.ndarray, value: np.ndarray) -> float:
  """Returns the relative error of `value`, which may have the channels of `expected` last.

  Where the shapes do not tell whether it has, the smaller error counts: two orders of the same
  numbers do not agree by chance.
  """
  orders = [expected, np.moveaxis(expected, 1, -1)] if expected.ndim == 4 else [expected]
  fitting = [order for order in orders if order.shape == value.shape]
  if not fitting and expected.size == value.size:
    fitting = [orders[-1]]
  return min((_distance(order, value.reshape(order.shape)) for order in fitting), default=math.inf)


def _distance(expected: np.ndarray, value: np.ndarray) -> float:
  norm = np.linalg.norm(expected.astype(np.float64))
  return float(np.linalg.norm(expected.astype(np.float64) - value) / max(norm, 1e-30))


def _run_torch(network: Any, inputs: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
  import torch

  seen: dict[str, np.ndarray] = {}

  def keep(name):
    def hook(module, args, result):
      if (tensor := _tensor(result)) is not None:
        seen[name] = tensor

    return hook

  hooks = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
  x = np.moveaxis(inputs, -1, 1) if inputs.ndim == 4 else inputs
  try:
    with torch.no_grad():
      result = network(torch.from_numpy(np.ascontiguousarray(x)))
  finally:
    for hook in hooks:
      hook.remove()
  outputs = _tensor(result)
  assert outputs is not None, "an original network returns a tensor"
  return seen, outputs


def _tensor(result: Any) -> np.ndarray | None:
  found = _result(result)
  return None if found is None else found.detach().numpy().copy()


def _result(result: Any) -> Any:
  """Returns the tensor that a module's result is about; None if it holds none."""
  import torch

  for name in ("logits", "image_embeds", "text_embeds", "pooler_output", "last_hidden_state"):
    if getattr(result, name, None) is not None:
      return _result(getattr(result, name))
  if isinstance(result, Mapping):
    return _result(next(iter(result.values()))) if result else None
  if isinstance(result, Sequence):
    return _result(result[0]) if result else None
  return result if isinstance(result, torch.Tensor) else None


@functools.cache
def _captured(model: nn.Module) -> Callable[..., Any]:
  """Returns the compiled function (variables, inputs) -> outputs and what every module returns."""
  return jax.jit(
    lambda variables, inputs: model.apply(
      variables, inputs, capture_intermediates=True, mutable=["intermediates"]
    )
  )


def _run_flax(bundle: Bundle, inputs: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
  with jax.default_matmul_precision("highest"):
    output, state = _captured(bundle.model)(bundle.variables, inputs)
  flat: dict[Any, Any] = traverse_util.flatten_dict(dict(state["intermediates"]))
  seen = {
    "/".join(path[:-1]): np.asarray(values[0])
    for path, values in flat.items()
    if path[-1] == "__call__" and hasattr(values[0], "shape")
  }
  return seen, np.asarray(output)

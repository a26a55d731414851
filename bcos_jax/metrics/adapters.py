"""Adapters of explanations and networks to Captum and Quantus; neither is required.

Both libraries see pictures [N, colors, H, W], channels first, and networks of PyTorch. Quantus 0.6
wraps every network itself and takes modules of PyTorch or Keras only, so `torch_module` is what
both are given, and PyTorch has to be installed for it.

Pictures that their perturbations take out of [0, 1] are clipped to it before they are encoded: no
network has seen such colours, and explanations are not defined for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import TYPE_CHECKING, Any

from flax import linen as nn
import numpy as np

from ..attribution import METHODS
from ..attribution import attribute_with as attribute_by_name
from ..errors import InputError, requires, unknown_name
from ..explain.images import Explanation
from .grid_pointing import attribute_with
from .randomization import randomized
from .scores import check_count, logits_of, maps_of

if TYPE_CHECKING:
  import torch

_PER = ("color", "channel", "pixel")


def to_captum(explained: Explanation | np.ndarray, per: str = "color") -> np.ndarray:
  """Returns attributions with channels first, as Captum's functions take them.

  Args:
    explained: Of `explain`, with one target per image; or maps [N, H, W] of any method.
    per: What an explanation is split into: "color", which has the shape of the pictures, a colour
      and its complement together; "channel", each channel that the network saw; "pixel". Maps
      are per pixel already.

  Returns:
    float32 [N, colors, H, W], [N, channels, H, W] or [N, 1, H, W]; each sums to the value less its
    residual. `torch.from_numpy` takes them.

  Raises:
    InputError: Several targets per image, maps of another rank, or an unknown split.
  """
  if per not in _PER:
    raise unknown_name("split", per, _PER)
  if not isinstance(explained, Explanation):
    maps = np.asarray(explained, np.float32)
    if maps.ndim != 3:
      raise InputError(f"Maps have shape {maps.shape}, expected [N, H, W].", "One map per image.")
    return maps[:, None]
  if np.ndim(explained.weights) != 4:
    raise InputError(
      f"The explanation has weights {np.shape(explained.weights)}, expected [N, H, W, channels].",
      "Explain one target per image.",
    )
  parts = np.asarray(explained.inputs) * np.asarray(explained.weights)
  if per != "channel":
    colors = np.shape(explained.images)[-1] if per == "color" else 1
    parts = parts.reshape(*parts.shape[:3], -1, colors).sum(axis=3)
  return np.moveaxis(parts, -1, 1).astype(np.float32)


def torch_module(
  model: nn.Module,
  variables: Mapping[str, Any],
  *,
  layers: Sequence[str] = (),
  batch_size: int = 64,
) -> torch.nn.Module:
  """Returns a network as a module of PyTorch: float32 pictures [N, colors, H, W] to logits [N, C].

  It computes in JAX and has no gradient, which suits what looks at outputs: all of Quantus'
  metrics but those that look into the network, and Captum's metrics.

  Args:
    model: Network with `ops` and logits [N, C].
    variables: Its variables.
    layers: Of `layers_of`, in that order: the layers that Quantus' randomisation test may
      randomise. It shuffles each array's own values, as `parameter_randomization` does.
    batch_size: Pictures on the device at once.

  Raises:
    InputError: PyTorch is not installed, a layer without parameters, or a bad batch size.
  """
  check_count("batch_size", batch_size)
  for layer in layers:
    randomized(variables, layer)
  return _modules()[0](model, variables, layers, batch_size).eval()


def captum_explainer(
  module: torch.nn.Module, method: str | None = None, **settings: Any
) -> Callable[..., Any]:
  """Returns a function (pictures, target) -> attributions, as Captum's sensitivity takes it.

  Args:
    module: Of `torch_module`.
    method: A name of `bcos_jax.attribution`; None for the network's own explanations.
    **settings: Of the method.

  Returns:
    A function of tensors [N, colors, H, W], or a tuple of one, and classes `target` (an int or
    ints [N]), to a tuple of one tensor [N, 1, H, W].
  """
  explain = quantus_explainer(method, **settings)

  def explain_tensors(inputs, target):
    import torch

    inputs = inputs[0] if isinstance(inputs, tuple) else inputs
    targets = np.broadcast_to(np.asarray(target), len(inputs))
    return (torch.from_numpy(explain(module, inputs, targets)),)

  return explain_tensors


def quantus_explainer(method: str | None = None, **settings: Any) -> Callable[..., np.ndarray]:
  """Returns a function (model, inputs, targets, **others) -> attributions: Quantus' `explain_func`.

  Args:
    method: A name of `bcos_jax.attribution`; None for the network's own explanations.
    **settings: Of the method.

  Returns:
    A function of a module of `torch_module`, whose variables Quantus may have randomised, of
    pictures [N, colors, H, W] and classes [N], to maps [N, 1, H, W]. Others are ignored.

  Raises:
    InputError: An unknown method; when called, a model that `torch_module` did not make.
  """
  if method is not None and method not in METHODS:
    raise unknown_name("attribution method", method, METHODS)

  def explain(model, inputs, targets, **others):
    if not hasattr(model, "network"):
      raise InputError(
        f"The model is {type(model).__name__}, expected one made by torch_module.",
        "Give Quantus torch_module(model, variables).",
      )
    explainer = _explainer(model.network, model.variables, method, settings)
    maps = maps_of(explainer, _images(inputs), np.asarray(targets), model.batch_size)
    return to_captum(maps)

  return explain


def _explainer(network, variables, method, settings):
  if method is None:
    return attribute_with(network, variables)
  return attribute_by_name(method, network, variables, **settings)


def _images(pictures: Any) -> np.ndarray:
  """Returns pictures [N, colors, H, W] of any kind as images [N, H, W, colors] in [0, 1]."""
  pictures = np.asarray(pictures.detach().cpu() if hasattr(pictures, "detach") else pictures)
  return np.moveaxis(pictures, 1, -1).astype(np.float32).clip(0, 1)


@functools.cache
def _modules() -> tuple[type, type]:
  """Makes the classes of `torch_module` when PyTorch is needed first."""
  requires("torch", "Adapters to PyTorch")
  import torch

  class Network(torch.nn.Module):
    """A network of JAX. Its variables are extra state, so that Quantus can copy and restore it."""

    def __init__(self, network, variables, layers, batch_size):
      super().__init__()
      self.network, self.variables, self.batch_size = network, variables, batch_size
      self.layers = torch.nn.ModuleDict()
      for name in reversed(layers):  # Quantus counts from the input on.
        self.layers[name.replace(".", "_")] = Layer(self, name)

    def forward(self, pictures):
      images = _images(pictures)
      return torch.from_numpy(logits_of(self.network, self.variables, images, self.batch_size))

    def get_extra_state(self):
      return self.variables

    def set_extra_state(self, variables):
      self.variables = variables

  class Layer(torch.nn.Module):
    """What Quantus finds by its `reset_parameters`."""

    def __init__(self, owner, name):
      super().__init__()
      self.owner, self.layer = (owner,), name  # In a tuple, or each would be the other's part.

    def reset_parameters(self):
      (owner,) = self.owner
      seed = int(torch.randint(2**31, ()))
      owner.variables = randomized(owner.variables, self.layer, seed=seed)

  return Network, Layer

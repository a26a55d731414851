"""Grad-CAM, for convolutional networks and for transformers."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError, unknown_name
from ..inputs import side_of
from .images import ImageNetwork, check_resize, resized
from .running import summed
from .settings import Method
from .task import Array, Batch, Task, gradients
from .tokens import PixelTokens, pixel_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradCam(Method):
  """Grad-CAM (Selvaraju et al., arXiv 1610.02391, eqs. 1 and 2).

  It applies where a layer's result has places: no such layer, or a network for which no layer is
  known, raises InputError.

  Args:
    layer: Path of the module whose result is weighed, such as 'layer4_1': its features
      [N, h, w, D], or tokens [N, T, D], of which the patches count. By default the last block of
      a convolutional network, the norm before the attention of the last block of a transformer,
      and Swin's last norm.
    relu: Whether only what supports the target counts, as published.
    resize: To the image's size, 'nearest' (as B-cos papers compare with) or 'bilinear'.
  """

  name: ClassVar[str] = "grad_cam"
  layer: str | None = None
  relu: bool = True
  resize: str = "nearest"

  def __post_init__(self):
    check_resize(self.resize)

  def run(self, task: Task) -> np.ndarray:
    network, side = task.network, task.side
    layer = _layer_of(network.model) if self.layer is None else self.layer
    shape = _shape_at(network, side, layer)
    layout = None
    if len(shape) == 3:
      layout = pixel_tokens(network.model, side, "Grad-CAM of tokens")
    if len(shape) not in (3, 4) or (layout and layout.count != shape[1]):
      raise InputError(
        f"Layer {layer!r} returns shape {shape}, expected features [N, h, w, D] or tokens "
        "[N, T, D].",
        "Choose a layer before the pooling.",
      )
    settings = {"layout": layout, "relu": bool(self.relu), "resize": self.resize}
    return summed(task, _grad_cam, layer=layer, **settings)


def _grad_cam(
  batch: Batch, _: Array, *, layer: str, layout: PixelTokens | None, relu: bool, resize: str
) -> Array:
  shape = jax.eval_shape(lambda x: _outputs_with_tap(batch, x, layer, None)[1], batch.inputs)

  def score(tap):
    outputs, features = _outputs_with_tap(batch, batch.inputs, layer, tap)
    return batch.select(outputs), features

  found, features = gradients(score, jnp.zeros(shape.shape, shape.dtype), has_aux=True)
  if layout is not None:
    features, found = features[:, layout.prefix :], found[:, :, layout.prefix :]
  importance = jnp.mean(found, axis=tuple(range(2, found.ndim - 1)))
  maps = jnp.einsum("n...d,nkd->nk...", features, importance)
  maps = jnp.maximum(maps, 0) if relu else maps
  if layout is None:
    return resized(maps, side_of(batch.inputs), resize)
  return layout.upsampled(maps.reshape(*maps.shape[:2], *layout.grid), resize)


def _outputs_with_tap(
  batch: Batch, inputs: Array, layer: str, tap: Array | None
) -> tuple[Any, Array]:
  """Returns the outputs and the result of a layer, to which `tap` is added."""
  results = []

  def interceptor(function, args, kwargs, context):
    result = function(*args, **kwargs)
    if context.method_name == "__call__" and "/".join(context.module.path) == layer:
      result = result if tap is None else result + tap
      results.append(result)
    return result

  with nn.intercept_methods(interceptor):
    outputs = batch.network.forward(inputs)
  return outputs, results[0]


def _layer_of(model: nn.Module) -> str:
  layer = getattr(model, "grad_cam_layer", None)
  if layer is None:
    raise InputError(
      f"Grad-CAM has no default layer for {type(model).__name__}.",
      "Name the module whose features it should weight: layer='...'.",
    )
  return layer


def _shape_at(network: ImageNetwork, side: tuple[int, int], layer: str) -> tuple:
  """Returns the shape of what a layer returns for one image."""
  shapes: dict[str, Any] = {}

  def interceptor(function, args, kwargs, context):
    result = function(*args, **kwargs)
    if context.method_name == "__call__" and context.module.path:
      shapes["/".join(context.module.path)] = getattr(result, "shape", ())
    return result

  with nn.intercept_methods(interceptor):
    jax.eval_shape(lambda n, x: n.forward(x), network, network.encoded(side))
  if layer not in shapes:
    raise unknown_name("layer", layer, shapes)
  return shapes[layer]

"""Networks on images as a task sees them, and checked inputs of attribution methods on images."""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax import tree_util
import jax.numpy as jnp
import numpy as np

from ..batches import Progress
from ..errors import InputError
from ..explain.targets import Target, Variables, check_variables
from ..explain.texts import Contrast
from ..inputs import check_images, side_of
from .running import with_predictions
from .task import Array, Task, check_choice, make_task


@tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageNetwork:
  """A network on images; a tree whose leaves are the variables, so that compiled programs take it.

  Attributes:
    model: The network, with its encoding.
    variables: Its variables.
  """

  model: nn.Module = dataclasses.field(metadata={"static": True})
  variables: Variables

  def embed(self, images: Array) -> Array:
    """Returns images [B, H, W, colors] encoded, [B, H, W, channels]."""
    return self.model.ops.encoding(images)

  def forward(self, inputs: Array) -> Any:
    """Returns the outputs for encoded images."""
    return self.model.apply(self.variables, inputs)

  def predict(self, images: Array) -> Any:
    """Returns the outputs for images."""
    return self.forward(self.embed(images))

  def encoded(self, side: tuple[int, int]) -> jax.ShapeDtypeStruct:
    """Returns the shape of one encoded image."""
    return jax.ShapeDtypeStruct((1, *side, self.model.ops.encoding.channels), jnp.float32)


def prepare(
  network: ImageNetwork,
  images: Array | np.ndarray,
  targets: Target | Contrast,
  *,
  batch_size: int | None = None,
  progress: Progress = iter,
  score: str = "logit",
  baseline: float | Array | np.ndarray | None = None,
) -> Task:
  """Checks what a method on images is given.

  The network computes in float32, and without recomputation: some methods look inside its blocks.

  Args:
    network: The network.
    images: [N, H, W, colors] in [0, 1].
    targets: What to explain, see `bcos_jax.attribution`.
    batch_size: Images on the device at once; None for all.
    progress: Wraps the loop over batches.
    score: A name of `SCORES`.
    baseline: What stands for an absent pixel, of the encoded input: a number, [channels] or
      [H, W, channels]; None for 0. Removal blends with it.

  Raises:
    InputError: As for `explain`; or an unknown score, a baseline of another shape or a progress
      that is not a function.
  """
  ops = dataclasses.replace(network.model.ops, dtype=None, recompute=False)
  network = dataclasses.replace(network, model=network.model.clone(ops=ops))
  images = check_images(images, ops.encoding)
  check_variables(network.model, network.variables, side_of(images))
  blank = check_baseline(network, side_of(images), 0.0 if baseline is None else baseline)
  task = make_task(
    kind="images",
    network=network,
    inputs=(images,),
    mask=None,
    targets=targets,
    score=score,
    baseline=tree_util.Partial(_constant, blank),
    removal=tree_util.Partial(blended, blank),
    batch_size=batch_size,
    progress=progress,
  )
  return with_predictions(task)


def check_baseline(
  network: ImageNetwork, side: tuple[int, int], baseline: float | Array | np.ndarray
) -> np.ndarray:
  """Returns what stands for an absent pixel, float32 [H, W, channels] of the encoded input."""
  shape = network.encoded(side).shape[1:]
  try:
    filled = np.broadcast_to(np.asarray(baseline, np.float32), shape)
  except ValueError:
    raise InputError(
      f"baseline has shape {np.shape(baseline)}, expected a number, [{shape[-1]}] or {shape}.",
      "It is of the encoded input; `model.ops.encoding(color)` encodes a colour.",
    ) from None
  if not np.isfinite(filled).all():
    raise InputError("baseline contains NaN or infinite values.", "Pass 0 for an empty input.")
  return filled


def _constant(blank: Array, network: ImageNetwork, images: tuple[Array], inputs: Array) -> Array:
  return jnp.broadcast_to(blank, inputs.shape)


def blended(blank: Array, network: ImageNetwork, images: tuple[Array], remains: Array) -> Any:
  """Returns the outputs for images of which a share of each pixel [B, H, W] remains."""
  inputs = network.embed(*images)
  return network.forward(blank + remains[..., None] * (inputs - blank))


RESIZES = ("nearest", "bilinear")


def check_resize(kind: str) -> str:
  """Returns a name of `RESIZES`, else raises InputError."""
  return check_choice("resize", kind, RESIZES)


def resized(maps: Array, side: tuple[int, int], kind: str) -> Array:
  """Returns maps [..., h, w] resized to the sides given, by a name of `RESIZES`."""
  return jax.image.resize(maps, (*maps.shape[:-2], *side), kind)

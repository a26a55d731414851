"""Explanations of pictures of one size, compiled before the first is asked for."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import threading
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..batches import check_batch_size, in_batches
from ..errors import InputError
from ..inputs import check_images
from ..models import is_language_model
from .images import Explanation, compiled
from .targets import Target, check_explainable, check_range, output_shapes, split_target

QUESTIONS = ("classes", "predicted")


class Explainer:
  """Explains pictures of one size, by programs that are compiled here.

  For servers: nothing is compiled, traced or copied to the device when a picture comes, and
  threads may ask at once. Numbers are those of `explain`.

  Attributes:
    model: The network.
    size: Height and width of the pictures, in pixels.
    batch_size: Pictures of a device batch.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Mapping[str, Any],
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 1,
    questions: tuple[str, ...] = QUESTIONS,
  ):
    """Compiles.

    Args:
      model: A network of pictures, as `explain` takes it.
      variables: Its variables.
      size: Height and width of the pictures; None for the network's own.
      batch_size: Pictures of a device batch; fewer are filled up.
      questions: What is compiled now: explanations of given 'classes', of the 'predicted' one.
        Others are compiled when they are first asked for.

    Raises:
      InputError: A network that has no classes or reads no pictures, or bad sizes.
    """
    check_explainable(model, variables, None)
    if is_language_model(model) or not getattr(model, "num_classes", 0):
      raise InputError(
        f"The {type(model).__name__} does not classify pictures.",
        "Use bcos_jax.explain, with a function as target, or for texts TextReader.",
      )
    if unknown := [each for each in questions if each not in QUESTIONS]:
      raise InputError(f"The question {unknown[0]!r} is unknown.", f"Use {' or '.join(QUESTIONS)}.")
    self.model = model.clone(ops=dataclasses.replace(model.ops, dtype=None))
    height, width = size or model.image_sides
    self.size = (height, width)
    self.batch_size = check_batch_size(batch_size) or 1
    self._variables = jax.tree.map(jnp.asarray, variables)
    self._outputs = output_shapes(self.model, self.size)
    self._programs: dict[str, Any] = {}
    self._lock = threading.Lock()
    for question in questions:
      self._program(question)

  def __call__(self, images: np.ndarray | jax.Array, target: Target = None) -> Explanation:
    """Explains pictures [N, H, W, colors] in [0, 1]; `target` as for `explain`, but no function.

    Raises:
      InputError: As `explain`, and for pictures of another size.
    """
    images = check_images(images, self.model.ops.encoding)
    if images.shape[1:3] != self.size:
      raise InputError(
        f"The pictures have {images.shape[1]} x {images.shape[2]} pixels, this explainer was "
        f"compiled for {self.size[0]} x {self.size[1]}.",
        "Resize them, or make another explainer.",
      )
    function, classes = split_target(target, images.shape[0])
    if function is not None or (classes is not None and classes.ndim > 1):
      raise InputError(
        "An explainer is compiled for one class for each picture.",
        "Use bcos_jax.explain for functions and for several classes.",
      )
    if classes is None:
      program, rows = self._program("predicted"), (images, None)
    else:
      check_range(classes, self._outputs)
      program, rows = self._program("classes"), (images, np.asarray(classes, np.int32))
    return in_batches(
      lambda part: program(None, self._variables, *part), rows, self.batch_size, exact=True
    )

  def _program(self, question: str) -> Any:
    with self._lock:
      if question not in self._programs:
        colors = self.model.ops.encoding.colors
        shape = (self.batch_size, *self.size, colors)
        classes = jax.ShapeDtypeStruct(shape[:1], jnp.int32) if question == "classes" else None
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        self._programs[question] = compiled(self.model, None, self._variables, images, classes)
      return self._programs[question]

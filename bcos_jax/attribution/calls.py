"""Calls of attribution methods: `attribute`, for images and texts, and methods as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import inspect
from typing import Any

import numpy as np

from ..batches import Progress
from ..errors import InputError
from ..explain.targets import Target
from ..explain.text_reader import TextReader
from ..explain.texts import Contrast
from . import images as pictures
from .images import ImageNetwork
from .settings import Method, settings_of, with_settings
from .task import Task


def attribute(
  network: Any,
  inputs: Any,
  method: Method,
  target: Target | Contrast = None,
  batch_size: int | None = None,
  progress: Progress = iter,
) -> np.ndarray:
  """Attributes an output of a network to the pixels of images, or to the tokens of texts.

  Larger values support the target, for every method and for both. What a method's maps sum to, and
  which have negative values, its docstring says.

  Args:
    network: Of images: (model, variables), or a bundle. Of texts: a `TextReader` or a `TextTask`.
      It is left as it is and not put into explanation mode; it computes in float32, at the highest
      matmul precision.
    inputs: Images [N, H, W, colors] in [0, 1]. Of texts: (ids int [N, L], mask bool [N, L], False
      on padding, which is at the end); or N strings for a `TextReader`.
    method: Settings of a method, e.g. `IntegratedGradients(steps=20)`.
    target: What to explain: None, the predicted class of each input; an int; ints [N] or [N, K]; a
      `Contrast` of target and foil; or a function of the outputs to [N] or [N, K], each row by
      itself.
    batch_size: Inputs on the device at once, those with removed parts included; bounds memory. None
      takes the method's own, 16 or 64.
    progress: Wraps the loop over batches, e.g. `tqdm.tqdm`.

  Returns:
    float32 [N, H, W] of the encoded image, its channels together, or [N, L], exactly 0 on padding;
    with K targets [N, K, ...].

  Raises:
    InputError: Inputs, targets or settings that cannot be used, a method for the other kind of
      inputs, and where a method does not apply to a network.
  """
  size = method.batch_size if batch_size is None else batch_size
  task = _task(network, inputs, method, target, size, progress)
  return task.shaped(method.run(task))


def _task(network, inputs, method: Method, target, batch_size: int, progress) -> Task:
  """Returns the checked task of a method."""
  from .text import TextTask, checked_inputs, reader_task  # makes its functions by this module

  fields: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
  fields |= {name: getattr(method, name) for name in ("score", "baseline") if hasattr(method, name)}
  if isinstance(network, TextReader | TextTask):
    _check_kind(method, "texts")
    texts = network
    if isinstance(texts, TextReader):
      if isinstance(inputs, Sequence) and not isinstance(inputs, tuple):
        read = texts.read(inputs)
        inputs = read.ids, read.mask
      texts = reader_task(texts)
    ids, mask = inputs
    return checked_inputs.prepare(texts, ids, mask, target, needs=method.needs, **fields)
  _check_kind(method, "images")
  if not isinstance(network, tuple):
    network = network.model, network.variables
  if getattr(network[0], "reads", "images") == "text":
    raise InputError(
      f"A {type(network[0]).__name__} reads texts, and its special tokens are not known.",
      "Pass a TextReader, or what attribution.text.language_task returns.",
    )
  return pictures.prepare(ImageNetwork(*network), inputs, target, **fields)


def _check_kind(method: Method, kind: str) -> None:
  if kind not in method.kinds:
    raise InputError(
      f"{type(method).__name__} is a method for {' and '.join(method.kinds)}, got {kind}.",
      "Methods for texts are in bcos_jax.attribution.text, those for images above it.",
    )


def function_of(method: type[Method], kind: str) -> Callable[..., np.ndarray]:
  """Returns a method as a function, for images or for texts.

  Args:
    method: Whose fields become keyword arguments.
    kind: 'images': (model, variables, images, targets); 'texts': (task, ids, mask, targets).
  """

  def of_images(
    model, variables, images, targets=None, *, batch_size=None, progress=iter, **settings
  ):
    chosen = with_settings(method, settings)
    return attribute((model, variables), images, chosen, targets, batch_size, progress)

  def of_texts(task, ids, mask, targets=None, *, batch_size=None, progress=iter, **settings):
    chosen = with_settings(method, settings)
    return attribute(task, (ids, mask), chosen, targets, batch_size, progress)

  function: Any = of_images if kind == "images" else of_texts
  shared = list(inspect.signature(function).parameters.values())[:-1]
  fields = inspect.signature(method).parameters
  function.__name__ = function.__qualname__ = method.name
  function.__doc__ = method.__doc__
  function.__signature__ = inspect.Signature([*shared, *(fields[n] for n in settings_of(method))])
  function.method = method
  return function

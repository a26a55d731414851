"""What is exported: a network, its encoding and its explanation as one function of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
from jax import export as jax_export
import jax.numpy as jnp

from ..errors import InputError, unknown_name
from ..explain.images import dynamic_linear
from ..explain.tokens import dynamic_tokens
from ..inputs import Preprocess, of_pictures
from ..models import is_language_model
from ..network import Network
from ..render import options_of
from ..render.color import rgba_from

Array = jax.Array

PARTS = ("logits", "map", "picture", "weights")
"""What may be asked for."""

PREDICTED = -1
"""The target that stands for the predicted class."""


_UNDECIDED = (
  jax.errors.ConcretizationTypeError,
  jax.errors.TracerIntegerConversionError,
  jax.errors.InconclusiveDimensionOperation,
)
"""What tracing raises where a free length has to be a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportProgram:
  """A function of arrays, with what it takes and returns.

  Attributes:
    function: (*inputs) -> results by name; pure, the weights are constants of it.
    inputs: Name -> shape and dtype, in order; the first axis of each is the batch.
    outputs: Names of the results, sorted.
    preprocess: From a picture to the first input; None for texts.
  """

  function: Callable[..., dict[str, Array]]
  inputs: Mapping[str, jax.ShapeDtypeStruct]
  outputs: tuple[str, ...]
  preprocess: Preprocess | None

  @property
  def batch(self) -> int | None:
    """Number of inputs at a time; None if it is free."""
    first = next(iter(self.inputs.values())).shape[0]
    return first if isinstance(first, int) else None


@contextlib.contextmanager
def blaming_batch() -> Iterator[None]:
  """Says what to do where tracing needs a number for the free length of the batch."""
  try:
    yield
  except _UNDECIDED as error:
    raise InputError(
      f"The network needs to know its batch: {' '.join(str(error).split())[:200]}",
      "Export it for a fixed number of inputs: --batch=1.",
    ) from error


def program_of(
  network: Network,
  parts: Sequence[str],
  *,
  batch: int | None = None,
  image_size: tuple[int, int] | None = None,
  length: int | None = None,
) -> ExportProgram:
  """Returns what is exported of a network.

  Args:
    network: The network.
    parts: Some of `PARTS`.
    batch: Number of inputs at a time; None leaves it free.
    image_size: Height and width of the pictures; None takes those of the network's preprocessing.
    length: Tokens of a text; None takes those of the network's context.

  Raises:
    InputError: A part that the network does not have, a network without classes, a bad size.
  """
  for part in parts:
    if part not in PARTS:
      raise unknown_name("part of an explanation", part, PARTS)
  if not parts:
    raise InputError("Nothing is asked for.", f"Known: {', '.join(PARTS)}.")
  model = network.model.clone(ops=dataclasses.replace(network.model.ops, dtype=None))
  first = _first_axis(batch)
  if is_language_model(model):
    if image_size is not None:
      raise InputError("image_size is for pictures, the network reads texts.", "Omit it.")
    return _of_texts(model, network, parts, first, length)
  if length is not None:
    raise InputError("length is for texts, the network reads pictures.", "Omit it.")
  return _of_pictures(model, network, parts, first, image_size)


def _first_axis(batch: int | None) -> Any:
  if batch is None:
    return jax_export.symbolic_shape("n")[0]
  if batch < 1:
    raise InputError(f"batch is {batch}, expected at least 1.", "Use 1, or None for any number.")
  return batch


def _of_pictures(
  model: Any,
  network: Network,
  parts: Sequence[str],
  first: Any,
  image_size: tuple[int, int] | None,
) -> ExportProgram:
  if not getattr(model, "num_classes", 0):
    raise InputError(
      f"{network.name} returns features and has no classes to explain.",
      "Export a network with classes.",
    )
  preprocess = _sized(of_pictures(network.preprocess), image_size)
  encoding, variables = model.ops.encoding, network.variables
  if "picture" in parts and encoding.channels != 2 * encoding.colors:
    raise InputError(
      f"{network.name} has no complement channels, so that its explanation has no colours.",
      "Leave out 'picture'; 'map' is there for every network.",
    )
  smooth = options_of(dataclasses.replace(network, preprocess=preprocess)).smooth

  def explained(images: Array, target: Array) -> dict[str, Array]:
    chosen = _Targets(target)
    ex = dynamic_linear(model, variables, images, chosen.value)
    found = {**_logits(ex.logits, model.ops.probability), **chosen.results(ex)}
    if "weights" in parts:
      found["weights"] = ex.weights
    if "picture" in parts:
      found["picture"] = rgba_from(ex.inputs, ex.weights, smooth)
    return {name: value for name, value in found.items() if name in outputs}

  def predicted(images: Array) -> dict[str, Array]:
    outputs: Any = model.apply(variables, encoding(images))
    return _logits(outputs, model.ops.probability)

  outputs = _names(parts)
  inputs = {"images": jax.ShapeDtypeStruct((first, *preprocess.size, encoding.colors), jnp.float32)}
  if _explains(parts):
    inputs["target"] = jax.ShapeDtypeStruct((first,), jnp.int32)
  function = explained if _explains(parts) else predicted
  return ExportProgram(
    function=_exact(function), inputs=inputs, outputs=outputs, preprocess=preprocess
  )


def _of_texts(
  model: Any, network: Network, parts: Sequence[str], first: Any, length: int | None
) -> ExportProgram:
  for part in ("picture", "weights"):
    if part in parts:
      raise InputError(f"{part!r} is of pictures, the network reads texts.", "Leave it out.")
  if model.predicts not in ("classes", "next_tokens"):
    raise InputError(
      f"{network.name} predicts {model.predicts.replace('_', ' ')}, expected classes or next "
      "tokens.",
      "Export a classifier, or a language model that reads from left to right.",
    )
  length = int(model.context_length) if length is None else length
  if not 1 <= length <= model.context_length:
    raise InputError(
      f"length is {length}, expected 1 to {model.context_length}.", "Choose another length."
    )
  variables = network.variables

  def explained(ids: Array, mask: Array, target: Array) -> dict[str, Array]:
    chosen = _Targets(target)
    # Of the last token of a text its successor is predicted; padding is on the right.
    at = jnp.sum(mask, axis=1) - 1 if model.predicts_tokens else None
    ex = dynamic_tokens(model, variables, ids, chosen.value, mask=mask, at=at)
    found = {**_logits(ex.logits, "softmax"), **chosen.results(ex)}
    return {name: value for name, value in found.items() if name in outputs}

  def predicted(ids: Array, mask: Array) -> dict[str, Array]:
    at = {"at": jnp.sum(mask, axis=1) - 1} if model.predicts_tokens else {}
    outputs: Any = model.apply(variables, ids, mask=mask, **at)
    return _logits(outputs, "softmax")

  outputs = _names(parts)
  inputs = {name: jax.ShapeDtypeStruct((first, length), jnp.int32) for name in ("ids", "mask")}
  if _explains(parts):
    inputs["target"] = jax.ShapeDtypeStruct((first,), jnp.int32)
  function = explained if _explains(parts) else predicted
  return ExportProgram(function=_exact(function), inputs=inputs, outputs=outputs, preprocess=None)


def _exact(function: Callable[..., dict[str, Array]]) -> Callable[..., dict[str, Array]]:
  """Returns a function computed at the highest matmul precision, wherever it is traced."""

  @functools.wraps(function)
  def exact(*inputs: Array) -> dict[str, Array]:
    with jax.default_matmul_precision("highest"):
      return function(*inputs)

  return exact


_RESULTS = {
  "logits": ("logits", "probabilities"),
  "map": ("contributions", "explained", "residual", "value"),
  "picture": ("picture",),
  "weights": ("weights",),
}
"""The results that belong to each part."""


def _names(parts: Sequence[str]) -> tuple[str, ...]:
  return tuple(sorted(name for part in set(parts) for name in _RESULTS[part]))


def _explains(parts: Sequence[str]) -> bool:
  return set(parts) != {"logits"}


def _logits(logits: Array, probability: str) -> dict[str, Array]:
  function = jax.nn.softmax if probability == "softmax" else jax.nn.sigmoid
  return {"logits": logits, "probabilities": function(logits)}


@dataclasses.dataclass(frozen=True)
class _Targets:
  """Targets [N] that may be `PREDICTED`."""

  given: Array

  def classes(self, logits: Array) -> Array:
    """Returns the explained classes, int32 [N]."""
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(self.given < 0, best, self.given)

  def value(self, logits: Array) -> Array:
    """Returns the logits of these; 0 for classes that are not there."""
    hot = jnp.arange(logits.shape[-1], dtype=jnp.int32) == self.classes(logits)[:, None]
    return jnp.sum(jnp.where(hot, logits, 0.0), axis=-1)

  def results(self, ex: Any) -> dict[str, Array]:
    """Returns what 'map' asks for."""
    kept = {name: getattr(ex, name) for name in ("contributions", "residual", "value")}
    return {**kept, "explained": self.classes(ex.logits)}


def _sized(preprocess: Preprocess, size: tuple[int, int] | None) -> Preprocess:
  """Returns how pictures are read at another size: scaled by as much."""
  if size is None or tuple(size) == preprocess.size:
    return preprocess
  ratio = max(new / old for new, old in zip(size, preprocess.size, strict=True))
  if isinstance(preprocess.resize, int):
    resize = max(round(preprocess.resize * ratio), *size) if preprocess.resize else 0
  else:
    resize = tuple(max(round(r * ratio), s) for r, s in zip(preprocess.resize, size, strict=True))
  return dataclasses.replace(preprocess, size=size, resize=resize)

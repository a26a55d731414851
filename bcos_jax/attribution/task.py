"""Checked inputs of attribution methods on images, and their batched execution.

A method is a pure function of encoded inputs and of the outputs that are explained. It is
compiled once per network and settings: the last batch is filled up rather than shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..batches import check_batch_size
from ..errors import InputError, unknown_name
from ..explain.targets import (
  Target,
  Variables,
  check_classes,
  check_variables,
  select,
  split_target,
)
from ..inputs import check_images

Array = jax.Array
Progress = Callable[[range], Iterable[int]]
Score = Callable[[Array], Array]

SCORES: dict[str, Callable[[Array], Array]] = {
  "logit": lambda logits: logits,
  "softmax": jax.nn.softmax,
  "sigmoid": jax.nn.sigmoid,
}
"""What may be explained of a class: its logit, or its probability among all or by itself."""


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Which of a network's outputs is explained; static to compiled functions.

  Attributes:
    function: Of the outputs, to [N] or [N, K]; None for classes.
    score: A name of `SCORES`, for classes.
  """

  function: Callable[[Any], Array] | None
  score: str = "logit"

  def select(self, outputs: Any, classes: Array | None) -> Array:
    """Returns what is explained of the outputs, [N, K]."""
    if self.function is None:
      outputs = SCORES[self.score](outputs)
    values = select(outputs, len(jax.tree.leaves(outputs)[0]), self.function, classes)[0]
    return values.reshape(len(values), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explained(Chosen):
  """A network and which of its outputs is explained; static to compiled functions.

  Attributes:
    model: The network, computing in float32.
  """

  model: nn.Module

  def outputs(self, variables: Variables, inputs: Array) -> Any:
    """Returns the network's outputs for encoded inputs."""
    return self.model.apply(variables, inputs)

  def values(self, variables: Variables, inputs: Array, classes: Array | None) -> Array:
    """Returns the explained scalars of encoded inputs, [N, K]."""
    return self.select(self.outputs(variables, inputs), classes)


@dataclasses.dataclass(frozen=True)
class Task:
  """The arguments that all methods share, checked.

  Attributes:
    explained: What is explained.
    variables: Of the network.
    images: float32 [N, H, W, colors].
    classes: int32 [N, K]; None if a function is explained.
    single: Whether there is one target per image, so that maps have no axis K.
    batch_size: Rows per device batch.
    progress: Wraps the loop over batches.
  """

  explained: Explained
  variables: Variables
  images: np.ndarray
  classes: np.ndarray | None
  single: bool
  batch_size: int
  progress: Progress

  @property
  def model(self) -> nn.Module:
    return self.explained.model

  def replaced(self, model: nn.Module) -> Task:
    """Returns the task for another network with the same variables."""
    return dataclasses.replace(self, explained=dataclasses.replace(self.explained, model=model))

  def shaped(self, maps: Array | np.ndarray) -> np.ndarray:
    """Returns maps [N, K, H, W] as a method returns them: float32, without K if not requested."""
    maps = np.asarray(maps, np.float32)
    return maps[:, 0] if self.single else maps


def prepare(
  model: nn.Module,
  variables: Variables,
  images: Array | np.ndarray,
  targets: Target,
  batch_size: int,
  progress: Progress,
  score: str = "logit",
) -> Task:
  """Checks what a method is given; arguments as for the methods of `attribution`.

  Raises:
    InputError: As for `explain`; or an unknown score, or a progress that is not a function.
  """
  images = check_images(images, model.ops.encoding)
  size = check_batch_size(batch_size)
  if score not in SCORES:
    raise unknown_name("score", score, SCORES)
  if not callable(progress):
    raise InputError(
      f"progress is {progress!r}, expected a function that wraps a range.",
      "Pass tqdm.tqdm, or omit it.",
    )
  # Without recomputation: some methods look at what is inside a block.
  model = model.clone(ops=dataclasses.replace(model.ops, dtype=None, recompute=False))
  check_variables(model, variables, images.shape[1:3])
  function, classes = split_target(targets, len(images))
  explained = Explained(function, score, model=model)
  single = True
  if function is not None:
    encoded = jax.ShapeDtypeStruct((*images.shape[:3], model.ops.encoding.channels), jnp.float32)
    outputs = jax.eval_shape(explained.outputs, variables, encoded)
    single = jax.eval_shape(lambda o: select(o, len(images), function, None)[0], outputs).ndim == 1
  else:
    check_classes(model, images.shape[1:3], np.zeros(1, int) if classes is None else classes)
    single = classes is None or classes.ndim == 1
  task = Task(explained, variables, images, classes, single, size or len(images), progress)
  if function is None:
    if classes is None:
      quiet = dataclasses.replace(task, progress=iter)
      classes = by_image(quiet, predicted)
    task = dataclasses.replace(task, classes=np.asarray(classes, np.int32).reshape(len(images), -1))
  return task


@dataclasses.dataclass(frozen=True)
class Batch:
  """One batch as a method sees it, within a compiled function.

  Attributes:
    explained: What is explained.
    variables: Of the network.
    inputs: The encoded input, [B, H, W, channels].
    classes: [B, K], or None.
    rows: The images' numbers in the whole task, [B]: what a random number may depend on.
  """

  explained: Explained
  variables: Variables
  inputs: Array
  classes: Array | None
  rows: Array

  def score(self, inputs: Array) -> Array:
    """Returns the explained scalars of other inputs of this batch, [B, K]."""
    return self.explained.values(self.variables, inputs, self.classes)

  def replaced(self, model: nn.Module) -> Batch:
    """Returns the batch for another network with the same variables."""
    return dataclasses.replace(self, explained=dataclasses.replace(self.explained, model=model))


Method = Callable[..., Array]


def by_image(task: Task, method: Method, *arrays: Any, **settings: Any) -> np.ndarray:
  """Runs a method on all images, `task.batch_size` at a time.

  Args:
    task: What is explained.
    method: `method(batch, *arrays, **settings) -> [B, ...]`, a function of a module.
    *arrays: Traced arguments.
    **settings: Static arguments, hashable.

  Returns:
    The results, [N, ...].
  """
  count, fixed = len(task.images), tuple(sorted(settings.items()))
  size = min(task.batch_size, count)
  parts = []
  for start in task.progress(range(0, count, size)):
    rows = np.minimum(np.arange(start, start + size), count - 1)
    classes = None if task.classes is None else task.classes[rows]
    with jax.default_matmul_precision("highest"):
      part = _run(
        method, task.explained, fixed, task.variables, task.images[rows], classes, rows, arrays
      )
    parts.append(np.asarray(part)[: count - start])
  return np.concatenate(parts)


@jax.jit(static_argnums=(0, 1, 2))
def _run(method, explained, settings, variables, images, classes, rows, arrays):
  inputs = explained.model.ops.encoding(images)
  return method(Batch(explained, variables, inputs, classes, rows), *arrays, **dict(settings))


class Pairs(NamedTuple):
  """A batch of pairs of an image and a number (of a mask, of a step).

  Attributes:
    images: The images that may occur, as many in every batch.
    places: Which of these is in each pair, [B].
    numbers: The number of each pair, [B].
    real: Whether the row is not padding of the last batch, [B].
  """

  images: slice
  places: np.ndarray
  numbers: np.ndarray
  real: np.ndarray


def pairs(task: Task, count: int) -> Iterator[Pairs]:
  """Cuts all pairs of an image and a number below `count` into batches, image by image."""
  images, rows = len(task.images), len(task.images) * count
  size = min(task.batch_size, rows)
  span = min(images, (size - 1) // count + 2)
  for start in task.progress(range(0, rows, size)):
    first = min(start // count, images - span)
    row = np.minimum(np.arange(start, start + size), rows - 1)
    real = np.arange(start, start + size) < rows
    yield Pairs(slice(first, first + span), row // count - first, row % count, real)


def overlapped(parts: Iterable[Any]) -> Iterator[Any]:
  """Yields device results as NumPy trees, each after the next has been requested.

  So the device computes while the next batch is prepared, and no more wait in its memory.
  """
  waiting = None
  for part in parts:
    if waiting is not None:
      yield jax.tree.map(np.asarray, waiting)
    waiting = part
  yield jax.tree.map(np.asarray, waiting)


def summed(task: Task, method: Method, count: int, *arrays: Any) -> np.ndarray:
  """Returns the sum over `count` numbers of what a method makes of an image and a number.

  Pairs share batches, whatever the number of images. (A loop on the device would also be far
  slower on CPUs, where XLA runs the convolutions of a loop on one thread.)

  Args:
    task: What is explained.
    method: `method(batch, numbers [B], *arrays) -> [B, ...]`, a function of a module.
    count: Numbers per image.
    *arrays: Traced arguments.

  Returns:
    float32 [N, ...].
  """
  arrays = jax.device_put(arrays)

  def dispatch():
    for pair in pairs(task, count):
      inside = pair.images
      images = (task.images[inside], None if task.classes is None else task.classes[inside])
      with jax.default_matmul_precision("highest"):
        part = _run_pairs(
          method, task.explained, task.variables, images, inside.start, pair[1:], arrays
        )
      yield inside.start, part

  sums: np.ndarray | None = None
  for first, part in overlapped(dispatch()):
    if sums is None:
      sums = np.zeros((len(task.images), *part.shape[1:]), np.float32)
    sums[first : first + len(part)] += part
  assert sums is not None
  return sums


@jax.jit(static_argnums=(0, 1))
def _run_pairs(method, explained, variables, images, first, pair, arrays):
  places, numbers, real = pair
  colors, classes = jax.tree.map(lambda leaf: leaf[places], images)
  inputs = explained.model.ops.encoding(colors)
  part = method(Batch(explained, variables, inputs, classes, first + places), numbers, *arrays)
  part = jnp.where(real.reshape(-1, *(1,) * (part.ndim - 1)), part, 0)
  return jax.ops.segment_sum(part, places, len(images[0]))


def predicted(batch: Batch) -> Array:
  """Returns the predicted class of each image, [B]."""
  return jnp.argmax(batch.explained.outputs(batch.variables, batch.inputs), axis=-1)


def gradients(score: Callable[[Any], Array], inputs: Any, *, has_aux: bool = False) -> Any:
  """Returns the gradient of each of K scalars per image: one forward and K backward passes.

  Args:
    score: Maps a tree of arrays [N, ...] to [N, K].
    inputs: The tree.
    has_aux: Whether `score` returns a pair, whose second part is returned as well.

  Returns:
    The tree of gradients, each [N, K, ...]; with `has_aux`, the pair (gradients, aux).
  """
  values, pullback, *aux = jax.vjp(score, inputs, has_aux=has_aux)
  one_hot = jnp.eye(values.shape[1], dtype=values.dtype)[:, None, :].repeat(len(values), axis=1)
  (found,) = jax.vmap(pullback)(one_hot)
  found = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), found)
  return (found, *aux) if has_aux else found


def check_baseline(task: Task, baseline: float | Array | np.ndarray) -> np.ndarray:
  """Returns what stands for an absent pixel, float32 [H, W, channels] of the encoded input."""
  shape = (*task.images.shape[1:3], task.model.ops.encoding.channels)
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


def check_count(name: str, value: int, least: int = 1) -> int:
  """Returns an integer of at least `least`, else raises InputError."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
    raise InputError(f"{name} is {value!r}, expected an integer of at least {least}.")
  return int(value)


def check_share(name: str, value: float) -> float:
  """Returns a number in [0, 1], else raises InputError."""
  if not (isinstance(value, int | float | np.number) and 0 <= value <= 1):
    raise InputError(f"{name} is {value!r}, expected a number from 0 to 1.")
  return float(value)


def resized(maps: Array, side: tuple[int, int], kind: str) -> Array:
  """Returns maps [..., h, w] resized to the sides given, by a name of `RESIZES`."""
  return jax.image.resize(maps, (*maps.shape[:-2], *side), kind)


def checked_method(
  methods: Mapping[str, Callable[..., Any]], name: str, settings: Iterable[str]
) -> Callable[..., Any]:
  """Returns a method by name, else raises InputError; also for a setting that it does not have."""
  if name not in methods:
    raise unknown_name("attribution method", name, methods)
  known = methods[name].__kwdefaults__ or {}
  for setting in settings:
    if setting not in known:
      raise unknown_name(f"setting of {name!r}", setting, known)
  return methods[name]


RESIZES = ("nearest", "bilinear")


def check_resize(kind: str) -> str:
  """Returns a name of `RESIZES`, else raises InputError."""
  if kind not in RESIZES:
    raise unknown_name("resize", kind, RESIZES)
  return kind

"""The question that attribution methods and perturbation metrics answer, of images and texts alike.

A `Task` says what of which inputs is explained (`chosen`, `classes`), what an input without content
is (`baseline`), and what the network returns where parts of an input are absent (`removal`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ..batches import Progress, check_batch_size
from ..errors import InputError, unknown_name
from ..explain.targets import Target, check_range, select, split_target
from ..explain.texts import Contrast
from ..inputs import side_of

Array = jax.Array
MEAN = -1  # the foil that is the mean of all classes

SCORES: dict[str, Callable[[Array], Array]] = {
  "logit": lambda logits: logits,
  "softmax": jax.nn.softmax,
  "sigmoid": jax.nn.sigmoid,
}
"""What may be explained of a class: its logit, or its probability among all or by itself."""


class TaskNetwork(Protocol):
  """What a task needs of a network, itself a tree of arrays: `ImageNetwork` or `TextTask`.

  The inputs are the images, or the ids and mask of texts; the features are the encoded images
  [B, H, W, channels], or the embeddings [B, L, D].
  """

  @property
  def predict(self) -> Callable[..., Any]:
    """(*inputs) -> outputs."""
    ...

  @property
  def embed(self) -> Callable[..., Array] | None:
    """(*inputs) -> features, which gradients are taken at."""
    ...

  @property
  def forward(self) -> Callable[..., Any] | None:
    """(features, *inputs but the first) -> outputs."""
    ...


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Which of a network's outputs is explained; static to compiled functions.

  Attributes:
    function: Of the outputs, to [N] or [N, K]; None for classes.
    score: A name of `SCORES`, for classes.
  """

  function: Callable[[Any], Array] | None
  score: str = "logit"

  def __post_init__(self):
    if self.score not in SCORES:
      raise unknown_name("score", self.score, SCORES)

  def select(self, outputs: Any, classes: Array | None, foils: Array | None = None) -> Array:
    """Returns what is explained of the outputs, [N, K]: of classes, less their foils."""
    if self.function is None:
      outputs = SCORES[self.score](outputs)
    values = self._of(outputs, classes)
    if foils is None:
      return values
    means = jnp.mean(outputs, axis=-1, keepdims=True)
    return values - jnp.where(foils == MEAN, means, self._of(outputs, jnp.maximum(foils, 0)))

  def _of(self, outputs: Any, classes: Array | None) -> Array:
    values = select(outputs, len(jax.tree.leaves(outputs)[0]), self.function, classes)[0]
    return values.reshape(len(values), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Checked inputs, and what is explained of them.

  Attributes:
    kind: 'images' or 'texts'.
    network: The network.
    inputs: What its functions take: (images float32 [N, H, W, colors],), or (ids int32 [N, L],
      mask bool [N, L]).
    mask: bool [N, L], False on the padding of texts; None for images.
    chosen: What of the outputs is explained.
    baseline: Partial (network, inputs, features) -> features without content.
    removal: Partial (network, inputs, share of each pixel that remains [B, H, W], or whether each
      token does [B, L]) -> outputs.
    batch_size: Rows per device batch.
    progress: Wraps the loop over batches.
    classes: int32 [N, K]; None if a function is explained.
    foils: Likewise, `MEAN` for the mean of all classes; None without contrast.
    count: K, the targets per input.
    single: Whether there is one target per input, so that maps have no axis K.
  """

  kind: str
  network: Any
  inputs: tuple[np.ndarray, ...]
  mask: np.ndarray | None
  chosen: Chosen
  baseline: jax.tree_util.Partial
  removal: jax.tree_util.Partial
  batch_size: int
  progress: Progress
  classes: np.ndarray | None = None
  foils: np.ndarray | None = None
  count: int = 1
  single: bool = True

  def __len__(self) -> int:
    return len(self.inputs[0])

  @property
  def places(self) -> tuple[int, ...]:
    """The shape of a map: (H, W), or (L,)."""
    return self.inputs[0].shape[1:3]

  @property
  def side(self) -> tuple[int, int]:
    """Height and width of the images."""
    return side_of(self.inputs[0])

  def replaced(self, **network: Any) -> Task:
    """Returns the task for the network with other fields."""
    return dataclasses.replace(self, network=dataclasses.replace(self.network, **network))

  def shaped(self, maps: Array | np.ndarray) -> np.ndarray:
    """Returns maps [N, K, ...] as a method does: float32, 0 on padding, without K if single."""
    if self.mask is not None:
      maps = np.where(self.mask[:, None], maps, 0)
    maps = np.asarray(maps, np.float32)
    return maps[:, 0] if self.single else maps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """One batch as a method sees it, within a compiled function.

  Attributes:
    network: The network.
    chosen: What of the outputs is explained.
    blank: The task's `baseline`.
    arguments: The network's inputs, [B, ...].
    inputs: The features, [B, ..., D]; None where the network has none.
    classes: [B, K], or None.
    foils: Likewise.
    rows: The inputs' numbers in the whole task, [B]: what a random number may depend on.
  """

  network: Any
  chosen: Chosen
  blank: jax.tree_util.Partial
  arguments: tuple[Array, ...]
  inputs: Any  # an Array, except before the embeddings of texts are known
  classes: Array | None
  foils: Array | None
  rows: Array

  def select(self, outputs: Any) -> Array:
    """Returns what is explained of the outputs, [B, K]."""
    return self.chosen.select(outputs, self.classes, self.foils)

  def score(self, inputs: Array) -> Array:
    """Returns the explained scalars of other features of this batch, [B, K]."""
    return self.select(self.network.forward(inputs, *self.arguments[1:]))

  def baseline(self) -> Array:
    """Returns the features without content, [B, ..., D]."""
    return self.blank(self.network, self.arguments, self.inputs)

  def replaced(self, **network: Any) -> Batch:
    """Returns the batch for the network with other fields."""
    return dataclasses.replace(self, network=dataclasses.replace(self.network, **network))


def make_task(
  *,
  kind: str,
  network: Any,
  inputs: tuple[np.ndarray, ...],
  mask: np.ndarray | None,
  targets: Target | Contrast,
  score: str,
  baseline: jax.tree_util.Partial,
  removal: jax.tree_util.Partial,
  batch_size: int | None,
  progress: Progress,
) -> Task:
  """Returns the task for inputs that were checked; checks all else.

  Classes stay None where the predicted ones are requested; see `running.with_predictions`.

  Raises:
    InputError: Targets, score, batch size or progress that cannot be used.
  """
  if not callable(progress):
    raise InputError(
      f"progress is {progress!r}, expected a function that wraps a range.",
      "Pass tqdm.tqdm, or omit it.",
    )
  count, asked, foils = len(inputs[0]), targets, None
  size = check_batch_size(batch_size) or count
  if isinstance(targets, Contrast):
    foils = split_target(targets.foil, count, kind)[1]
    foils = np.array(MEAN) if foils is None else check_foils(np.asarray(foils))
    asked = targets.target
  function, classes = split_target(asked, count, kind)
  if function is not None and foils is not None:
    raise InputError(
      "The target of a Contrast is a function, expected classes.", "Subtract in the function."
    )
  task = Task(
    kind=kind,
    network=network,
    inputs=inputs,
    mask=mask,
    chosen=Chosen(function, score),
    baseline=baseline,
    removal=removal,
    batch_size=size,
    progress=progress,
    foils=foils,
  )
  outputs = jax.eval_shape(network.predict, *(array[:1] for array in inputs))
  if function is not None:
    values = jax.eval_shape(lambda o: select(o, 1, function, None)[0], outputs)
    return dataclasses.replace(task, count=values.size, single=values.ndim == 1)
  for asked in (classes, None if foils is None else np.maximum(foils, 0)):
    check_range(np.zeros(1, int) if asked is None else asked, outputs)
  return task if classes is None else with_classes(task, np.asarray(classes))


def with_classes(task: Task, classes: np.ndarray) -> Task:
  """Returns the task of explaining these classes, [N] or [N, K], less the foils it has.

  Raises:
    InputError: Foils of another shape.
  """
  foils = task.foils
  if foils is not None and foils.shape not in ((), classes.shape):
    raise InputError(
      f"The classes have shape {classes.shape}, the foils {foils.shape}; expected the same.",
      "Give one foil per class.",
    )
  columns = np.int32(classes).reshape(len(classes), -1)
  if foils is not None:
    foils = np.int32(np.broadcast_to(foils, classes.shape)).reshape(columns.shape)
  single = classes.ndim == 1
  return dataclasses.replace(
    task, classes=columns, foils=foils, count=columns.shape[1], single=single
  )


def check_foils(foils: np.ndarray) -> np.ndarray:
  """Returns foils, or raises InputError if one is negative, which would be none."""
  if foils.min() < 0:
    raise InputError(
      f"The foils go down to {foils.min()}, expected classes from 0 on.",
      "Omit the foil to compare with the mean of all classes.",
    )
  return foils


def gradients(score: Callable[[Any], Any], inputs: Any, *, has_aux: bool = False) -> Any:
  """Returns the gradient of each of K scalars per input: one forward and K backward passes.

  Args:
    score: Maps a tree of arrays [N, ...] to [N, K].
    inputs: The tree.
    has_aux: Whether `score` returns a pair, whose second part is returned as well.

  Returns:
    The tree of gradients, each [N, K, ...]; with `has_aux`, the pair (gradients, aux).
  """
  vjp: Any = jax.vjp  # whose types want a literal
  values, pullback, *aux = vjp(score, inputs, has_aux=has_aux)
  one_hot = jnp.eye(values.shape[1], dtype=values.dtype)[:, None, :].repeat(len(values), axis=1)
  (found,) = jax.vmap(pullback)(one_hot)
  found = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), found)
  return (found, *aux) if has_aux else found


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


def check_choice(name: str, value: str, known: Collection[str]) -> str:
  """Returns one of the known names, else raises InputError."""
  if value not in known:
    raise unknown_name(name, value, known)
  return value

"""Exact explanations: the input-dependent linear map that a network applied.

In explanation mode every dynamic weight is a constant, so the network is affine in its input x:

    value(x) = sum(x * W(x)) + constants,        W(x) = d value / d x

(B-cos Networks, arXiv 2205.10268, section 3.2). One forward and one backward pass give W(x) for a
whole batch, and, in the same backward pass, the share of every constant by its source.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from typing import Any, NoReturn
import warnings

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from .. import compiling, render
from ..batches import fitting, in_batches
from ..errors import InputError
from ..inputs import check_images, side_of
from ..layers import sources
from ..models import is_language_model
from . import display
from .targets import (
  Target,
  Variables,
  blaming_variables,
  check_explainable,
  check_range,
  pulled,
  select,
  split_target,
)
from .texts import Contrast, TextExplanation
from .tokens import explain_tokens

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
  """Explanations of N images; with K targets per image, an axis K follows N where marked (K).

  Attributes:
    images: The images, [N, H, W, colors] in [0, 1].
    logits: The network's outputs, [N, C] (any tree of arrays for other networks).
    value: The explained scalar, [N(, K)].
    target: The explained class, int [N(, K)]; None if the target was a function.
    inputs: The encoded input that the network saw, [N, H, W, channels].
    weights: W(x), the dynamic linear weights, [N(, K), H, W, channels].
    contributions: sum over channels of inputs * weights, [N(, K), H, W].
    residual: value - contributions.sum(), [N(, K)]: what no pixel accounts for.
    residuals: The residual by source, each [N(, K)]: `bias`, `logit_bias`, `position`,
      `running_mean` and so on, as far as the network has them, and `unexplained`: the rest. The
      rest is rounding error for every network of this package; more than that means that some
      layer is not linear in explanation mode.
    conventional: Whether the network is a conventional one: its gates were held fixed, and the
      explanation is post hoc.
    labels: Names of the classes; () where they are not known.
    names: Of the images, such as their files; () for images from memory.
    readings: What was done to each picture before the network saw it, in words; () for none.
    network: What the network is called in headings.
    options: How it is drawn; None for the default.
  """

  images: Array
  logits: Any
  value: Array
  target: Array | None
  inputs: Array
  weights: Array
  contributions: Array
  residual: Array
  residuals: dict[str, Array]
  conventional: bool = dataclasses.field(default=False, metadata={"static": True})
  labels: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  readings: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  network: str = dataclasses.field(default="the network", metadata={"static": True})
  options: render.Options | None = dataclasses.field(default=None, metadata={"static": True})

  def __len__(self) -> int:
    return len(self.images)

  def __repr__(self) -> str:
    return display.image_summary(self)

  def rather_than(self, one: tuple[int, ...], other: tuple[int, ...]) -> Explanation:
    """Returns what supports one explained output of an image rather than another, exactly.

    Both are linear maps of the same input, so that the difference of the outputs splits into the
    differences of contributions and of residuals.

    Args:
      one: Place of the one, (row,) or (row, target).
      other: Place of the other, of the same image.

    Returns:
      One explanation, [1, ...], without a target.
    """
    parts = {
      name: jax.tree.map(lambda leaf: (leaf[one] - leaf[other])[None], getattr(self, name))
      for name in ("value", "weights", "contributions", "residual", "residuals")
    }
    shared = {
      name: jax.tree.map(lambda leaf: leaf[one[0]][None], getattr(self, name))
      for name in ("images", "inputs", "logits")
    }
    return dataclasses.replace(self, target=None, **parts, **shared)

  def figure(self, index: int | tuple[int, int] = 0) -> Any:
    """Returns a Matplotlib figure of one image, or (image, which of its targets).

    Raises:
      InputError: There is no such image, or the network has no classes.
    """
    return render.figure(self, index, self.labels, options=self.options)

  def show(self) -> None:
    """Shows the figures: in a notebook, else in a window where there is one, else as a file."""
    display.show(self, self._repr_png_())

  def save(self, folder: str | os.PathLike) -> list[pathlib.Path]:
    """Writes figures, arrays (NPZ), JSON, CSV and a report into a folder; see `saving`.

    Returns:
      The files, the report last.

    Raises:
      InputError: The folder cannot be written, or a file would replace one of the pictures.
    """
    from . import saving

    with saving.SavedPictures(folder, self.names or len(self), network=self.network) as saved:
      saved.add(self)
    return saved.paths

  def _repr_png_(self) -> bytes | None:
    return display.image_png(self)

  @property
  def completeness_error(self) -> np.ndarray:
    """|unexplained| relative to the largest of |value| and the absolute contributions' mass."""
    places = tuple(range(self.value.ndim, self.contributions.ndim))
    mass = np.abs(self.contributions).sum(axis=places)
    return np.abs(self.residuals["unexplained"]) / np.maximum(
      np.maximum(np.abs(self.value), mass), np.finfo(np.float32).tiny
    )


def explain(
  model: nn.Module,
  variables: Variables,
  images: Array | np.ndarray,
  target: Target | Contrast = None,
  batch_size: Any = None,
  **text: Any,
) -> Explanation | TextExplanation:
  """Explains a scalar output for each image, or text, of a batch.

  Args:
    model: A network made by `create` or `bcosify`. Its mode is not touched.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1]; the network encodes them itself. For a language model
      token ids [N, L].
    target: What to explain: None, the predicted class; an int, that class for all; ints [N], one
      class per image; ints [N, K], K classes per image in one forward pass and K backward passes;
      a function of the outputs that returns [N] or [N, K]. Each function is compiled for; arrays
      that change from call to call are compiled for once as `jax.tree_util.Partial(f, arrays)`.
    batch_size: Images per device batch, to bound memory: two batches are there at once. None takes
      all together; 'auto' as many as fit into half of the free memory. Compiled once.
    **text: For language models, see `explain_tokens`: mask, types, at and buckets.

  Returns:
    The explanation, as NumPy arrays. Computed in float32, at the highest matmul precision,
    whatever the network's `ops.dtype` is: rounding would break completeness. Close to a tie, a
    network that predicts in bfloat16 may thus predict another class than the one explained here;
    give the class as target then.

  Raises:
    InputError: Images outside [0, 1] or of the wrong shape, a target out of range, a bad size,
      variables that are not those of the model, a model without `ops`, or a call inside `jax.jit`.
  """
  check_explainable(model, variables, images)
  if is_language_model(model):
    return explain_tokens(model, variables, images, target, batch_size, **text)
  if text:
    _refuse(text, model)
  images = check_images(images, model.ops.encoding)
  _warn_of_size(model, images.shape[1:3])
  if model.ops.dtype is not None:
    model = model.clone(ops=dataclasses.replace(model.ops, dtype=None))
  function, classes = split_target(target, images.shape[0])
  if function is not None and not isinstance(function, jax.tree_util.Partial):
    function = jax.tree_util.Partial(function)
  checked = classes is None

  def run(rows: tuple[np.ndarray, Array | None]) -> Explanation:
    nonlocal checked
    if not checked:  # What is traced here is used again below.
      check_range(classes, _explain_jit.eval_shape(model, function, variables, *rows).logits)
      checked = True
    return _explain_jit(model, function, variables, *rows)

  with blaming_variables(model, variables, side_of(images)):
    if batch_size == "auto":
      one = jax.tree.map(lambda rows: rows[:1], (images, classes))
      batch_size = fitting(compiled(model, function, variables, *one), images.shape[0])
    return in_batches(run, (images, classes), batch_size)


def _refuse(text: dict[str, Any], model: nn.Module) -> NoReturn:
  raise InputError(
    f"{next(iter(text))} is for language models, the model is a {type(model).__name__}.", "Omit it."
  )


def _warn_of_size(model: nn.Module, size: tuple[int, ...]) -> None:
  """Warns of pictures of quite another size than the network's; grids of such are no surprise."""
  side = getattr(model, "image_size", 0)
  if not isinstance(side, int) or side < 1:
    return
  if max(size) > 2 * side and any(length % side for length in size):
    warnings.warn(
      f"Images of {size[1]} x {size[0]} pixels are explained as they are, by a network for {side}. "
      "The preprocessing of its bundle resizes them: bcos_jax.load(bundle).explain(images).",
      stacklevel=3,
    )


def dynamic_linear(
  model: nn.Module, variables: Variables, images: Array, target: Target = None
) -> Explanation:
  """The pure function behind `explain`: no checks, any transformation of JAX applies to it.

  Use it inside a jitted step, or inside a loss: outer derivatives see how the weights W(x) depend
  on parameters and images. Arguments and result as for `explain`, but JAX arrays, computed in the
  network's own `ops.dtype`; for exact explanations inside a bfloat16 step, give it
  `model.clone(ops=dataclasses.replace(model.ops, dtype=None))`.
  """
  function, classes = split_target(target, images.shape[0])
  detached = model.clone(ops=model.ops.detached())
  inputs = model.ops.encoding(images)
  gains = jax.tree.map(
    lambda leaf: jnp.ones(leaf.shape, leaf.dtype),
    jax.eval_shape(lambda: detached.apply(variables, inputs, mutable=[sources.COLLECTION])[1]),
  )

  def forward(inputs, gains):
    outputs = detached.apply({**variables, **gains}, inputs)
    return select(outputs, images.shape[0], function, classes)

  value, pullback, (outputs, chosen) = jax.vjp(forward, inputs, gains, has_aux=True)
  weights, shares = pulled(value, pullback)
  seen = inputs if value.ndim == 1 else inputs[:, None]
  contributions = jnp.sum(seen * weights, axis=-1)
  residual = value - jnp.sum(contributions, axis=(-2, -1))
  residuals = _by_source(shares)
  residuals["unexplained"] = residual - sum(residuals.values())
  return Explanation(
    images=images,
    logits=outputs,
    value=value,
    target=chosen,
    inputs=inputs,
    weights=weights,
    contributions=contributions,
    residual=residual,
    residuals=residuals,
    conventional=model.ops.conventional,
    options=render.options_for(model.ops, images.shape[1]),
  )


@functools.partial(compiling.jit, static_argnums=0)
def _explain_jit(model, function, variables, images, classes):
  # As a Partial, the function is static by its code and dynamic by its arrays.
  return dynamic_linear(model, variables, images, classes if function is None else function)


def compiled(model: nn.Module, function: Any, variables: Variables, images: Any, classes: Any):
  """Compiles explanations for shapes: (function, variables, images, classes) -> Explanation.

  Args:
    model: A network in float32.
    function: The target, a `jax.tree_util.Partial`, or None.
    variables: Its variables, or their shapes.
    images: Images [N, H, W, colors], or their shape.
    classes: Classes int32 [N], or their shape; None for a function, or for the predicted ones.
  """
  with jax.default_matmul_precision("highest"):
    return _explain_jit.lower(model, function, variables, images, classes).compile()


def _by_source(shares: Variables) -> dict[str, Array]:
  totals: dict[str, Array] = {}
  flat: dict[Any, Any] = traverse_util.flatten_dict(shares)
  for path, share in flat.items():
    totals[path[-1]] = totals.get(path[-1], 0.0) + share
  return totals

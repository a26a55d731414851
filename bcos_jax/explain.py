"""Exact explanations: the input-dependent linear map that a network applied.

In explanation mode every dynamic weight is a constant, so the network is affine in its input x:

    value(x) = sum(x * W(x)) + constants,        W(x) = d value / d x

(B-cos Networks, arXiv 2205.10268, section 3.2). One forward and one backward pass give W(x) for a
whole batch, and, in the same backward pass, the share of every constant by its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import operator
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from .errors import InputError
from .inputs import check_images
from .layers import sources

Array = jax.Array
Variables = Mapping[str, Any]
Target = None | int | Array | np.ndarray | Callable[[Any], Array]


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

  @property
  def completeness_error(self) -> Array:
    """|unexplained| relative to the largest of |value| and the absolute contributions' mass."""
    mass = np.abs(self.contributions).sum(axis=(-2, -1))
    return np.abs(self.residuals["unexplained"]) / np.maximum(
      np.maximum(np.abs(self.value), mass), np.finfo(np.float32).tiny
    )


def explain(
  model: nn.Module,
  variables: Variables,
  images: Array | np.ndarray,
  target: Target = None,
  batch_size: int | None = None,
) -> Explanation:
  """Explains a scalar output for each image of a batch.

  Args:
    model: A network made by `create` or `bcosify`. Its mode is not touched.
    variables: Its variables.
    images: [N, H, W, colors] in [0, 1]; the network encodes them itself.
    target: What to explain: None, the predicted class; an int, that class for all; ints [N], one
      class per image; ints [N, K], K classes per image in one forward pass and K backward passes;
      a function of the outputs that returns [N] or [N, K].
    batch_size: Images per device batch, to bound memory; None takes all at once. Compiled once.

  Returns:
    The explanation, as NumPy arrays. Computed in float32, at the highest matmul precision,
    whatever the network's `ops.dtype` is: rounding would break completeness. Close to a tie, a
    network that predicts in bfloat16 may thus predict another class than the one explained here;
    give the class as target then.

  Raises:
    InputError: Images outside [0, 1] or of the wrong shape, a target out of range, a bad size, or
      variables that are not those of the model.
  """
  images = check_images(images, model.ops.encoding)
  batch_size = _check_batch_size(batch_size)
  if model.ops.dtype is not None:
    model = model.clone(ops=dataclasses.replace(model.ops, dtype=None))
  _check_variables(model, variables, images.shape[1:3])
  function, classes = _split_target(target, len(images))
  if classes is not None:
    _check_classes(model, variables, images, classes)
  size = min(batch_size or len(images), len(images))
  parts = []
  for start in range(0, len(images), size):
    rows = np.minimum(np.arange(start, start + size), len(images) - 1)
    with jax.default_matmul_precision("highest"):
      part = _explain_jit(
        model, function, variables, images[rows], None if classes is None else classes[rows]
      )
    keep = min(size, len(images) - start)
    parts.append(jax.tree.map(lambda leaf, keep=keep: np.asarray(leaf)[:keep], part))
  return parts[0] if len(parts) == 1 else jax.tree.map(lambda *p: np.concatenate(p), *parts)


def dynamic_linear(
  model: nn.Module, variables: Variables, images: Array, target: Target = None
) -> Explanation:
  """The pure function behind `explain`: no checks, any transformation of JAX applies to it.

  Use it inside a jitted step, or inside a loss: outer derivatives see how the weights W(x) depend
  on parameters and images. Arguments and result as for `explain`, but JAX arrays, computed in the
  network's own `ops.dtype`; for exact explanations inside a bfloat16 step, give it
  `model.clone(ops=dataclasses.replace(model.ops, dtype=None))`.
  """
  function, classes = _split_target(target, len(images))
  detached = model.clone(ops=model.ops.detached())
  inputs = model.ops.encoding(images)
  gains = jax.tree.map(
    lambda leaf: jnp.ones(leaf.shape, leaf.dtype),
    jax.eval_shape(lambda: detached.apply(variables, inputs, mutable=[sources.COLLECTION])[1]),
  )

  def forward(inputs, gains):
    outputs = detached.apply({**variables, **gains}, inputs)
    return _select(outputs, len(images), function, classes)

  value, pullback, (outputs, chosen) = jax.vjp(forward, inputs, gains, has_aux=True)
  if value.ndim == 1:
    weights, shares = pullback(jnp.ones_like(value))
  else:
    one_hot = jnp.eye(value.shape[1], dtype=value.dtype)[:, None, :].repeat(len(value), axis=1)
    weights, shares = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), jax.vmap(pullback)(one_hot))
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
  )


@jax.jit(static_argnums=(0, 1))
def _explain_jit(model, function, variables, images, classes):
  return dynamic_linear(model, variables, images, classes if function is None else function)


def _select(outputs, count, function, classes):
  if function is not None:
    value = function(outputs)
    if value.ndim not in (1, 2) or len(value) != count:
      raise InputError(
        f"The target function returned shape {value.shape} for {count} images, "
        f"expected ({count},) or ({count}, K).",
        "Return one scalar, or K scalars, per image.",
      )
    return value, (outputs, None)
  if classes is None:
    classes = jnp.argmax(outputs, axis=-1)
  columns = classes if classes.ndim == 2 else classes[:, None]
  value = jnp.take_along_axis(outputs, columns, axis=-1)
  return value.reshape(classes.shape), (outputs, classes)


def _by_source(shares: Variables) -> dict[str, Array]:
  totals: dict[str, Array] = {}
  for path, share in traverse_util.flatten_dict(shares).items():
    totals[path[-1]] = totals.get(path[-1], 0.0) + share
  return totals


def _split_target(target: Target, count: int) -> tuple[Callable | None, Array | None]:
  if target is None:
    return None, None
  if callable(target):
    return target, None
  classes = target if isinstance(target, jax.Array) else np.asarray(target)
  if not jnp.issubdtype(classes.dtype, jnp.integer):
    raise InputError(
      f"target has dtype {classes.dtype}, expected integers or a function.",
      "Give class indices, or a function of the outputs.",
    )
  if classes.ndim == 0:
    classes = classes.reshape(1).repeat(count)
  if classes.ndim > 2 or len(classes) != count or not classes.size:
    raise InputError(
      f"target has shape {classes.shape} for {count} images, expected ({count},) or ({count}, K).",
      "Give one class, or K classes, per image.",
    )
  return None, classes


def _check_batch_size(batch_size: int | None) -> int | None:
  if batch_size is None:
    return None
  try:
    size = operator.index(batch_size)
  except TypeError:
    size = 0
  if size < 1:
    raise InputError(
      f"batch_size is {batch_size!r}, expected an integer of at least 1.", "Give None for all."
    )
  return size


@functools.lru_cache(maxsize=64)
def _shapes(model: nn.Module, side: tuple[int, int]) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of a network's variables by path."""
  image = jax.ShapeDtypeStruct((1, *side, model.ops.encoding.channels), jnp.float32)
  leaves = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image), sep="/")
  # Parameters first, which say most about what network it is.
  paths = sorted(leaves, key=lambda path: not path.startswith("params/"))
  return {path: leaves[path].shape for path in paths}


def _check_variables(model: nn.Module, variables: Variables, side: tuple[int, int]) -> None:
  wanted = _shapes(model, side)
  given = traverse_util.flatten_dict(variables, sep="/")
  collections = {path.partition("/")[0] for path in wanted}
  problems = []
  for path, shape in wanted.items():
    if path not in given:
      problems.append(f"{path} is missing")
    elif np.shape(given[path]) != shape:
      problems.append(f"{path} has shape {np.shape(given[path])}, expected {shape}")
  if problems:  # More than a network needs is fine, as where a pooled one is explained unpooled.
    problems += [
      f"{path} is not a variable of it"
      for path in given
      if path not in wanted and path.partition("/")[0] in collections
    ]
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise InputError(
      f"The variables are not those of this {type(model).__name__}: "
      f"{'; '.join(problems[:5])}{more}.",
      "Give the model together with its own variables, as create/init, load and bcosify do.",
    )


def _check_classes(model, variables, images, classes):
  encoded = jax.ShapeDtypeStruct((*images.shape[:-1], model.ops.encoding.channels), jnp.float32)
  outputs = jax.eval_shape(model.apply, variables, encoded)
  if not hasattr(outputs, "shape") or outputs.ndim != 2:
    raise InputError(
      "Class targets need a network with logits [N, C].",
      "Give a function of the outputs as target.",
    )
  low, high = int(np.min(classes)), int(np.max(classes))
  if low < 0 or high >= outputs.shape[-1]:
    raise InputError(
      f"target spans classes {low} to {high}, expected 0 to {outputs.shape[-1] - 1}.",
      "Count classes from zero.",
    )

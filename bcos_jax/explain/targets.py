"""Explanation targets: scalar outputs, selected by class or computed by a function.

Shared by exact explanations and post-hoc attributions, with the checks of what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
from typing import Any

from flax import errors as flax_errors
from flax import linen as nn
from flax import traverse_util
import jax
from jax import core
import jax.numpy as jnp
import numpy as np

from ..errors import InputError

Array = jax.Array
Variables = Mapping[str, Any]
Target = None | int | Array | np.ndarray | Callable[[Any], Array]


def check_explainable(model: Any, variables: Any, inputs: Any) -> None:
  """Refuses what `explain` cannot take, naming the way to what is meant.

  Raises:
    InputError: Tracers of a transformation, or a model without layers from `ops`.
  """
  if not isinstance(model, nn.Module) or not hasattr(model, "ops"):
    kind = f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}"
    raise InputError(
      f"The model is a {kind}, expected a Flax Linen module with a field `ops`, the layer family "
      "that `explain` detaches.",
      "Take one from bcos_jax.create, load or bcosify; or give your own Linen module a field `ops` "
      "and make its maps by ops.conv and ops.dense, see docs/families.md.",
    )
  if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves((variables, inputs))):
    raise InputError(
      "explain is called inside jax.jit or another transformation; it checks its inputs and "
      "returns NumPy arrays, so it compiles itself.",
      "Call it outside, or use bcos_jax.dynamic_linear (for texts explain.tokens.dynamic_tokens), "
      "which takes the same arguments.",
    )


def split_target(target: Any, count: int, kind: str = "images") -> tuple[Callable | None, Any]:
  """Returns a target as (function, None), (None, classes [N] or [N, K]) or, undecided, two None.

  Raises:
    InputError: Classes that are not integers, or not of `count` images, or whatever else `kind` is.
  """
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
      f"target has shape {classes.shape} for {count} {kind}, expected ({count},) or ({count}, K).",
      f"Give one class, or K classes, for each of the {kind}.",
    )
  return None, classes


@functools.lru_cache(maxsize=64)
def _shapes(
  model: nn.Module, side: tuple[int, int] | None
) -> tuple[dict[str, tuple[int, ...]], Any]:
  """Returns the shapes of a network's variables by path, and of its outputs for one input.

  `side` is that of an image; None for the network's own example.
  """
  if side is None or getattr(model, "reads", "images") == "text":
    example = model.input_spec
  else:
    example = jax.ShapeDtypeStruct((1, *side, model.ops.encoding.channels), jnp.float32)
  outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), example)
  leaves: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  # Parameters first, which say most about what network it is.
  paths = sorted(leaves, key=lambda path: not path.startswith("params/"))
  return {path: leaves[path].shape for path in paths}, outputs


def output_shapes(model: nn.Module, side: tuple[int, int]) -> Any:
  """Returns the shapes of a network's outputs for one image of `side` pixels; computes nothing."""
  return _shapes(model, side)[1]


def check_variables(
  model: nn.Module, variables: Variables, side: tuple[int, int] | None = None
) -> None:
  """Raises InputError unless a network finds its variables.

  `side` is that of the images in pixels; None for the network's own example, as of texts, whose
  variables do not depend on their length.
  """
  wanted, _ = _shapes(model, side)
  given: dict[Any, Any] = traverse_util.flatten_dict(variables, sep="/")
  collections = {path.partition("/")[0] for path in wanted}
  problems = []
  for path, shape in wanted.items():
    if path not in given:
      problems.append(f"{path} is missing")
    elif np.shape(given[path]) != shape:
      problems.append(f"{path} has shape {np.shape(given[path])}, expected {shape}")
  if problems:  # Additional variables are accepted, as when a pooled network is explained unpooled.
    problems += [
      f"{path} is not a variable of it"
      for path in given
      if path not in wanted and path.partition("/")[0] in collections
    ]
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise InputError(
      f"The variables are not those of this {type(model).__name__}: "
      f"{'; '.join(problems[:5])}{more}.",
      "Pass the model with its own variables, as create/init, load and bcosify return them.",
    )


@contextlib.contextmanager
def blaming_variables(
  model: nn.Module, variables: Variables, side: tuple[int, int] | None = None
) -> Iterator[None]:
  """Where a network fails, raises the error of `check_variables` if its variables are to blame.

  To check them beforehand would trace the network once more.
  """
  try:
    yield
  except InputError:
    raise
  except (flax_errors.FlaxError, TypeError, ValueError):
    check_variables(model, variables, side)
    raise


def check_range(classes: Array | np.ndarray, outputs: Any) -> None:
  """Raises InputError unless outputs, or their shapes, are logits [N, C] of all the classes."""
  _check_logits(outputs)
  low, high = int(np.min(classes)), int(np.max(classes))
  if low < 0 or high >= outputs.shape[-1]:
    raise InputError(
      f"target spans classes {low} to {high}, expected 0 to {outputs.shape[-1] - 1}.",
      "Count classes from 0.",
    )


def _check_logits(outputs: Any) -> None:
  if getattr(outputs, "ndim", 0) != 2:
    raise InputError(
      "Class targets need a network with logits [N, C].",
      "Give a function of the outputs as target.",
    )


def select(
  outputs: Any, count: int, function: Callable | None, classes: Array | None
) -> tuple[Array, tuple[Any, Array | None]]:
  """Returns the explained scalars of `count` outputs, and (outputs, classes).

  Args:
    outputs: Of the network: logits [N, C], or any tree for a function.
    count: N.
    function: From `split_target`.
    classes: Likewise; if both are None, the predicted class of each image.

  Returns:
    [N] or [N, K]; the classes are None if there is a function.
  """
  if function is not None:
    value = function(outputs)
    if value.ndim not in (1, 2) or value.shape[0] != count:
      raise InputError(
        f"The target function returned shape {value.shape} for a batch of {count}, "
        f"expected ({count},) or ({count}, K).",
        "Return one scalar, or K scalars, for each.",
      )
    return value, (outputs, None)
  _check_logits(outputs)
  if classes is None:
    classes = jnp.argmax(outputs, axis=-1)
  columns = classes if classes.ndim == 2 else classes[:, None]
  value = jnp.take_along_axis(outputs, columns, axis=-1)
  return value.reshape(classes.shape), (outputs, classes)


def pulled(value: Array, back: Callable[[Array], Any]) -> Any:
  """Returns what one backward pass gives, or one for each of K targets."""
  if value.ndim == 1:
    return back(jnp.ones_like(value))
  one_hot = jnp.eye(value.shape[1], dtype=value.dtype)[:, None, :].repeat(len(value), axis=1)
  return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), jax.vmap(back)(one_hot))

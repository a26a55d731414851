"""`explain` for every network: declared where the package made it, traced where it did not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import linen
import jax
import jax.numpy as jnp
import numpy as np

from ..errors import InputError
from ..explain import images as declared
from ..explain.images import Explanation
from ..explain.targets import Target
from ..explain.texts import Contrast, TextExplanation
from .bcosified import BcosifiedProgram
from .explaining import check_concrete, explain_program
from .faces import function_of
from .program import Program, trace, trace_options
from .tracing import TraceOptions


def explain(
  model: Any,
  variables: Any,
  images: Any,
  target: Target | Contrast = None,
  batch_size: Any = None,
  *,
  products: Mapping[str, str] | None = None,
  weights: Sequence[str] = (),
  **options: Any,
) -> Explanation | TextExplanation:
  """Explains a scalar output of any network for each input of a batch.

  A network of this package explains itself, see `bcos_jax.explain.images.explain`. Any other is
  traced: what its equations make of the input is held or passed on by rules, see
  `bcos_jax.program`. Both find the same W(x). As by `jax.jit`, a function is traced once for its
  shapes, and what it closes over is a constant.

  Args:
    model: A network made by `create`, `load` or `bcosify`; or a Linen module, an NNX, Equinox,
      Haiku or Keras network, a function (variables, inputs [N, ...]) -> outputs [N, ...], or a
      `Program`, which is not traced again.
    variables: Its variables; None for networks that have theirs inside (NNX, Equinox, Keras).
    images: Of a network of this package plain colours [N, H, W, C] in [0, 1], or token ids [N, L];
      of others the input as it is, floating-point numbers [N, ...].
    target: What to explain: None, the predicted class; an int, ints [N] or [N, K]; or a function
      of the outputs that returns [N] or [N, K].
    batch_size: Inputs per device batch, to bound memory; None takes all together, and 'auto', for
      networks of this package, as many as fit.
    products: Of traced networks, place -> the factor that is held; see `program.trace`.
    weights: Of traced networks, places whose results are weights.
    **options: Further arguments of the network's call; of language models see `explain_tokens`.

  Returns:
    The explanation, as NumPy arrays. Residuals of traced networks are named by the variable, or by
    the place.

  Raises:
    InputError: Inputs, variables or a target that do not fit, an operation that no rule covers, or
      arguments that the model has no use for.
  """
  declares = isinstance(model, linen.Module) and hasattr(model, "ops")
  _check_used(model, declares, bool(products or weights), options)
  if declares:
    return declared.explain(model, variables, images, target, batch_size, **options)
  if isinstance(target, Contrast):
    raise InputError(
      f"A contrast is a target of language models, the model is a {type(model).__name__}.",
      "Give a function of the outputs, such as lambda logits: logits[:, 1] - logits[:, 0].",
    )
  check_concrete(variables, images)
  if isinstance(model, Program):
    return explain_program(model, variables, images, target, batch_size)
  images = images if hasattr(images, "dtype") else jnp.asarray(images)
  if isinstance(model, BcosifiedProgram):
    return _explain_bcosified(model, variables, images, target, batch_size)
  function, variables = function_of(model, variables, **options)
  program = _program(function, variables, images, trace_options(products, weights))
  return explain_program(program, variables, images, target, batch_size)


def _explain_bcosified(
  made: BcosifiedProgram, variables: Any, images: Any, target: Any, batch_size: int | None
) -> Explanation:
  """Explains a B-cosified program with respect to the input that it encodes."""
  inputs = made.encode(variables, images)
  program = _program(made.encoded, variables, inputs, made.program.options)
  ex = explain_program(program, variables, inputs, target, batch_size)
  return dataclasses.replace(ex, images=np.asarray(images))


def _check_used(model: Any, declares: bool, places: bool, options: Mapping[str, Any]) -> None:
  """Raises InputError for places or further arguments that would be passed over."""
  if places and (declares or isinstance(model, Program | BcosifiedProgram)):
    raise InputError(
      "products and weights are given, which say how a network is traced; the "
      f"{type(model).__name__} {'is not' if declares else 'was already'}.",
      "Omit them." if declares else "Give them to `program.trace`.",
    )
  if options and isinstance(model, Program | BcosifiedProgram):
    raise InputError(
      f"{', '.join(options)} are arguments of a network's call, the model is a "
      f"{type(model).__name__}.",
      "Trace the function with its arguments bound.",
    )


def _program(
  function: Callable,
  variables: Any,
  inputs: Any,
  decided: TraceOptions,
) -> Program:
  """Returns the program of a function, from memory if it was traced for these shapes before."""
  leaves, tree = jax.tree.flatten(variables)
  shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
  example = (jnp.shape(inputs), inputs.dtype)
  key = (function, tree, shapes, example, tuple(decided.products.items()), decided.weights)
  traced = _traced if _hashable(key) else _traced.__wrapped__
  return traced(*key)


def _hashable(key: Any) -> bool:
  try:
    hash(key)
  except TypeError:
    return False
  return True


@functools.lru_cache(maxsize=16)
def _traced(function, tree, shapes, example, products, weights) -> Program:
  variables = tree.unflatten(jax.ShapeDtypeStruct(*shape) for shape in shapes)
  inputs = jax.ShapeDtypeStruct(*example)
  return trace(function, variables, inputs, products=dict(products), weights=weights)

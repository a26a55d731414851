"""Networks of other libraries as functions of variables and inputs.

One line for each: what the network computes in evaluation mode, and a tree of its variables. No
library is imported that the network does not bring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import inspect
from typing import Any

from flax import errors as flax_errors
from flax import linen, nnx
import jax
import jax.numpy as jnp

from ..errors import InputError
from ..models import is_language_model
from ..variables import abstract_variables

Function = Callable[[Any, Any], Any]

EVALUATION = {
  "train": False,
  "training": False,
  "is_training": False,
  "deterministic": True,
  "use_running_average": True,
}
"""What the usual arguments are in evaluation mode; passed to modules that take them."""


def function_of(model: Any, variables: Any = None, **options: Any) -> tuple[Function, Any]:
  """Returns a network as (function of variables and inputs [N, ...], its variables).

  Args:
    model: A Linen module, an NNX module, an Equinox module of one example, a transformed Haiku
      function (with state or without), a Keras model on the JAX backend, or a plain function
      (variables, inputs) -> outputs.
    variables: Of Linen modules the variables; of Haiku the parameters, or (parameters, state); of
      plain functions any tree. The other libraries' modules have their own.
    **options: Further arguments of the call. Those that ask for evaluation mode are added where
      the network takes them: `train=False` and the like.

  Raises:
    InputError: None of these, variables where the module has its own, or none where it has not.
  """
  library = _library(model)
  own = library in ("nnx", "equinox", "keras")
  if own != (variables is None):
    raise InputError(
      f"The model is a {type(model).__name__} of {library or 'your own'}, which has its variables "
      f"{'inside' if own else 'outside'}; variables are {'given' if own else 'None'}.",
      "Pass None." if own else "Pass the variables that it is called with.",
    )
  if library == "linen":
    return Linen(model, _frozen(_evaluating(model.__call__, options))), variables
  if library == "nnx":
    graph, state = nnx.split(model)
    return Nnx(graph, _frozen(options)), state
  if library == "equinox":
    return _equinox(model, options)
  if library == "haiku":
    return Haiku(model.apply, _frozen(options)), variables
  if library == "keras":
    return _keras(model, options)
  if not callable(model):
    raise InputError(
      f"The model is a {type(model).__name__}, expected a network or a function.",
      "Pass a function (variables, inputs) -> outputs.",
    )
  return (Plain(model, _frozen(options)) if options else model), variables


def _library(model: Any) -> str:
  if isinstance(model, linen.Module):
    return "linen"
  if isinstance(model, nnx.Module):
    return "nnx"
  names = {base.__module__.partition(".")[0] for base in type(model).__mro__}
  return next((name for name in ("equinox", "haiku", "keras") if name in names), "")


def _frozen(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  return tuple(sorted(options.items()))


def _evaluating(call: Callable, options: Mapping[str, Any]) -> dict[str, Any]:
  taken = inspect.signature(call).parameters
  return {name: value for name, value in EVALUATION.items() if name in taken} | dict(options)


# Functions that are equal for equal networks, so that none is traced twice.


@dataclasses.dataclass(frozen=True)
class Plain:
  """A function with further arguments."""

  function: Callable[..., Any]
  options: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Any, inputs: Any) -> Any:
    return self.function(variables, inputs, **dict(self.options))


@dataclasses.dataclass(frozen=True)
class Linen:
  """A Linen module as a function."""

  module: linen.Module
  options: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Any, inputs: Any) -> Any:
    try:
      return self.module.apply(variables, inputs, **dict(self.options))
    except flax_errors.FlaxError as error:
      raise InputError(
        f"{type(self.module).__name__} cannot be called in evaluation mode: "
        f"{' '.join(str(error).split()):.200}",
        "Pass its variables, and the arguments of its call that ask for evaluation mode to explain "
        "or function_of: train=False, use_running_average=True or the like.",
      ) from error


@dataclasses.dataclass(frozen=True)
class Nnx:
  """An NNX module as a function of its state, in evaluation mode."""

  graph: Any
  options: tuple[tuple[str, Any], ...]

  def __call__(self, state: Any, inputs: Any) -> Any:
    module = nnx.merge(self.graph, state)
    module.eval()
    return module(inputs, **dict(self.options))


@dataclasses.dataclass(frozen=True)
class Haiku:
  """A transformed Haiku function, without random numbers."""

  apply: Callable[..., Any]
  options: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Any, inputs: Any) -> Any:
    options = dict(self.options)
    if isinstance(variables, tuple):
      parameters, state = variables
      return self.apply(parameters, state, None, inputs, **options)[0]
    return self.apply(variables, None, inputs, **options)


@dataclasses.dataclass(frozen=True)
class Equinox:
  """An Equinox module of one example as a function of its arrays."""

  rest: Any
  options: tuple[tuple[str, Any], ...]

  def __call__(self, arrays: Any, inputs: Any) -> Any:
    import equinox

    module = equinox.combine(arrays, self.rest)
    return jax.vmap(lambda x: module(x, **dict(self.options)))(inputs)


def _equinox(model: Any, options: Mapping[str, Any]) -> tuple[Function, Any]:
  import equinox

  arrays, rest = equinox.partition(equinox.nn.inference_mode(model), equinox.is_array)
  return Equinox(rest, _frozen(options)), arrays


KERAS = ("trainable_variables", "non_trainable_variables")


@dataclasses.dataclass(frozen=True)
class Keras:
  """A Keras model as a function of its variables by path, in evaluation mode."""

  model: Any
  options: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Any, inputs: Any) -> Any:
    both = ([variables[kind][v.path] for v in getattr(self.model, kind)] for kind in KERAS)
    return self.model.stateless_call(*both, inputs, training=False, **dict(self.options))[0]


def _keras(model: Any, options: Mapping[str, Any]) -> tuple[Function, Any]:
  import keras

  if keras.backend.backend() != "jax":
    raise InputError(
      f"Keras runs on the backend {keras.backend.backend()!r}, expected 'jax'.",
      "Set KERAS_BACKEND=jax before Keras is imported.",
    )
  variables = {kind: {v.path: v.value for v in getattr(model, kind)} for kind in KERAS}
  return Keras(model, _frozen(options)), variables


def trained_leaves(variables: Any) -> list[bool]:
  """Returns of each leaf of a network's variables whether its library trains it.

  Not trained are collections of Linen but `params`, variables of NNX but `nnx.Param`, the state of
  Haiku in (parameters, state), and what Keras says; all leaves of other trees are.
  """
  if isinstance(variables, nnx.State):
    leaves = jax.tree.leaves(variables, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return [isinstance(leaf, nnx.Param) for leaf in leaves]
  if isinstance(variables, tuple) and len(variables) == 2:
    trained, held = variables
  elif isinstance(variables, Mapping) and set(variables) == set(KERAS):
    return [key == KERAS[0] for key in sorted(variables) for _ in jax.tree.leaves(variables[key])]
  elif isinstance(variables, Mapping) and "params" in variables:
    return [key == "params" for key in sorted(variables) for _ in jax.tree.leaves(variables[key])]
  else:
    trained, held = variables, ()
  return [True for _ in jax.tree.leaves(trained)] + [False for _ in jax.tree.leaves(held)]


def network_function(model: Any, length: int = 16) -> tuple[Function, jax.ShapeDtypeStruct]:
  """Returns a network of this package as (function, shape of a batch of one of its inputs).

  Args:
    model: One that reads encoded images [N, H, W, channels], or a language model, whose inputs are
      the embeddings [N, L, D] of tokens.
    length: Tokens of a text, at most; cut to the context.

  Raises:
    InputError: It reads token ids and takes no embeddings.
  """
  if not is_language_model(model):
    if getattr(model, "reads", "images") == "text":
      raise InputError(
        f"{type(model).__name__} reads token ids and takes no embeddings of them.",
        "Check the network of images that it belongs to.",
      )
    return Linen(model, ()), model.input_spec
  length = min(length, model.context_length)
  ids = jnp.zeros((1, length), jnp.int32)
  variables = abstract_variables(model)
  example = jax.eval_shape(lambda variables: model.apply(variables, ids, method="embed"), variables)
  return Texts(model), jax.ShapeDtypeStruct(example.shape, example.dtype)


@dataclasses.dataclass(frozen=True)
class Texts:
  """A language model as a function of embeddings [N, L, D], without padding."""

  model: Any

  def __call__(self, variables: Any, embeddings: Any) -> Any:
    ids = jnp.zeros(embeddings.shape[:2], jnp.int32)
    mask = jnp.ones(ids.shape, jnp.int32)
    return self.model.apply(variables, ids, mask=mask, embeddings=embeddings)

"""Networks of other libraries turned into networks of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
from typing import Any

import jax
import jax.numpy as jnp

from ...bcosify import bcosify
from ...errors import InputError
from ...inputs import Encoding
from ...models import create
from ...ops import BcosOps, StandardOps
from .factories import Built, Recorded, built_by, called
from .module import NAME, ProgramNetwork


def as_network(
  factory: str | Callable,
  arguments: Mapping[str, Any] | None = None,
  *,
  image_size: int | tuple[int, int] | None = None,
  num_classes: int | None = None,
  encoding: Encoding | None = None,
  channels_first: bool | None = None,
  ops: BcosOps | None = None,
  rules: Mapping[str, Mapping[str, Any]] | None = None,
  products: Mapping[str, str] | None = None,
  weights: Sequence[str] = (),
  variables: Any = None,
  calibrate: Any = None,
) -> tuple[ProgramNetwork, dict[str, Any]]:
  """Returns a network of another library as one of this package, and its variables.

  All that takes a network takes it: `train.train(config, init=...)`, `save`, `load` and others.

  Args:
    factory: 'module:function' of a function that is marked as a `factory`; or a function of
      `convert.from_torch`, which bundles then contain.
    arguments: Of the factory, plain values.
    image_size: Side of the pictures, or height and width; a function of `from_torch` says it.
    num_classes: Outputs are [N, num_classes]; None finds out.
    encoding: How colours in [0, 1] become what it reads; None for no mean and deviation 1.
    channels_first: Whether it reads [N, C, H, W]; None for no, or what the function says.
    ops: B-cosifies it, by its b, learn_b, use_bias, pool and pairing; None leaves it as it is.
    rules: See `bcosify_program`.
    products: See `trace`, as for `weights`.
    weights: See there.
    variables: Of the structure that the factory returns, None for those; with a function of
      `from_torch`, those that it came with.
    calibrate: Pictures [N, H, W, C] in [0, 1]: fits the maps in closed form.

  Raises:
    InputError: A factory that is not known, inputs that are no pictures, outputs of another shape,
      options of the family that programs do not follow; or as `trace` and `bcosify_program`.
  """
  image_size, channels_first = _reading(factory, image_size, channels_first)
  factory, arguments = _recipe(factory, arguments, variables)
  model: Any = create(
    NAME,
    ops=StandardOps(encoding=encoding or Encoding((0.0,) * 3, (1.0,) * 3)),
    image_size=image_size,
    factory=factory,
    arguments=_text(arguments),
    rules=_text({pattern: dict(rule) for pattern, rule in (rules or {}).items()}),
    products=_text(products),
    weights=tuple(weights),
    channels_first=channels_first,
  )
  variables = called(factory, model.arguments)[1] if variables is None else variables
  built = built_by(factory, model.arguments)
  model = model.clone(num_classes=_num_classes(built, model.example, num_classes))
  own = model.variables_of(variables)  # which checks them
  if ops is None:
    return model, own
  made: Any = bcosify(model, own, ops=ops, calibrate=calibrate)
  return made


def _text(values: Mapping[str, Any] | None) -> str:
  return json.dumps(dict(values or {}), sort_keys=True)


def _recipe(
  factory: Any, arguments: Mapping[str, Any] | None, variables: Any
) -> tuple[str, Mapping[str, Any] | None]:
  """Returns the name of the factory and its arguments."""
  if isinstance(factory, str):
    return factory, arguments
  if not isinstance(factory, Recorded):
    raise InputError(
      f"The network is a {type(factory).__name__}, which does not say how it is built again.",
      "Name a function that is marked with @bcos_jax.program.factory, 'module:function'.",
    )
  if variables is None:
    raise InputError("variables are missing.", "Pass those that the function came with.")
  if arguments:
    raise InputError(
      f"arguments={dict(arguments)} would do nothing: the function is built already.", "Omit them."
    )
  return factory.recipe()


def _reading(
  factory: Any, image_size: int | tuple[int, int] | None, channels_first: bool | None
) -> tuple[int | tuple[int, int], bool]:
  """Returns size and layout of the pictures, as stated or as the function says."""
  if isinstance(factory, Recorded):
    channels_first = factory.channel_axis == 1 if channels_first is None else channels_first
    image_size = _sides(factory, channels_first) if image_size is None else image_size
  if image_size is None:
    raise InputError("image_size is missing.", "State the side of the pictures that it reads.")
  return image_size, bool(channels_first)


def _sides(function: Recorded, channels_first: bool) -> tuple[int, int]:
  """Returns height and width of the pictures that a function reads."""
  shape = function.example
  if not jnp.issubdtype(function.dtype, jnp.floating):
    raise InputError(
      f"The network reads {function.dtype}, expected floating-point numbers: W(x) is a derivative.",
      "Export it behind the conversion of its pictures, and state mean and std instead.",
    )
  if len(shape) != 3:
    raise InputError(
      f"The network reads inputs of shape {('N', *shape)}, expected pictures [N, C, H, W].",
      "Explain it as a function: bcos_jax.explain(function, variables, inputs).",
    )
  height, width = shape[1:] if channels_first else shape[:2]
  if height is None or width is None:
    raise InputError(
      f"The network reads pictures of any size, {shape}.", "State image_size, such as 224."
    )
  return height, width


def _num_classes(built: Built, example: tuple[int, ...], stated: int | None) -> int:
  """Returns how many classes there are, which are what the network returns logits of."""
  picture = jax.ShapeDtypeStruct((1, *example), jnp.float32)
  variables = built.structure.unflatten(built.shapes)
  found = jax.eval_shape(built.function, variables, picture)
  returned = getattr(found, "shape", type(found).__name__)
  classes = returned[1] if isinstance(returned, tuple) and len(returned) == 2 else stated
  wanted = classes if stated is None else stated
  if wanted is None or returned != (1, wanted):
    raise InputError(
      f"The network returns {returned} for one picture, expected "
      f"(1, {'classes' if wanted is None else wanted}).",
      "Let it return logits of the classes.",
    )
  return wanted

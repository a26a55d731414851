"""Networks of other libraries turned into networks of this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any
import warnings

import jax
import jax.numpy as jnp

from ...errors import InputError
from ...inputs import Encoding
from ...models import create
from ...ops import BcosOps, Ops, StandardOps
from ..closed_form import calibrate as fitted
from .factories import built_by, called
from .module import NAME, ProgramNetwork

_FOLLOWED = ("b", "learn_b", "use_bias", "pool", "encoding", "logit_bias", "detach", "recompute")
"""Fields of a B-cos family that programs follow; the others must be as by default."""


def as_network(
  factory: str,
  arguments: Mapping[str, Any] | None = None,
  *,
  image_size: int | tuple[int, int],
  num_classes: int,
  encoding: Encoding | None = None,
  channels_first: bool = False,
  ops: BcosOps | None = None,
  rules: Mapping[str, Mapping[str, Any]] | None = None,
  products: Mapping[str, str] | None = None,
  weights: Sequence[str] = (),
  variables: Any = None,
  calibrate: Any = None,
) -> tuple[ProgramNetwork, dict[str, Any]]:
  """Returns a network of another library as one of this package, and its variables.

  `train.train(config, init=...)` trains it, `save` and `load` keep it, and all that takes a network
  takes it.

  Args:
    factory: 'module:function' of a function that is marked as a `factory`.
    arguments: Of the factory, plain values.
    image_size: Side of the pictures that it reads, or height and width.
    num_classes: Outputs are [N, num_classes].
    encoding: How colours in [0, 1] become what it reads; None for no mean and deviation 1.
    channels_first: Whether it reads [N, C, H, W].
    ops: B-cosifies it, by its b, learn_b, use_bias, pool and pairing; None leaves it as it is.
    rules: See `bcosify_program`.
    products: See `trace`, as for `weights`.
    weights: See there.
    variables: Of the network, of the structure that the factory returns; None for those.
    calibrate: Pictures [N, H, W, C] in [0, 1]: fits the maps in closed form.

  Raises:
    InputError: A factory that is not known, outputs of another shape, options of the family
      that programs do not follow; or as `trace` and `bcosify_program`.
  """
  encoding = Encoding((0.0,) * 3, (1.0,) * 3) if encoding is None else encoding
  family: Ops = StandardOps(encoding=encoding) if ops is None else _followed(ops, encoding)
  fields = {
    "image_size": image_size,
    "num_classes": num_classes,
    "factory": factory,
    "arguments": json.dumps(dict(arguments or {}), sort_keys=True),
    "rules": json.dumps({k: dict(v) for k, v in (rules or {}).items()}),
    "products": json.dumps(dict(products or {})),
    "weights": tuple(weights),
    "channels_first": channels_first,
  }
  model: Any = create(NAME, ops=family, **fields)
  if variables is None:
    _, variables = called(factory, model.arguments)
  _check_outputs(model, variables)
  if ops is None:
    return model, model.variables_of(variables)
  return model, _started(model, variables, calibrate)


def _check_outputs(model: ProgramNetwork, variables: Any) -> None:
  """Raises InputError unless the network returns logits of its classes."""
  example = jax.ShapeDtypeStruct((1, *model.example), jnp.float32)
  function = built_by(model.factory, model.arguments).function
  found = jax.eval_shape(function, variables, example)
  returned = getattr(found, "shape", type(found).__name__)
  if returned != (1, model.num_classes):
    raise InputError(
      f"The network of {model.factory!r} returns {returned} for one picture, expected "
      f"(1, {model.num_classes}).",
      "Let the factory return logits of the classes.",
    )


def _started(model: ProgramNetwork, variables: Any, calibrate: Any) -> dict[str, Any]:
  """Returns the variables of a B-cosified network, fitted to pictures if there are any."""
  made = model.made()
  made = dataclasses.replace(
    made,
    program=dataclasses.replace(made.program, variables=variables),
    variables=made.start(variables),
  )
  if calibrate is None:
    return model.variables_of(made.variables)
  colors = dataclasses.replace(model.ops.encoding, pairing="none")(jnp.asarray(calibrate))
  tree, report = fitted(made, jnp.moveaxis(colors, -1, 1) if model.channels_first else colors)
  for warning in report.warnings:
    warnings.warn(warning, stacklevel=3)
  return model.variables_of(tree)


def _followed(ops: BcosOps, encoding: Encoding) -> BcosOps:
  default = BcosOps()
  for field in dataclasses.fields(ops):
    value = getattr(ops, field.name)
    if field.name not in _FOLLOWED and value != getattr(default, field.name):
      raise InputError(
        f"ops has {field.name}={value!r}, which B-cosification of programs does not follow.",
        f"It follows {', '.join(_FOLLOWED[:5])}.",
      )
  return dataclasses.replace(
    ops, encoding=dataclasses.replace(encoding, pairing=ops.encoding.pairing), logit_bias=0.0
  )

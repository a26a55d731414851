"""Explanations of traced programs: one forward and one backward pass of the held program."""

from __future__ import annotations

import functools
from typing import Any
import warnings

import jax
from jax import core
import jax.numpy as jnp
import numpy as np

from ..batches import in_batches
from ..errors import InputError
from ..explain.images import Explanation
from ..explain.targets import Target, check_range, pulled, select, split_target
from .bcosified import BcosifiedProgram
from .certificate import prove
from .pairing import Encoded
from .program import Program, check_some

Array = jax.Array

UNEXPLAINED = 0.01
"""Share of an explanation that is not accounted for, above which `explain_program` warns."""


def dynamic_map(
  program: Program, variables: Any, inputs: Array, target: Target = None
) -> Explanation:
  """The pure function behind `explain_program`: no checks, any transformation of JAX applies.

  Arguments and result as there, but JAX arrays; use it inside a jitted step, or inside a loss:
  outer derivatives see how W(x) depends on variables and inputs.
  """
  function, classes = split_target(target, len(inputs), "inputs")
  gains = {source: jnp.ones(len(inputs), inputs.dtype) for source in program.sources}

  def forward(inputs: Array, gains: dict[str, Array]) -> Any:
    return select(program.held(variables, inputs, gains), len(inputs), function, classes)

  value, pullback, (outputs, chosen) = jax.vjp(forward, inputs, gains, has_aux=True)
  weights, residuals = pulled(value, pullback)
  if inputs.ndim > 2:  # explanations have their channels last, whatever the function reads
    inputs, weights = (
      jnp.moveaxis(array, program.channel_axis - inputs.ndim, -1) for array in (inputs, weights)
    )
  seen = inputs if value.ndim == 1 else inputs[:, None]
  contributions = jnp.sum(seen * weights, axis=-1) if inputs.ndim > 2 else seen * weights
  mass = jnp.sum(contributions, axis=tuple(range(value.ndim, contributions.ndim)))
  residual = value - mass
  residuals = dict(residuals)
  residuals["unexplained"] = residual - sum(residuals.values())
  return Explanation(
    images=inputs,
    logits=outputs,
    value=value,
    target=chosen,
    inputs=inputs,
    weights=weights,
    contributions=contributions,
    residual=residual,
    residuals=residuals,
    conventional=not isinstance(program.function, BcosifiedProgram | Encoded),
  )


def explain_program(
  program: Program,
  variables: Any,
  inputs: Any,
  target: Target = None,
  batch_size: int | None = None,
) -> Explanation:
  """Explains a scalar output of a traced function for each input of a batch.

  Args:
    program: The program, from `trace`.
    variables: Of the structure and shapes that were traced.
    inputs: [N, ...] of the shape that was traced, any N.
    target: What to explain, as for `bcos_jax.explain`: None, a class or classes, or a function of
      the outputs.
    batch_size: Inputs per device batch, to bound memory; None takes all together.

  Returns:
    The explanation, as NumPy arrays, its inputs and weights channels last, [N, ..., channels], also
    where the function reads them in another place (`Program.channel_axis`). Contributions are
    summed over the channels of inputs that have axes besides; residuals are named by the variable
    that is added to the signal, or by the place of what is added.

  Raises:
    InputError: The program is not affine given what is held, arguments of other shapes than
      traced, inputs that are not finite or none, a target that does not fit, or a call inside
      `jax.jit`.
  """
  check_concrete(variables, inputs)
  inputs = inputs if hasattr(inputs, "dtype") else jnp.asarray(inputs)
  program.check_arguments(variables, inputs)
  check_some(inputs)
  _check_finite(inputs)
  prove(program.body, program.values)
  function, classes = split_target(target, len(inputs), "inputs")
  if function is not None and not isinstance(function, jax.tree_util.Partial):
    function = jax.tree_util.Partial(function)
  if classes is not None:
    check_range(classes, program.outputs)

  def run(rows: Any) -> Explanation:
    with jax.default_matmul_precision("highest"):
      return _explain_jit(program.bare, function, variables, *rows)

  ex = in_batches(run, (inputs, classes), batch_size)
  if not (worst := float(np.max(ex.completeness_error, initial=0.0))) <= UNEXPLAINED:  # nor NaN
    warnings.warn(
      f"{worst:.1%} of an explanation are unexplained: some rule passes on what is not affine, or "
      "the network computes in low precision. program.check(variables, inputs) asks a second "
      "witness.",
      stacklevel=3,
    )
  return ex


def _check_finite(inputs: Any) -> None:
  finite = jnp.isfinite(inputs)
  if not finite.all():
    raise InputError(
      f"{int((~finite).sum())} numbers of the inputs are not finite.",
      "Replace what is missing or infinite.",
    )


def check_concrete(variables: Any, inputs: Any) -> None:
  """Raises InputError for tracers of a transformation."""
  if any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves((variables, inputs))):
    raise InputError(
      "explain is called inside jax.jit or another transformation; it checks its inputs and "
      "returns NumPy arrays, so it compiles itself.",
      "Call it outside, or use bcos_jax.program.dynamic_map on a traced program.",
    )


@functools.partial(jax.jit, static_argnums=0)
def _explain_jit(program, function, variables, inputs, classes):
  # As a Partial, the function is static by its code and dynamic by its arrays.
  return dynamic_map(program, variables, inputs, classes if function is None else function)

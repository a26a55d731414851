"""Programs evaluated: as they are, or with weights held and constants measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

from .. import functional as F
from .values import Body, Equation, Holding, ValueKind

Array = jax.Array
Apply = Callable[[Equation, list[Any]], Sequence[Any]]
"""Makes the results of an equation from its operands."""


def evaluate(body: Body, arguments: Sequence[Any], apply: Apply) -> list[Any]:
  """Returns the results of a body.

  Args:
    body: The equations.
    arguments: Its arguments.
    apply: How an equation is evaluated, such as `bind` or a `Held`.
  """
  env: dict[int, Any] = {**body.constants, **dict(zip(body.inputs, arguments, strict=True))}

  def read(atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else env[atom]

  for equation in body.equations:
    made = apply(equation, [read(atom) for atom in equation.inputs])
    env.update(zip(equation.outputs, made, strict=True))
  return [read(atom) for atom in body.outputs]


def bind(equation: Equation, values: Sequence[Any]) -> Sequence[Any]:
  """Evaluates an equation as the function does."""
  params = equation.primitive.get_bind_params(dict(equation.params))
  made = equation.primitive.bind(*values, **params)
  return made if equation.primitive.multiple_results else [made]


def call(
  equation: Equation, values: Sequence[Any], apply: Apply, finish: Callable | None = None
) -> Sequence[Any]:
  """Evaluates a loop, branches or a call whose bodies are to be evaluated by `apply`.

  Args:
    equation: One with bodies.
    values: Its operands.
    apply: Evaluates the equations of the bodies.
    finish: (body, its results) -> the results in their place.
  """

  def run(body: Body, *arguments: Any) -> list[Any]:
    results = evaluate(body, arguments, apply)
    return results if finish is None else finish(body, results)

  params = equation.params
  if equation.name == "scan":
    return _scan(functools.partial(run, equation.bodies[0]), values, params)
  if equation.name == "cond":
    branches = [functools.partial(run, body) for body in equation.bodies]
    return jax.lax.switch(values[0], branches, *values[1:])
  function = functools.partial(run, equation.bodies[0])
  if equation.name.startswith("custom_"):  # whose derivative is that of other weights
    return function(*values)
  if equation.name == "shard_map":
    return jax.shard_map(
      lambda *arguments: tuple(function(*arguments)),
      mesh=params["mesh"],
      in_specs=tuple(params["in_specs"]),
      out_specs=tuple(params["out_specs"]),
      axis_names=set(params["newly_manual_axes"]),
      check_vma=params["check_vma"],
    )(*values)
  return jax.checkpoint(function, prevent_cse=params["prevent_cse"], policy=params["policy"])(
    *values
  )


def _scan(body: Callable, values: Sequence[Any], params: Mapping[str, Any]) -> Sequence[Any]:
  first, carried = params["num_consts"], params["num_carry"]
  constants = values[:first]

  def step(carry, each):
    results = body(*constants, *carry, *each)
    return tuple(results[:carried]), tuple(results[carried:])

  carry, stacked = jax.lax.scan(
    step,
    tuple(values[first : first + carried]),
    tuple(values[first + carried :]),
    length=params["length"],
    reverse=params["reverse"],
    unroll=params["unroll"],
  )
  return [*carry, *stacked]


class Held:
  """Evaluates equations with weights held: the same values, and W(x) as the derivative.

  Attributes:
    live: Numbers of the signals that reach an output without a hold; what makes others is evaluated
      as it is, since their results are held where they are used.
    gains: Name of a residual -> 1, or ones [N], that multiply what is added there; the derivative
      with respect to them is the residual.
    axes: Of gains [N], (first result of an equation, operand) -> the shape in which they multiply
      the operand.
  """

  def __init__(
    self,
    live: frozenset[int],
    gains: Mapping[str, Array],
    axes: Mapping[tuple[int, int], tuple[int, ...]],
  ):
    self.live, self.gains, self.axes = live, gains, axes

  def __call__(self, equation: Equation, values: list[Any]) -> Sequence[Any]:
    if equation.signal and self.live.isdisjoint(equation.outputs):
      return bind(equation, values)
    for i, source in equation.sources.items():
      shape = self.axes.get((equation.outputs[0], i), ())
      values[i] = self._measured(values[i], source, shape)
    if equation.bodies:
      return call(equation, values, self, self.finish)
    if equation.form == Holding.GATE:
      return [gated(equation, *values)]
    if equation.form == Holding.LARGER:
      return [_larger(equation, *values)]
    if equation.name == "while":
      # It has no reverse mode, not even of what was held before.
      return bind(equation, [jax.lax.stop_gradient(value) for value in values])
    return bind(equation, [F.hold(v) if i in equation.held else v for i, v in enumerate(values)])

  def finish(self, body: Body, results: list[Any]) -> list[Any]:
    """Returns results of which the constants among signals are measured."""
    return [
      self._measured(result, body.sources[i], ()) if i in body.sources else result
      for i, result in enumerate(results)
    ]

  def _measured(self, value: Any, source: str, shape: tuple[int, ...]) -> Any:
    if source not in self.gains:
      return value
    value = jnp.asarray(value)
    # What is not finite is selected nowhere, or all is lost: its share is no NaN.
    finite = jnp.isfinite(value)
    gained = jnp.where(finite, value, 0) * self.gains[source].reshape(shape).astype(value.dtype)
    return jnp.where(finite, gained, value)


def gated(equation: Equation, x: Array, *rest: Any, at: Array | None = None) -> Array:
  """Returns f(x) as x * held f(x)/x, for f(0) = 0.

  Args:
    equation: Whose primitive is f.
    x: The signal.
    *rest: Further operands, such as an exponent.
    at: Where the gate is taken; None for x itself.
  """
  seen = F.hold(x) if at is None else at
  small = jnp.abs(seen) < jnp.finfo(seen.dtype).tiny
  safe = jnp.where(small, 1.0, seen).astype(seen.dtype)
  (made,) = bind(equation, [safe, *rest])
  y = x * jnp.where(small, equation.slope, made / safe).astype(x.dtype)
  return y if jnp.iscomplexobj(made) else y.real  # the length of a complex signal is real


def _larger(equation: Equation, a: Array, b: Array) -> Array:
  return jnp.where(chosen(equation, F.hold(a), F.hold(b)), a, b)


def chosen(equation: Equation, a: Any, b: Any) -> Array:
  """Returns where the first of two operands is chosen; of equal ones the one that is no signal."""
  strict, lax = jnp.greater, jnp.greater_equal
  if equation.name == "min":
    strict, lax = jnp.less, jnp.less_equal
  return (strict if equation.operands[0] == ValueKind.SIGNAL else lax)(a, b)

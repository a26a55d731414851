"""B-cosification of traced programs: the same equations, maps of the signal made B-cos transforms.

The result is again a pure function of a tree of variables: of the network's own, and of those that
were asked for besides, exponents and a factor of the biases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from ..errors import InputError
from ..layers.maps import Convolution, Matmul, square_map
from .batching import batched
from .decisions import BcosSettings, Decision, decide, placed, table
from .evaluation import bind, call
from .program import Program
from .values import Equation, ValueKind

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class BcosifiedProgram:
  """A B-cosified function.

  Attributes:
    program: The program that it was made of.
    decisions: What was decided for each part.
    settings: What was asked for where no rule says otherwise.
    variables: Its variables: those of the function; or, where exponents are learned or biases
      decay, {"network": those, "b": name of a map -> exponent, "bias": factor of the biases}. None
      if the program was traced from shapes.
  """

  program: Program
  decisions: tuple[Decision, ...]
  settings: BcosSettings
  variables: Any

  def __call__(self, variables: Any, inputs: Array) -> Any:
    """Returns the outputs [N, ...] for inputs [N, ...]: a pure function.

    Raises:
      InputError: Variables or inputs of other structure or shapes than traced.
    """
    self._check_extended(variables)
    network, own = (variables["network"], variables) if self.extended else (variables, {})
    self.program.check_arguments(network, inputs)
    whole = batched(self.program.bare, len(inputs)).program
    changed = placed(self.decisions, whole)
    apply = _Bcos({d.equation: d for d in changed if d.changes}, own)
    return whole.run(network, inputs, apply)

  @property
  def apply(self) -> Any:
    """The function (variables, inputs) -> outputs itself."""
    return self.__call__

  @property
  def channel_axis(self) -> int:
    """That of the function."""
    return self.program.channel_axis

  @property
  def extended(self) -> bool:
    """Whether its variables are more than those of the function."""
    return bool(self.exponents) or self.decays

  @functools.cached_property
  def exponents(self) -> dict[str, float]:
    """Name of each map that learns B -> the exponent that it starts with."""
    return {d.name: d.settings.b for d in self.decisions if d.learned}

  @property
  def decays(self) -> bool:
    """Whether biases are multiplied by a variable."""
    return any(d.part == "bias" and d.settings.biases == "decay" for d in self.decisions)

  def _check_extended(self, variables: Any) -> None:
    own = {"b": bool(self.exponents), "bias": self.decays}
    wanted = {"network", *(name for name, there in own.items() if there)}
    if self.extended and not (isinstance(variables, Mapping) and wanted == set(variables)):
      raise InputError(
        f"The variables are a {type(variables).__name__}, expected a dict of "
        f"{', '.join(sorted(wanted))}.",
        "Pass what `variables` of the B-cosified program holds, or others of that structure.",
      )

  def table(self) -> str:
    """Returns every decision as a line: the variable, what part it is, what becomes of it."""
    return table(self.decisions)

  def __repr__(self) -> str:
    changed = sum(d.part == "map" and d.changes for d in self.decisions)
    return f"BcosifiedProgram({changed} B-cos maps of {len(self.decisions)} parts)"


def bcosify_program(
  program: Program,
  b: float = 2.0,
  *,
  learn_b: bool = False,
  biases: str = "remove",
  pool: str = "keep",
  rules: Mapping[str, Mapping[str, Any]] | None = None,
) -> BcosifiedProgram:
  """Turns a traced function into a B-cos network that starts from the same weights.

  Maps on the way of the signal, dots and convolutions with variables, are scaled by
  |cos(x, w)|^(B-1); those that only make weights, such as queries, keys and gates, stay linear
  (B-cosification, arXiv 2411.00715). Activations and norms are kept, and a running mean is a bias.

  Args:
    program: The program. Trace it with `precision=None` to train it at JAX's default.
    b: The exponent B of every map.
    learn_b: Makes B a variable of each map, to be learned or scheduled.
    biases: 'remove', 'keep', or 'decay': multiplied by one variable, to be scheduled to zero. A
      bias is a variable that is added alike at all places; positions and tokens are kept.
    pool: 'keep' or 'average': what becomes of max pooling.
    rules: Name or pattern -> settings of its own: {"*head*": {"b": 1.0}}. Names are those of
      `table()`; the last match counts.

  Returns:
    The network: `q(q.variables, inputs)`. At B=1 with biases and pooling kept it computes what the
    function does.

  Raises:
    InputError: Settings that cannot be, a rule that matches nothing, or a function without maps of
      variables.
  """
  settings = BcosSettings(b, learn_b, biases, pool)
  made = BcosifiedProgram(program, decide(program, settings, rules or {}), settings, None)
  if not any(decision.part == "map" for decision in made.decisions):
    raise InputError(
      "The function has no map of the signal whose kernel is a variable: nothing becomes B-cos.",
      "Pass kernels as variables; what a function closes over is a constant.",
    )
  shards = frozenset(
    inner
    for equation in program.body.walk()
    if equation.name == "shard_map"
    for body in equation.bodies
    for inner in body.walk()
  )
  for decision in made.decisions:
    if decision.part == "map" and decision.changes:
      _check_map(decision, sharded=decision.equation in shards)
  network = program.variables
  if network is not None and made.extended:
    network = {"network": network}
    if made.exponents:
      network["b"] = {name: jnp.asarray(start) for name, start in made.exponents.items()}
    if made.decays:
      network["bias"] = jnp.ones(())
  return dataclasses.replace(made, variables=network)


def _check_map(decision: Decision, *, sharded: bool) -> None:
  equation = decision.equation
  if sharded:
    raise InputError(
      f"The map of {decision.name} at {equation.place} is inside of shard_map, where its input may "
      "be a part of what it sums, and its norm is not known.",
      "B-cosify the network without shard_map, and shard it by jax.jit.",
    )
  if equation.name == "conv_general_dilated" and (
    equation.params["batch_group_count"] != 1 or equation.operands[0] != ValueKind.SIGNAL
  ):
    raise InputError(
      f"The convolution at {equation.place} has the signal as kernel, or groups of the batch.",
      f"Leave it linear: rules={{{decision.name!r}: {{'b': 1.0}}}}.",
    )


class _Bcos:
  """Evaluates equations as decided."""

  def __init__(self, decisions: Mapping[Equation, Decision], variables: Mapping[str, Any]):
    self._decisions, self._variables = decisions, variables
    self._entered = functools.cache(
      lambda equation: any(e in decisions for body in equation.bodies for e in body.walk())
    )

  def __call__(self, equation: Equation, values: list[Any]) -> Sequence[Any]:
    if self._entered(equation):
      return call(equation, values, self)
    with jax.named_scope(equation.place.scope):  # where a trace of the result finds the place
      return self._made(equation, values)

  def _made(self, equation: Equation, values: list[Any]) -> Sequence[Any]:
    decision = self._decisions.get(equation)
    if decision is None:
      return bind(equation, values)
    if decision.part == "map":
      return [self._transformed(equation, values, decision)]
    if decision.part == "max pooling":
      return [_averaged(equation, *values)]
    return [self._biased(equation, values, decision)]

  def _transformed(self, equation: Equation, values: list[Any], decision: Decision) -> Array:
    b = self._variables["b"][decision.name] if decision.learned else decision.settings.b
    b = jnp.maximum(b, 1.0) if decision.learned else b
    if not decision.learned and b == 2 and (y := _squared(equation, values)) is not None:
      return y
    (y,) = bind(equation, values)
    if equation.name == "dot_general":
      return _scaled_dot(equation, values, y, b)
    return _scaled_convolution(equation.params, values[0], values[1], y, b)

  def _biased(self, equation: Equation, values: list[Any], decision: Decision) -> Array:
    (position,) = equation.sources
    constant = jnp.asarray(values[position])
    if decision.settings.biases == "decay":
      values[position] = constant * self._variables["bias"].astype(constant.dtype)
    else:
      values[position] = jnp.zeros_like(constant)
    return bind(equation, values)[0]


def _squared(equation: Equation, values: Sequence[Any]) -> Array | None:
  """Returns the transform at B=2 by `square_map`, which reads and writes less in training.

  None for maps in other layouts than channels last, or of a precision or type of their own.
  """
  params, (x, kernel) = equation.params, values[:2]
  if params["precision"] is not None or equation.operands[0] != ValueKind.SIGNAL:
    return None
  if params["preferred_element_type"] not in (None, x.dtype) or x.dtype != kernel.dtype:
    return None
  if equation.name == "dot_general":
    if params["dimension_numbers"] != (((x.ndim - 1,), (0,)), ((), ())):
      return None
    flat = kernel.reshape(len(kernel), -1)
    y: Any = square_map(x, flat, Matmul(), F.DENSE_GUARD)
    return y.reshape(*x.shape[:-1], *kernel.shape[1:])
  numbers, last = params["dimension_numbers"], x.ndim - 1
  places = tuple(range(1, last))
  wanted = ((0, last, *places), (last, last - 1, *range(last - 1)), (0, last, *places))
  if tuple(numbers) != wanted or any(d != 1 for d in params["lhs_dilation"]) or last > 4:
    return None
  linear = Convolution(
    tuple(kernel.shape[:-2]),
    tuple(params["window_strides"]),
    tuple(map(tuple, params["padding"])),
    tuple(params["rhs_dilation"]),
    params["feature_group_count"],
  )
  return square_map(x, kernel, linear, F.CONV_GUARD)


def _scaled_dot(equation: Equation, values: Sequence[Any], y: Array, b: Any) -> Array:
  """Returns the B-cos transform of a dot: norms are over what the dot sums."""
  contracting, batch = equation.params["dimension_numbers"]
  signal = equation.operands.index(ValueKind.SIGNAL)
  x, summed = values[signal], contracting[signal]
  square = jnp.sum(jnp.square(F.widened(x)), axis=tuple(summed))
  kept = [axis for axis in range(x.ndim) if axis not in summed]
  order = [kept.index(axis) for axis in batch[signal]]
  order += [i for i in range(len(kept)) if i not in order]
  square = square.transpose(order)  # batch axes first, as in the result
  batched, free = len(batch[signal]), len(kept) - len(batch[signal])
  units = y.ndim - batched - free
  if signal == 1:  # its axes come last: the kernel's between
    y = jnp.moveaxis(y, range(batched, batched + units), range(-units, 0)) if units else y
  shape = y.shape
  flat = y.reshape(*shape[: batched + free], math.prod(shape[batched + free :]))
  flat = F.bcos_scale(flat, square[..., None], b=b, guard=F.DENSE_GUARD)
  y = flat.reshape(shape)
  if signal == 1 and units:
    y = jnp.moveaxis(y, range(-units, 0), range(batched, batched + units))
  return y


def _scaled_convolution(
  params: Mapping[str, Any], x: Array, kernel: Array, y: Array, b: Any
) -> Array:
  """Returns the B-cos transform of a convolution: norms are those of patches, once per group."""
  numbers, groups = params["dimension_numbers"], params["feature_group_count"]
  x = jnp.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
  squares = F.sq_norm(x, groups)
  window = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
  square = lax.reduce_window(
    squares,
    0.0,
    lax.add,
    window_dimensions=(1, *window, 1),
    window_strides=(1, *params["window_strides"], 1),
    padding=((0, 0), *params["padding"], (0, 0)),
    base_dilation=(1, *params["lhs_dilation"], 1),
    window_dilation=(1, *params["rhs_dilation"], 1),
  )
  order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
  scaled = F.bcos_scale(jnp.transpose(y, order), square, b=b, guard=F.CONV_GUARD)
  return jnp.transpose(scaled, [order.index(axis) for axis in range(y.ndim)])


def _averaged(equation: Equation, x: Array) -> Array:
  """Returns the mean of each window of a max pooling, zeros of the padding counted."""
  params = equation.params
  total = lax.reduce_window(
    x,
    np.zeros((), x.dtype),  # no array of JAX: only a known zero makes it a sum
    lax.add,
    params["window_dimensions"],
    params["window_strides"],
    params["padding"],
    params["base_dilation"],
    params["window_dilation"],
  )
  return total / math.prod(params["window_dimensions"])

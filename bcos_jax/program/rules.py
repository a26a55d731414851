"""How the kinds of operands decide the kind of a result: one rule for each primitive.

The rules, for operands of which at least one is a signal:

- Linear operations pass signals on.
- f with f(0) = 0 becomes x * held f(x)/x; other functions make weights.
- Of a product of two signals one factor is held: the one that is spread over the other (a gate for
  each channel, say), else the one that is made of the other, else the one that went through more
  activations since the last map. Where nothing decides, the user does.
- A dot of two signals by activations alone, and what is undecided is a weight: attention logits.
- Selections (maxima, sorting, `where`) pass on what they select.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from ..errors import InputError
from .values import Holding, Place, Value, ValueKind

FACTORS = ("first", "second")


@dataclasses.dataclass(frozen=True)
class Typing:
  """What a rule says of an equation.

  Attributes:
    kind: ValueKind of its results; results that are no floating-point numbers are weights anyway.
    held: Positions of the operands that are held.
    form: How it is evaluated.
    slope: f'(0), of gates.
    added: Positions of operands that are added to signals, if they are none themselves.
    activations: Of the result; see `values.Value`.
  """

  kind: ValueKind = ValueKind.SIGNAL
  held: frozenset[int] = frozenset()
  form: Holding = Holding.PLAIN
  slope: float = 0.0
  added: tuple[int, ...] = ()
  activations: int = 0


@dataclasses.dataclass(frozen=True)
class Case:
  """An equation that awaits its rule; at least one operand is a signal.

  Attributes:
    name: Name of the primitive.
    params: Its parameters.
    operands: What is known of its operands.
    same: Whether the first two operands are one value or, of `mul`, multiples of one.
    size: Number of elements of the first result.
    place: Where it stands.
    factor: Which factor of a product the user holds: 'first', 'second' or ''.
    derived: Which factor is made of the other one, likewise.
  """

  name: str
  params: Mapping[str, Any]
  operands: tuple[Value, ...]
  same: bool
  size: int
  place: Place
  factor: str = ""
  derived: str = ""

  @property
  def signals(self) -> tuple[int, ...]:
    """Positions of the signals."""
    return tuple(i for i, value in enumerate(self.operands) if value.kind == ValueKind.SIGNAL)

  @property
  def activations(self) -> int:
    """The most activations that a signal went through."""
    return max(self.operands[i].activations for i in self.signals)


Rule = Callable[[Case], Typing]


def affine(*positions: int, more: int = 0) -> Rule:
  """Returns the rule of an operation that is linear in all of some operands together.

  Args:
    *positions: Of these operands; none for all. Signals elsewhere are held.
    more: Activations that it counts for.
  """

  def rule(case: Case) -> Typing:
    passed = positions or range(len(case.operands))
    passing = [i for i in case.signals if i in passed]
    if not passing:
      return weight(case)
    return Typing(
      held=frozenset(case.signals).difference(passed),
      added=tuple(i for i in passed if i < len(case.operands) and i not in case.signals),
      activations=case.activations + more,
    )

  return rule


def makes_weight(more: int = 0) -> Rule:
  """Returns the rule of a function whose result is a weight."""

  def rule(case: Case) -> Typing:
    seen = max(value.activations for value in case.operands)
    return Typing(ValueKind.WEIGHT, frozenset(case.signals), activations=seen + more)

  return rule


weight = makes_weight()


def gate(slope: float, more: int = 0) -> Rule:
  """Returns the rule of a function with f(0) = 0 of one operand.

  Args:
    slope: f'(0), the weight at zero; 0 where it is not finite.
    more: Activations that it counts for.
  """

  def rule(case: Case) -> Typing:
    return Typing(form=Holding.GATE, slope=slope, activations=case.activations + more)

  return rule


def selection(*positions: int) -> Rule:
  """Returns the rule of an operation whose results are some of its operands' elements."""

  def rule(case: Case) -> Typing:
    return dataclasses.replace(affine(*positions, more=1)(case), form=Holding.SELECTION)

  return rule


def _larger(case: Case) -> Typing:
  added = tuple({0, 1}.difference(case.signals))
  return Typing(form=Holding.LARGER, added=added, activations=case.activations + 1)


def _where(case: Case) -> Typing:
  typing = affine(*range(1, len(case.operands)))(case)
  more = case.operands[0].kind != ValueKind.CONSTANT
  return dataclasses.replace(typing, activations=typing.activations + more)


def _power(case: Case) -> Typing:
  exponent = case.params.get("y", case.operands[-1].literal)
  one_signal = case.signals == (0,)
  if one_signal and exponent is not None and exponent > 0:
    return gate(1.0 if exponent == 1 else 0.0)(case)
  return weight(case)


def _weighing(case: Case) -> str:
  """Returns which of two signals is the weight, '' if that is not decided."""
  first, second = case.operands[:2]
  if case.factor:
    return case.factor
  if case.same:
    return "second"
  spread = (first.size < case.size, second.size < case.size)
  if case.name == "mul" and spread[0] != spread[1]:
    return FACTORS[spread.index(True)]
  if case.derived:
    return case.derived
  if first.activations != second.activations:
    return "first" if first.activations > second.activations else "second"
  return ""


def _product(case: Case) -> Typing:
  if len(case.signals) == 1:
    other = case.operands[1 - case.signals[0]]
    return Typing(activations=max(case.activations, other.activations))
  chosen = _weighing(case)
  if not chosen:
    raise InputError(
      f"{case.name} at {case.place} multiplies two signals, and nothing says which one is the "
      "weight: neither is spread over the other or made of it, and both went through "
      f"{case.operands[0].activations} activations since their last map.",
      f"Hold one of them: products={{{case.place.modules or case.place.line!r}: 'first'}} or "
      "'second'.",
    )
  # What is gated has been through the gate's activation: x (1 + tanh(x)) is an activation of x.
  return Typing(held=frozenset({FACTORS.index(chosen)}), activations=case.activations)


def _quotient(case: Case) -> Typing:
  if 0 not in case.signals:
    return weight(case)
  return Typing(held=frozenset(case.signals) - {0}, activations=case.operands[0].activations)


def _map(case: Case) -> Typing:
  if len(case.signals) == 1:
    (signal,) = case.signals
    constant = case.operands[1 - signal].kind == ValueKind.CONSTANT
    return Typing(activations=0 if constant else case.activations)
  chosen = _weighing(case)
  if not chosen:
    return weight(case)
  position = FACTORS.index(chosen)
  return Typing(held=frozenset({position}), activations=case.operands[1 - position].activations)


def _refused(case: Case) -> Typing:
  raise InputError(
    f"{case.name} at {case.place} runs over the signal for a number of steps that is not known "
    "beforehand, which no gradient goes through.",
    "Use jax.lax.scan, or a fori_loop with constant bounds; where the result only weighs other "
    f"values, pass weights=({case.place.modules or case.place.line!r},).",
  )


RULES: dict[str, Rule] = {
  **dict.fromkeys(
    (
      *("add", "add_any", "all_gather", "all_gather_invariant", "all_to_all", "broadcast_in_dim"),
      *("broadcast_to", "complex", "concatenate", "conj", "convert_element_type", "copy", "cumsum"),
      *("device_put", "fft", "imag", "layout_constraint", "name", "neg", "optimization_barrier"),
      *("pad", "pbroadcast", "ppermute", "psum", "psum_invariant", "pvary", "real"),
      *("reduce_precision", "reduce_scatter", "reduce_sum", "reduce_window_sum", "reshape"),
      *("reshard", "rev", "sharding_constraint", "split", "squeeze", "stack", "sub", "tile"),
      *("transpose", "unstack"),
    ),
    affine(),
  ),
  **dict.fromkeys(("gather", "dynamic_slice", "slice"), affine(0)),
  "dynamic_update_slice": affine(0, 1),
  **dict.fromkeys(("scatter", "scatter-add", "scatter-sub"), affine(0, 2)),
  "triangular_solve": affine(1),
  "tridiagonal_solve": affine(3),
  "select_n": _where,
  **dict.fromkeys(("max", "min"), _larger),
  **dict.fromkeys(
    (
      *("approx_top_k", "clamp", "cummax", "cummin", "reduce_max", "reduce_min"),
      *("reduce_window_max", "reduce_window_min", "sort", "top_k"),
    ),
    selection(),
  ),
  **dict.fromkeys(
    ("asin", "asinh", "atan", "atanh", "expm1", "log1p", "sin", "sinh", "tan", "tanh"),
    gate(1.0, more=1),
  ),
  "erf": gate(2 / math.sqrt(math.pi), more=1),
  "erf_inv": gate(math.sqrt(math.pi) / 2, more=1),
  "abs": gate(0.0, more=1),
  "cbrt": gate(0.0, more=1),
  "square": gate(0.0),
  "integer_pow": _power,
  "pow": _power,
  "mul": _product,
  "div": _quotient,
  **dict.fromkeys(("conv_general_dilated", "dot_general", "ragged_dot_general"), _map),
  **dict.fromkeys(
    (
      *("acos", "acosh", "cos", "cosh", "cumlogsumexp", "erfc", "exp", "exp2", "logistic"),
      *("eq", "ne", "lt", "le", "gt", "ge", "eq_to", "le_to", "lt_to", "argmax", "argmin"),
      *("sign", "floor", "ceil", "round", "is_finite"),
    ),
    makes_weight(more=1),
  ),
  **dict.fromkeys(
    (
      *("atan2", "bessel_i0e", "bessel_i1e", "bitcast_convert_type", "cholesky", "cumprod"),
      *("digamma", "eigh", "igamma", "igammac", "lgamma", "log", "lu", "nextafter", "polygamma"),
      *("qr", "reduce_prod", "regularized_incomplete_beta", "rem", "rsqrt", "sqrt"),
      *("stop_gradient", "svd", "zeta"),
    ),
    weight,
  ),
  "while": _refused,
}
"""The rule of each primitive; `rule` adds to them."""


def rule(primitive: str) -> Callable[[Rule], Rule]:
  """Registers the rule of a primitive that has none, or replaces one.

  For example, of a linear primitive, `program.rule("my_rotation")(program.affine())`. The
  certificate then takes the rule's word for which operands it is linear in.

  Args:
    primitive: Its name.

  Returns:
    A decorator of the rule: a function of a `Case` that returns a `Typing`.
  """

  def register(function: Rule) -> Rule:
    RULES[primitive] = function
    return function

  return register


def typed(case: Case) -> Typing:
  """Returns what the rule of an equation says.

  Raises:
    InputError: There is none, or it refuses.
  """
  found = RULES.get(case.name)
  if found is None:
    raise InputError(
      f"The primitive {case.name!r} at {case.place} has no rule.",
      f"Give it one: @bcos_jax.program.rule({case.name!r}), or say that it makes weights, "
      f"weights=({case.place.modules or case.place.line!r},).",
    )
  return found(case)


def is_float(dtype: Any) -> bool:
  """Whether values of a dtype can be signals."""
  return bool(jnp.issubdtype(dtype, jnp.inexact))

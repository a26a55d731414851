"""The table of ATen operators: one rule for each, a function of its arguments in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bcos_jax.errors import InputError

Rule = Callable[..., Any]

_RULES: dict[str, Rule] = {}


def operator(*names: str) -> Callable[[Rule], Rule]:
  """Registers the rule of operators that have none, or replaces one.

  For example, of an operator of one's own:

      @convert.operator("mylib.swap")
      def _swap(x, dim):
        return jnp.flip(x, dim)

  Args:
    *names: 'namespace.operator' for all its overloads, or 'namespace.operator.overload' for one,
      which takes precedence. An operator that writes into its argument, 'aten.relu_', has the rule
      of the one that does not.

  Returns:
    A decorator of the rule: a pure function of the operator's arguments, by PyTorch's order and,
    for those that are keywords there, names. Tensors are JAX arrays, dtypes NumPy's, layouts,
    devices and memory formats None. It returns an array, or a sequence of them.

  Raises:
    InputError: A name without namespace.
  """

  for name in names:
    if len(name.split(".")) not in (2, 3) or not all(name.split(".")):
      raise InputError(
        f"The operator {name!r} has no namespace, expected 'namespace.operator'.",
        "For example 'aten.relu', or 'aten.add.Tensor' for one overload.",
      )

  def register(rule: Rule) -> Rule:
    _RULES.update(dict.fromkeys(names, rule))
    return rule

  return register


def rule_of(target: str) -> Rule | None:
  """Returns the rule of 'namespace.operator.overload'; None if there is none."""
  packet, _, overload = target.rpartition(".")
  for name in (packet, packet.removesuffix("_")):
    if (rule := _RULES.get(f"{name}.{overload}") or _RULES.get(name)) is not None:
      return rule
  return _RULES.get(target)


def writes(target: str) -> bool:
  """Whether an operator writes into its first argument, by the custom of its name."""
  packet = target.rpartition(".")[0]
  return packet.endswith("_") and not packet.endswith("__")

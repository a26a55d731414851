"""The table of rules, and what a rule is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from ....errors import InputError
from ..graph import Dim, OnnxGraph, Tensor


@dataclasses.dataclass(frozen=True)
class UnwrittenEquation:
  """An equation of a program that awaits its rule.

  Attributes:
    name: Of the primitive.
    inputs: Its operands.
    params: Its parameters.
    dims: Shape of each result.
    dtypes: Dtype of each result.
    shapes: Shape of each operand, broadcasts made.
    place: Where it stands, in words.
  """

  name: str
  inputs: tuple[Tensor, ...]
  params: Mapping[str, Any]
  dims: tuple[tuple[Dim, ...], ...]
  dtypes: tuple[str, ...]
  shapes: tuple[tuple[Dim, ...], ...]
  place: str

  def refuse(self, what: str) -> InputError:
    """Returns the error that says what cannot be written."""
    return InputError(
      f"{self.name} at {self.place} cannot be exported to ONNX: {what}.",
      "Export it to StableHLO: --to=stablehlo.",
    )

  def full(self, graph: OnnxGraph, i: int = 0) -> Tensor:
    """Returns an operand with its broadcasts made."""
    return graph.expanded(self.inputs[i], self.shapes[i])


Rule = Callable[[OnnxGraph, UnwrittenEquation], Tensor | Sequence[Tensor]]

RULES: dict[str, Rule] = {}


def rule(*primitives: str) -> Callable[[Rule], Rule]:
  """Registers a function (graph, equation) -> results as the rule of some primitives."""

  def register(function: Rule) -> Rule:
    RULES.update(dict.fromkeys(primitives, function))
    return function

  return register

"""A network as a list of equations, evaluated piece by piece while its parameters change.

The network is traced once, with marks at its maps, norms and gates. Calibration then needs to know
what becomes of a map's response (`aims.chain_of`), and what a map really sees when all maps before
it have changed (`execution.Execution`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from .. import functional as F
from ..layers import BatchNorm, BcosConv, BcosDense
from ..ops import Ops

Array = jax.Array
Map = BcosConv | BcosDense

_GATE = "gate of "
INTO, OUT_OF = "into ", "out of "
"""What marks say before the path of a map or norm."""
_CALLS = {
  "jit": "jaxpr",
  "pjit": "jaxpr",
  "closed_call": "call_jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
}
"""Calls whose equations are entered, and the parameter that holds them."""


@dataclasses.dataclass(frozen=True)
class Operation:
  """One operation: `outputs` are values by number, `inputs` also literals."""

  primitive: Any
  params: Mapping[str, Any]
  inputs: tuple[int | core.Literal, ...]
  outputs: tuple[int, ...]

  @property
  def reads(self) -> tuple[int, ...]:
    """The inputs that are values."""
    return tuple(value for value in self.inputs if isinstance(value, int))

  @property
  def mark(self) -> str:
    """What a mark says; '' of other equations."""
    return self.params["name"] if self.primitive.name == "name" else ""

  @property
  def gate(self) -> str:
    """The kind of a gate; '' of other equations."""
    name = str(self.params.get("name", ""))
    return name.removeprefix(_GATE) if name.startswith(_GATE) else ""

  def __call__(self, values: Sequence[Any]) -> Sequence[Any]:
    made = self.primitive.bind(*values, **self.params)
    return made if self.primitive.multiple_results else [made]


@dataclasses.dataclass(frozen=True)
class MarkedProgram:
  """A traced network.

  Attributes:
    equations: In the order of the trace.
    leaves: Path of each variable -> its value.
    inputs: Values of the leaves of the input, in the order of `jax.tree.leaves`.
    output: The value that the network returns.
    constants: Values known when tracing.
    shapes: Value -> shape.
    maps: Path -> the map, of those that are called once.
    norms: Path -> the batch norm, likewise.
    marks: Mark -> value.
    dependent: Values that depend on the input.
  """

  equations: tuple[Operation, ...]
  leaves: dict[str, int]
  inputs: tuple[int, ...]
  output: int
  constants: dict[int, Array]
  shapes: dict[int, tuple[int, ...]]
  maps: dict[str, Map]
  norms: dict[str, BatchNorm]
  marks: dict[str, int]
  dependent: frozenset[int]

  def seen_by(self, path: str) -> int:
    """Returns the input of a map or norm."""
    return self.marks[INTO + path]

  def response(self, path: str) -> int:
    """Returns the result of a map or norm."""
    return self.marks[OUT_OF + path]

  @functools.cached_property
  def consumers(self) -> dict[int, tuple[Operation, ...]]:
    """Value -> the equations that read it."""
    found: dict[int, list[Operation]] = {}
    for equation in self.equations:
      for value in dict.fromkeys(equation.reads):
        found.setdefault(value, []).append(equation)
    return {value: tuple(readers) for value, readers in found.items()}

  def needed(self, targets: Iterable[int], have: Callable[[int], bool]) -> tuple[Operation, ...]:
    """Returns the equations that make `targets` from values for which `have` holds."""
    wanted = {value for value in targets if not have(value)}
    chosen = []
    for equation in reversed(self.equations):
      if wanted.intersection(equation.outputs):
        chosen.append(equation)
        wanted.update(value for value in equation.reads if not have(value))
    return tuple(reversed(chosen))


def trace(
  model: nn.Module, variables: Any, inputs: Any, apply: Callable[..., Array]
) -> MarkedProgram:
  """Traces a network in evaluation mode.

  Args:
    model: The network.
    variables: Its variables, or their shapes.
    inputs: A batch of inputs as a tree of arrays, or their shapes.
    apply: (model, variables, inputs) -> the output.
  """
  marked = model.clone(ops=_marking(model.ops))
  modules: dict[str, Any] = {}
  calls: dict[str, int] = {}

  def mark(call, args, kwargs, context):
    module = context.module
    kinds = (BcosConv, BcosDense, BatchNorm)
    if context.method_name != "__call__" or not isinstance(module, kinds):
      return call(*args, **kwargs)
    path = "/".join(module.path)
    modules[path], calls[path] = module, calls.get(path, 0) + 1
    x = checkpoint_name(args[0], INTO + path)
    return checkpoint_name(call(x, *args[1:], **kwargs), OUT_OF + path)

  def network(variables, inputs):
    with nn.intercept_methods(mark), jax.default_matmul_precision("highest"):
      return apply(marked, variables, inputs)

  closed = jax.make_jaxpr(network)(variables, inputs)
  once = {path: module for path, module in modules.items() if calls[path] == 1}
  return _flattened(closed, tuple(_flat(variables)), once)


def _flat(variables: Any) -> dict[str, Any]:
  return traverse_util.flatten_dict(variables, sep="/")


@functools.cache
def _marking_family(family: type[Ops]) -> type[Ops]:
  def gated(self, x: Array, kind: str) -> Array:
    def gate(x: Array) -> Array:
      return F.gated(x, kind)

    gate.__name__ = _GATE + kind
    return jax.jit(gate)(x)

  return type(family.__name__, (family,), {"gated": gated})


def _marking(ops: Ops) -> Ops:
  """Returns the family with each gate as one equation, and without recomputation."""
  fields: Any = {field.name: getattr(ops, field.name) for field in dataclasses.fields(ops)}
  return _marking_family(type(ops))(**{**fields, "recompute": False})


class _Flattener:
  """Enters calls and numbers values."""

  def __init__(self):
    self.equations: list[Operation] = []
    self.constants: dict[int, Any] = {}
    self.shapes: dict[int, tuple[int, ...]] = {}

  def new(self, variable: Any) -> int:
    number = len(self.shapes)
    self.shapes[number] = tuple(variable.aval.shape)
    return number

  def enter(self, closed: Any, arguments: Sequence[Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(closed.jaxpr.invars, arguments, strict=True))
    for variable, constant in zip(closed.jaxpr.constvars, closed.consts, strict=True):
      env[variable] = self.new(variable)
      self.constants[env[variable]] = constant

    def read(atom: Any) -> Any:
      return atom if isinstance(atom, core.Literal) else env[atom]

    for equation in closed.jaxpr.eqns:
      values = [read(atom) for atom in equation.invars]
      name = equation.primitive.name
      inner = equation.params.get(_CALLS[name]) if name in _CALLS else None
      if inner is not None and not str(equation.params.get("name", "")).startswith(_GATE):
        made = self.enter(inner, values)
      else:
        made = [self.new(variable) for variable in equation.outvars]
        self.equations.append(
          Operation(equation.primitive, equation.params, tuple(values), tuple(made))
        )
      env.update(zip(equation.outvars, made, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _flattened(closed: Any, paths: tuple[str, ...], modules: dict[str, Any]) -> MarkedProgram:
  flat = _Flattener()
  arguments = [flat.new(variable) for variable in closed.jaxpr.invars]
  (output,) = flat.enter(closed, arguments)
  # Leaves of a tree come in the order of its sorted keys.
  leaves = dict(zip(sorted(paths, key=lambda path: path.split("/")), arguments, strict=False))
  inputs = tuple(arguments[len(paths) :])
  live = {output}
  for equation in reversed(flat.equations):
    if live.intersection(equation.outputs):
      live.update(equation.reads)
  equations = tuple(e for e in flat.equations if live.intersection(e.outputs))
  dependent = set(inputs)
  for equation in equations:
    if dependent.intersection(equation.reads):
      dependent.update(equation.outputs)
  marks = {e.mark: e.outputs[0] for e in equations if e.mark}
  reached = {
    path: module
    for path, module in modules.items()
    if OUT_OF + path in marks and marks[OUT_OF + path] in dependent
  }
  return MarkedProgram(
    equations,
    leaves,
    inputs,
    output,
    flat.constants,
    flat.shapes,
    {path: module for path, module in reached.items() if not isinstance(module, BatchNorm)},
    {path: module for path, module in reached.items() if isinstance(module, BatchNorm)},
    marks,
    frozenset(dependent),
  )


def evaluate(equations: Sequence[Operation], values: dict[int, Any], wanted: Sequence[int]) -> list:
  """Returns values that equations make of others; `values` is not modified."""
  env = dict(values)
  for equation in equations:
    arguments = [v.val if isinstance(v, core.Literal) else env[v] for v in equation.inputs]
    env.update(zip(equation.outputs, equation(arguments), strict=True))
  return [env[value] for value in wanted]

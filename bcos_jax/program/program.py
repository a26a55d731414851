"""A function as a program: traced once, for one example of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import InputError
from .certificate import Certificate, certified
from .evaluation import Apply, Held, evaluate
from .rules import FACTORS, is_float
from .tracing import TraceOptions, Tracer
from .values import Body, Equation, Place, Value, ValueKind

Array = jax.Array
Variables = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A function of variables and inputs as typed equations, for a batch of one example.

  For larger batches the function is traced again; examples that depend on each other are refused.

  Attributes:
    function: (variables, inputs [N, ...]) -> outputs, any tree of arrays [N, ...].
    body: Its equations; arguments are the leaves of the variables, then the input.
    values: What is known of each value, by number.
    paths: Of the variables, in the order of their leaves.
    options: What the user decided.
    shapes: Shapes of the variables and of the input of one example, without the batch.
    outputs: Shapes of the outputs.
    precision: Of matrix products, as traced; None for the default of JAX.
    variables: The variables that were given; None if these were shapes.
    stated_axis: Axis of the channels of the inputs, where the user states it.
  """

  function: Callable[[Variables, Array], Any]
  body: Body
  values: Mapping[int, Value]
  paths: tuple[str, ...]
  options: TraceOptions
  shapes: tuple[Any, jax.ShapeDtypeStruct]
  outputs: Any
  precision: str | None
  variables: Variables = None
  stated_axis: int | None = None

  def __repr__(self) -> str:
    maps = sum(1 for _ in self.maps())
    return (
      f"Program({len(tuple(self.body.walk()))} equations, {maps} maps, {len(self.sources)} sources)"
    )

  @functools.cached_property
  def bare(self) -> Program:
    """The program without variables: what caches may keep."""
    return self if self.variables is None else dataclasses.replace(self, variables=None)

  @functools.cached_property
  def channel_axis(self) -> int:
    """Which axis of inputs [N, ...] has the channels; see `reading.channel_axis_of`."""
    from .reading import channel_axis_of

    return channel_axis_of(self)

  @functools.cached_property
  def live(self) -> frozenset[int]:
    """Numbers of the signals that reach an output without being held on the way."""
    return frozenset(_live(self.body, self.body.outputs))

  @functools.cached_property
  def sources(self) -> tuple[str, ...]:
    """Names of the constants and weights that are added to signals on the way to an output."""
    names = dict.fromkeys(self._sources(self.body))
    return tuple(names)

  def maps(self) -> Iterator[Equation]:
    """Yields dots and convolutions of a signal on the way to an output with constants."""
    for equation in self.body.walk():
      if equation.name in ("dot_general", "conv_general_dilated") and self._is_map(equation):
        yield equation

  def _is_map(self, equation: Equation) -> bool:
    pair = {ValueKind.SIGNAL, ValueKind.CONSTANT} == set(equation.operands[:2])
    return pair and equation.outputs[0] in self.live

  def _sources(self, body: Body) -> Iterator[str]:
    for equation in body.equations:
      if self.live.intersection(equation.outputs):
        yield from equation.sources.values()
        for inner in equation.bodies:
          yield from self._sources(inner)
    yield from body.sources.values()

  def run(self, variables: Variables, inputs: Array, apply: Apply) -> Any:
    """Returns the outputs for inputs of the batch that was traced, evaluated by `apply`."""
    leaves = jax.tree.leaves(variables)
    outputs = evaluate(self.body, [*leaves, inputs], apply)
    return jax.tree.unflatten(jax.tree.structure(self.outputs), outputs)

  def held(
    self, variables: Variables, inputs: Array, gains: Mapping[str, Array] | None = None
  ) -> Any:
    """Returns the outputs of a batch; their derivative with respect to the inputs is W(x).

    Args:
      variables: The variables.
      inputs: [N, ...].
      gains: Source -> ones [N], whose derivatives are the residuals; None for none.

    Returns:
      What the function returns, with weights held: a pure function, for `jax.vjp`, `jax.grad` and
      losses on explanations; reverse mode only.
    """

    from .batching import batched, mapped

    gains = gains or {}
    whole, axes = batched(self.bare, inputs.shape[0])
    if gains and axes is None:
      return mapped(self, variables, inputs, gains)
    return whole.run(variables, inputs, Held(whole.live, gains, axes or {}))

  def check(self, variables: Variables = None, inputs: Any = None) -> Certificate:
    """Proves that the outputs are affine in the input, given what is held.

    Args:
      variables: For a second witness, `jax.linear_transpose`, the variables.
      inputs: Likewise the input at which the weights are taken, [N, ...]; its first is.

    Returns:
      The certificate; print it.

    Raises:
      InputError: Naming the first equation that is not affine, its place and the fix; or arguments
        that do not fit.
    """
    if inputs is not None:
      self.check_arguments(variables, inputs)
      check_some(inputs)
    return certified(self, variables, inputs)

  def explain(
    self, variables: Variables, inputs: Any, target: Any = None, batch_size: int | None = None
  ) -> Any:
    """Explains an output for each input of a batch; see `explaining.explain_program`."""
    from .explaining import explain_program

    return explain_program(self, variables, inputs, target, batch_size)

  def bcosify(self, b: float = 2.0, **settings: Any) -> Any:
    """Returns the B-cosified function; see `bcosified.bcosify_program`."""
    from .bcosified import bcosify_program

    return bcosify_program(self, b, **settings)

  def check_arguments(self, variables: Variables, inputs: Any) -> None:
    """Raises InputError unless arguments have the shapes that were traced, and can be explained."""
    wanted, example = self.shapes
    given = jax.tree.structure(variables)
    if given != jax.tree.structure(wanted):
      raise InputError(
        f"The variables have the structure {given!s:.120}, which is not the one traced.",
        "Pass the variables that `trace` got, or others of the same structure.",
      )
    for path, own, leaf in zip(
      self.paths, jax.tree.leaves(wanted), jax.tree.leaves(variables), strict=True
    ):
      if jnp.shape(leaf) != own.shape:
        raise InputError(
          f"{path} has shape {jnp.shape(leaf)}, expected {own.shape}.",
          "Pass variables of the shapes that were traced.",
        )
    if jnp.ndim(inputs) == 0 or jnp.shape(inputs)[1:] != example.shape:
      raise InputError(
        f"The inputs have shape {jnp.shape(inputs)}, expected (N, {_joined(example.shape)}).",
        "Trace the function again for inputs of another shape.",
      )
    _check_dtype(_dtype(inputs))


def check_some(inputs: Any) -> None:
  """Raises InputError for a batch of nothing."""
  if not len(inputs):
    raise InputError("There are no inputs: the batch is empty.", "Give at least one.")


def _joined(shape: Sequence[int]) -> str:
  return ", ".join(map(str, shape))


def trace(
  function: Callable[[Variables, Array], Any],
  variables: Variables,
  inputs: Any,
  *,
  products: Mapping[str, str] | None = None,
  weights: Sequence[str] = (),
  precision: str | None = "highest",
  channel_axis: int | None = None,
) -> Program:
  """Traces a function and types its values: constants, weights and signals.

  Args:
    function: (variables, inputs [N, ...]) -> outputs, any tree of arrays [N, ...]. It is traced for
      a batch of one and must treat the examples of a batch alike and apart, as networks in
      evaluation mode do.
    variables: Any tree of arrays, or their shapes.
    inputs: A batch of floating-point arrays, or its shape.
    products: Place -> 'first' or 'second', the factor that is held of a product of two signals for
      which no rule decides. Places are named by modules or line, `*` standing for any text.
    weights: Places at which results are weights, whatever the operation.
    precision: Of matrix products; explanations are exact at 'highest'. None for JAX's default.
    channel_axis: Axis of the inputs [N, ...] along which channels lie; explanations have it last,
      and sum contributions over it. None takes what the function says by an attribute of that
      name, or finds it: as convolutions read the input, else an axis of 1 or 3, else the last.

  Returns:
    The program.

  Raises:
    InputError: Inputs that are no real floating-point numbers, a primitive without a rule, a
      product that nothing decides, a while loop over the signal, outputs that do not depend on the
      input or have no batch axis, or a place that nothing is at.
  """
  options = trace_options(products, weights)
  example = _example(inputs)
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), _dtype(leaf)), variables)
  concrete = not any(isinstance(v, jax.ShapeDtypeStruct) for v in jax.tree.leaves(variables))
  program = traced(function, (shapes, example), 1, options, precision)
  atoms = program.body.outputs
  if not any(isinstance(a, int) and program.values[a].kind != ValueKind.CONSTANT for a in atoms):
    raise InputError(
      "The outputs do not depend on the input.", "Return what the function computes from its input."
    )
  return dataclasses.replace(
    program,
    variables=variables if concrete else None,
    stated_axis=_axis(channel_axis, 1 + len(example.shape)),
  )


def _axis(axis: int | None, rank: int) -> int | None:
  if axis is None:
    return None
  if not (isinstance(axis, int) and -rank < axis < rank and axis != 0):
    raise InputError(
      f"channel_axis is {axis!r}, expected an axis of the {rank} of the inputs, but the batch's.",
      "For example channel_axis=1 for [N, C, H, W]; None finds it.",
    )
  return axis % rank


def traced(
  function: Callable[[Variables, Array], Any],
  shapes: tuple[Any, jax.ShapeDtypeStruct],
  count: int,
  options: TraceOptions,
  precision: str | None,
) -> Program:
  """Returns the program of a function for a batch of `count` examples; see `Program`."""
  variables, example = shapes
  batch = jax.ShapeDtypeStruct((count, *example.shape), example.dtype)
  with jax.default_matmul_precision(precision):
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(variables, batch)
  _check_traced(closed, outputs, count)
  paths = tuple(path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0])
  tracer = Tracer(paths, options)
  *leaves, last = closed.jaxpr.invars
  numbers = [tracer.new(v.aval, kind=ValueKind.CONSTANT, leaves=(i,)) for i, v in enumerate(leaves)]
  seen = tracer.new(last.aval, kind=ValueKind.SIGNAL)
  body = tracer.body(closed, [*numbers, seen], Place())
  _check_places(options, body)
  return Program(function, body, tracer.values, paths, options, shapes, outputs, precision)


def _check_traced(closed: Any, outputs: Any, count: int) -> None:
  for leaf in jax.tree.leaves(outputs):
    if leaf.shape[:1] != (count,):
      raise InputError(
        f"The function returns an array of shape {leaf.shape} for a batch of {count}, expected "
        f"({count}, ...).",
        "Return outputs [N, ...] for inputs [N, ...].",
      )
  if closed.effects:
    raise InputError(
      f"The function has side effects: {', '.join(map(str, closed.effects))}.",
      "Trace it without callbacks and prints.",
    )


def trace_options(products: Mapping[str, str] | None, weights: Sequence[str]) -> TraceOptions:
  """Returns what the user decides, checked; arguments as for `trace`.

  Raises:
    InputError: No places with factors, or no sequence of places.
  """
  if products is not None and not isinstance(products, Mapping):
    raise InputError(
      f"products is {products!r}, expected place -> 'first' or 'second'.",
      "For example products={'unit': 'first'}.",
    )
  if isinstance(weights, str) or not all(isinstance(place, str) for place in weights):
    raise InputError(
      f"weights is {weights!r}, expected a sequence of places.", "For example weights=('unit',)."
    )
  options = TraceOptions(dict(products or {}), tuple(weights))
  for place, factor in options.products.items():
    if factor not in FACTORS:
      raise InputError(
        f"products[{place!r}] is {factor!r}, expected 'first' or 'second'.",
        "Name the factor that is the weight.",
      )
  return options


def _check_places(options: TraceOptions, body: Body) -> None:
  """Raises InputError for a pattern that matches no place of a program."""
  places = {equation.place for equation in body.walk()}
  for name, patterns in (("products", options.products), ("weights", options.weights)):
    for pattern in patterns:
      if not any(place.matches(pattern) for place in places):
        some = sorted({place.modules or place.line for place in places} - {""})[:4]
        raise InputError(
          f"No operation is at the place {pattern!r} of {name}.",
          f"Places are, for example, {', '.join(some)}; '*' is any text.",
        )


def _dtype(leaf: Any) -> Any:
  return leaf.dtype if hasattr(leaf, "dtype") else jnp.asarray(leaf).dtype


def _example(inputs: Any) -> jax.ShapeDtypeStruct:
  leaves = jax.tree.leaves(inputs)
  if len(leaves) != 1 or jax.tree.structure(inputs) != jax.tree.structure(0):
    raise InputError(
      f"The inputs are a tree of {len(leaves)} arrays, expected one array [N, ...].",
      "Take what is not explained, such as masks, into the variables or the function.",
    )
  shape, dtype = jnp.shape(leaves[0]), _dtype(leaves[0])
  _check_dtype(dtype)
  if not shape:
    raise InputError("The inputs are a single number, expected [N, ...].", "Give a batch.")
  return jax.ShapeDtypeStruct(shape[1:], dtype)


def _check_dtype(dtype: Any) -> None:
  if not jnp.issubdtype(dtype, jnp.floating):
    raise InputError(
      f"The inputs have dtype {dtype}, expected real floating-point numbers: W(x) is a derivative.",
      "Pass real and imaginary parts as channels."
      if is_float(dtype)
      else "Explain pictures as floats, texts with respect to embeddings: trace the network behind "
      "the table of tokens.",
    )


def path_name(path: Any) -> str:
  """Returns the name of a variable."""
  text = jax.tree_util.keystr(path, simple=True, separator="/")
  return text.removesuffix("/value") or "variables"


def _live(body: Body, outputs: Sequence[Any]) -> Iterator[int]:
  """Yields the numbers of signals from which results are reached without a hold."""
  live = {atom for atom in outputs if isinstance(atom, int)}
  for equation in reversed(body.equations):
    reached = [i for i, number in enumerate(equation.outputs) if number in live]
    if not reached or not equation.signal:
      continue
    passing = [
      atom
      for i, atom in enumerate(equation.inputs)
      if equation.operands[i] == ValueKind.SIGNAL and i not in equation.held
    ]
    live.update(atom for atom in passing if isinstance(atom, int))
    if equation.name == "scan":  # What is carried may reach what is asked for at a later step.
      reached = sorted({*reached, *range(equation.params["num_carry"])})
    for inner in equation.bodies:
      yield from _live(inner, [inner.outputs[i] for i in reached])
  yield from live

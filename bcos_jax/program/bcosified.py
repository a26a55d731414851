"""B-cosification of traced programs: the same equations, maps of the signal made B-cos transforms.

The result is again a pure function of a tree of variables: of the network's own, and of those that
were asked for besides, exponents and a factor of the biases.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any
import warnings

import jax
import jax.numpy as jnp

from ..errors import InputError
from . import closed_form
from .batching import batched
from .decisions import BcosSettings, Decision, decide, placed, table
from .evaluation import evaluate
from .pairing import (
  Encoded,
  Pair,
  check_pairing,
  normalised,
  paired_leaves,
  split_body,
  widened,
)
from .program import Program
from .reading import reading_of
from .transforms import Transforms
from .values import ValueKind

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class BcosifiedProgram:
  """A B-cosified function.

  Attributes:
    program: The program that it was made of.
    decisions: What was decided for each part.
    settings: What was asked for where no rule says otherwise.
    variables: Its variables: those of the function; or, where exponents are learned, biases decay
      or the input is paired, {"network": those, "b": name of a map -> exponent, "bias": factor of
      the biases, "negated": name of a first map -> the half of its kernel that -z meets}. None if
      the program was traced from shapes.
    rules: What was asked for by name.
    pairing: 'none', or 'negated': the first maps read [z, -z].
  """

  program: Program
  decisions: tuple[Decision, ...]
  settings: BcosSettings
  variables: Any
  rules: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  pairing: str = "none"

  def __call__(self, variables: Any, inputs: Array) -> Any:
    """Returns the outputs [N, ...] for inputs [N, ...]: a pure function.

    Raises:
      InputError: Variables or inputs of other structure or shapes than traced.
    """
    network = self._network(variables)
    self.program.check_arguments(network, inputs)
    if self.pairing == "none":
      return self.evaluated(variables, inputs, inputs.shape[0])
    z = self._normalised(network, inputs)
    return self.evaluated(variables, Pair(z, -z), inputs.shape[0])

  def evaluated(self, variables: Any, seen: Any, count: int) -> Any:
    """Returns the outputs for what the first maps see: the input, or the halves of a paired one."""
    network = self._network(variables)
    whole = batched(self.program.bare, count).program
    changed = {d.equation: d for d in placed(self.decisions, whole) if d.changes}
    own = variables if self.extended else {}
    if self.pairing == "none":
      return whole.run(network, seen, Transforms(changed, own))
    reading = reading_of(whole)
    leaves = paired_leaves(whole, reading, network, own["negated"])
    _, behind = split_body(whole, reading.start)
    outputs = evaluate(behind, [*leaves, seen], Transforms(changed, own, reading.maps))
    return jax.tree.unflatten(jax.tree.structure(whole.outputs), outputs)

  def encode(self, variables: Any, inputs: Array) -> Array:
    """Returns the input as the network sees it: [z, -z] along the channels if it is paired."""
    network = self._network(variables)
    self.program.check_arguments(network, inputs)
    if self.pairing == "none":
      return inputs
    z = self._normalised(network, inputs)
    return jnp.concatenate([z, -z], axis=self.channel_axis)

  def start(self, network: Any) -> Any:
    """Returns the variables to start from, for variables of the function."""
    if not self.extended:
      return network
    extended = {"network": network}
    if self.exponents:
      extended["b"] = {name: jnp.asarray(start) for name, start in self.exponents.items()}
    if self.decays:
      extended["bias"] = jnp.ones(())
    if self.pairing != "none":
      reading = reading_of(self.program.bare)
      extended["network"], extended["negated"] = widened(self.program, reading, network)
    return extended

  @property
  def removed(self) -> tuple[Decision, ...]:
    """The biases that are removed."""
    return tuple(d for d in self.decisions if d.part == "bias" and d.settings.biases == "remove")

  @property
  def encoded(self) -> Any:
    """The function (variables, what `encode` returns) -> outputs, which explanations are of."""
    return self.bare if self.pairing == "none" else Encoded(self.bare)

  @functools.cached_property
  def bare(self) -> BcosifiedProgram:
    """The program without variables: what caches may keep."""
    if self.variables is None and self.program.variables is None:
      return self
    return dataclasses.replace(self, program=self.program.bare, variables=None)

  def _normalised(self, network: Any, inputs: Array) -> Array:
    whole = batched(self.program.bare, inputs.shape[0]).program
    return normalised(whole, reading_of(whole), network, inputs)

  def _network(self, variables: Any) -> Any:
    self._check_extended(variables)
    return variables["network"] if self.extended else variables

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
    return bool(self.exponents) or self.decays or self.pairing != "none"

  @functools.cached_property
  def exponents(self) -> dict[str, float]:
    """Name of each map that learns B -> the exponent that it starts with."""
    return {d.name: d.settings.b for d in self.decisions if d.learned}

  @property
  def decays(self) -> bool:
    """Whether biases are multiplied by a variable."""
    return any(d.part == "bias" and d.settings.biases == "decay" for d in self.decisions)

  def _check_extended(self, variables: Any) -> None:
    own = {
      "b": bool(self.exponents),
      "bias": self.decays,
      "negated": self.pairing != "none",
    }
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
  pairing: str = "none",
  rules: Mapping[str, Mapping[str, Any]] | None = None,
  calibrate: Any = None,
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
    pairing: 'none', or 'negated': the first maps read [z, -z], z being the input as the network
      shifts and scales it, with kernels [w, -w] / 2 to begin with, which respond alike. It is
      explained with respect to [z, -z].
    rules: Name or pattern -> settings of its own: {"*head*": {"b": 1.0}}. Names are those of
      `table()`; the last match counts.
    calibrate: Inputs [N, ...] of the function's domain, without labels: the maps are fitted to what
      the function computes; `program.calibrate` has settings, and reports.

  Returns:
    The network: `q(q.variables, inputs)`. At B=1 with biases and pooling kept it computes what the
    function does.

  Raises:
    InputError: Settings that cannot be, a rule that matches nothing, a function without maps of
      variables, or inputs that it cannot be calibrated with.
  """
  settings = BcosSettings(b, learn_b, biases, pool)
  rules = rules or {}
  made = BcosifiedProgram(program, decide(program, settings, rules), settings, None, rules, pairing)
  _check_maps(made)
  reading = check_pairing(program, pairing)
  if reading is not None:
    decisions = tuple(
      dataclasses.replace(d, action=f"{d.action}, of [z, -z]") if d.equation in reading.maps else d
      for d in made.decisions
    )
    made = dataclasses.replace(made, decisions=decisions)
  if program.variables is not None:
    made = dataclasses.replace(made, variables=made.start(program.variables))
  if calibrate is None:
    return made
  variables, report = closed_form.calibrate(made, calibrate)
  for warning in report.warnings:
    warnings.warn(warning, stacklevel=3)
  return dataclasses.replace(made, variables=variables)


def _check_maps(made: BcosifiedProgram) -> None:
  if not any(decision.part == "map" for decision in made.decisions):
    raise InputError(
      "The function has no map of the signal whose kernel is a variable: nothing becomes B-cos.",
      "Pass kernels as variables; what a function closes over is a constant.",
    )
  shards = frozenset(
    inner
    for equation in made.program.body.walk()
    if equation.name == "shard_map"
    for body in equation.bodies
    for inner in body.walk()
  )
  for decision in made.decisions:
    if decision.part == "map" and decision.changes:
      _check_map(decision, sharded=decision.equation in shards)


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

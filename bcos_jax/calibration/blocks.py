"""The second sweep: the maps of a block together, for what the teacher's output depends on.

Fitted one by one, every map aims at its teacher's value. Inside a block those values are no end in
themselves: what counts is the sum behind it. Here all maps of a block are improved together, on
that sum, by Gauss-Newton steps (block-wise reconstruction, as BRECQ has it for quantised networks,
arXiv 2102.05426). Errors are weighed by the mean square of the derivative of the head's aim by the
value, over places and over channels: errors that no class depends on cost nothing.

A step solves all kernels of a block at once by conjugate gradients, whose products are forward and
reverse derivatives of the block as it is. They are preconditioned map by map with the second
moments of the inputs and, for each output, the curvature behind it, which one random probe tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import functional as F
from .aims import Part
from .execution import Execution
from .fit import STEPS
from .kernels import Kernel
from .sampling import Sampler, seen_at
from .shares import Shares
from .traced import evaluate

Array = jax.Array
Leaves = dict[str, Array]

PROBES = 2
"""Random combinations of the head's aims whose derivatives weigh errors."""

FLOOR = 0.1
"""Weight of what the output does not depend on, relative to the mean."""

DAMPING = 1e-2
"""Of second moments and curvatures in the preconditioner, relative to their mean."""


@dataclasses.dataclass(frozen=True)
class Importance:
  """How much the head's aims depend on a value: [n, places] of inputs, [C] of channels; mean 1."""

  places: np.ndarray
  channels: np.ndarray


def importance(
  teacher: Execution, values: Sequence[int], sampler: Sampler, shares: Shares, size: int, seed: int
) -> dict[int, Importance]:
  """Returns how much the head's aims depend on some values of the teacher's network.

  Args:
    teacher: At its start; it is not advanced.
    values: Of the program.
    sampler: Knows what the head aims at.
    shares: How inputs are split.
    size: Inputs of a batch.
    seed: Of the probes.
  """
  program = teacher.program
  equations = teacher.missing(program.output)
  width = program.shapes[program.output][1:]
  signs = _signs(np.random.default_rng(seed), (shares.count, PROBES, *width))[shares.mine]

  def squares(env: dict[int, Array], signs: Array) -> list[tuple[Array, Array]]:
    def aimed(moved: dict[int, Array]) -> Array:
      now = env
      for equation in equations:
        now = _with_outputs(now, equation, moved)
      return sampler.aimed(now[program.output])

    still = {value: jnp.zeros(program.shapes[value]) for value in values}
    _, back = jax.vjp(aimed, still)
    total: dict[int, Any] = dict.fromkeys(values, 0.0)
    for k in range(PROBES):
      (slopes,) = back(signs[:, k])
      total = {value: total[value] + slopes[value] ** 2 for value in values}
    rows = [total[value].reshape(len(signs), -1, total[value].shape[-1]) for value in values]
    return [(each.mean(-1), each.mean(1)) for each in rows]

  batches = shares.batches(size)
  made = list(teacher.per_batch(equations, squares, [signs[rows] for rows in batches]))
  counted = _counted(batches)
  found = {}
  for i, value in enumerate(values):
    places, channels = (
      np.concatenate([each[i][k][keep] for each, keep in zip(made, counted, strict=True)])
      for k in range(2)
    )
    channels = shares.gathered(channels).mean(0)
    mean = channels.mean()
    scale = 1 / mean if np.isfinite(mean) and mean > 0 else 0.0
    found[value] = Importance(places * scale, channels * scale)
  return found


def _with_outputs(env: dict[int, Array], equation: Any, moved: Mapping[int, Array]) -> dict:
  """Returns values with those of an equation, moved where that is asked for."""
  made = evaluate([equation], env, equation.outputs)
  return env | {
    value: new + moved[value] if value in moved else new
    for value, new in zip(equation.outputs, made, strict=True)
  }


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  return rng.integers(0, 2, shape).astype(np.float32) * 2 - 1


def _counted(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Returns which inputs of each batch do not merely fill it up, as whole batches may."""
  new = np.diff(np.concatenate(batches), prepend=-1) > 0
  return np.split(new, np.cumsum([len(rows) for rows in batches])[:-1])


class BlockFitter:
  """Improves the maps of one block; the student's variables change in its run."""

  def __init__(
    self,
    block: Sequence[Part],
    student: Execution,
    teacher: Execution,
    sampler: Sampler,
    shares: Shares,
    size: int,
  ):
    """Evaluates both networks up to the block.

    Args:
      block: Its maps, the last one in front of the sum.
      student: Not advanced beyond what the block sees.
      teacher: Likewise.
      sampler: Knows masks and places.
      shares: How inputs are split.
      size: Inputs of a batch.
    """
    self._block, self._sampler, self._shares = block, sampler, shares
    self._student, self._batches = student, shares.batches(size)
    program, last = student.program, block[-1]
    self._end, end = last.student.ends[-1], last.teacher.ends[-1]
    # The maps are in the order of the program: what the first one sees needs none of them.
    student.advance([program.seen_by(block[0].path)])
    teacher.advance([end])
    self._equations = student.missing(self._end)
    gate = last.student.gate or last.teacher.gate
    self._act = functools.partial(F.gated, kind=gate) if gate else (lambda x: x)
    self._gated_student = bool(last.student.gate) or not last.teacher.gate
    self._targets = teacher.value(end)
    self._names = {f"params/{part.path}/kernel": program.maps[part.path] for part in block}

  def refine(self, weights: Importance, rounds: int, inner: int) -> float:
    """Improves the kernels; returns the held-out error that is left, relative to the one before.

    Args:
      weights: Of the block's values.
      rounds: Gauss-Newton steps, at most.
      inner: Steps of conjugate gradients in each.
    """
    rows = self._rows(weights)
    errors = self._summing(self._errors, rows)
    slope, curve = self._summing(self._slope, rows), self._summing(self._curve, rows)
    variables = self._student.variables
    kernels = {name: jnp.asarray(variables[name]) for name in self._names}
    first = error = np.asarray(errors(kernels))
    precondition = self._preconditioner(kernels, rows)
    for _ in range(rounds):
      step = _conjugate_gradients(
        lambda v, at=kernels: curve((at, v)), slope(kernels), precondition, inner
      )
      better = self._line_search(errors, kernels, step, error)
      if better is None:
        break
      kernels, error = better
    for name, kernel in kernels.items():
      variables[name] = np.asarray(kernel, variables[name].dtype)
    return float(error[1] / first[1]) if first[1] > 0 else 1.0

  def _line_search(
    self, errors: Callable[[Leaves], Any], kernels: Leaves, step: Leaves, error: np.ndarray
  ) -> tuple[Leaves, np.ndarray] | None:
    """Returns the first kernels along a step that are better, fitted and held out."""
    for size in STEPS:
      moved = {name: kernel + size * step[name] for name, kernel in kernels.items()}
      found = np.asarray(errors(moved))
      if (found < error).all():
        return moved, found
    return None

  def _rows(self, weights: Importance) -> list[Any]:
    """Returns what weighs the values of each batch: targets and the arguments of `_weights`."""
    shares = self._shares
    mask = self._sampler.mask_of(self._student.program.shapes[self._end])
    places, channels, fitted, held = [], [], [], []
    for rows, new in zip(self._batches, _counted(self._batches), strict=True):
      each = weights.places[rows]
      used = np.broadcast_to(new[:, None], each.shape)
      used = used if mask is None else used & mask[rows]
      out = shares.held_out[rows][:, None]
      places.append(each.astype(np.float32))
      channels.append(np.tile(weights.channels.astype(np.float32), (len(rows), 1)))
      fitted.append((used & ~out).astype(np.float32))
      held.append((used & out).astype(np.float32))
    return [self._targets, places, channels, fitted, held]

  def _summing(self, function: Callable[..., Any], rows: Sequence[Any]) -> Callable[[Any], Any]:
    return self._student.summing(self._equations, function, *rows)

  def _value(self, env: dict[int, Array], kernels: Leaves) -> Array:
    leaves = self._student.program.leaves
    moved = env | {leaves[name]: kernel for name, kernel in kernels.items()}
    (value,) = evaluate(self._equations, moved, [self._end])
    return self._act(value) if self._gated_student else value

  def _errors(self, env, kernels: Leaves, target: Array, *rows: Array) -> Array:
    square = (self._act(target) - self._value(env, kernels)) ** 2
    return jnp.stack([jnp.sum(weights * square) for weights in _weights(target, *rows)])

  def _slope(self, env, kernels: Leaves, target: Array, *rows: Array) -> Leaves:
    value, back = jax.vjp(lambda k: self._value(env, k), kernels)
    fitted, _ = _weights(target, *rows)
    return back(fitted * (self._act(target) - value))[0]

  def _curve(self, env, given: Any, target: Array, *rows: Array) -> Leaves:
    kernels, step = given
    value = functools.partial(self._value, env)
    _, moved = jax.jvp(value, (kernels,), (step,))
    _, back = jax.vjp(value, kernels)
    fitted, _ = _weights(target, *rows)
    return back(fitted * moved)[0]

  def _preconditioner(self, kernels: Leaves, rows: Sequence[Any]) -> Callable[[Leaves], Leaves]:
    """Returns an approximate inverse of the block's curvature, map by map."""
    grouping = {
      name: Kernel(self._student.variables, name.split("/", 1)[1].rpartition("/")[0], module)
      for name, module in self._names.items()
    }
    factors = {}
    for name, moments in self._second_moments(kernels).items():
      mean = jnp.trace(moments, axis1=1, axis2=2)[:, None, None] / moments.shape[-1]
      eye = jnp.eye(moments.shape[-1])
      factors[name] = jnp.linalg.cholesky(moments + (DAMPING * mean + 1e-20) * eye)

    def solved(name: str, leaf: Array) -> Array:
      return jax.scipy.linalg.cho_solve((factors[name], True), grouping[name].grouped(leaf))

    inputs = np.arange(self._shares.count, dtype=np.uint32)[self._shares.mine]
    seeds = [inputs[batch] for batch in self._batches]
    probe = self._summing(self._probe, [*rows, seeds])(kernels)
    behind = {}
    for name, leaf in probe.items():
      each = (grouping[name].grouped(leaf) * solved(name, leaf)).mean(1, keepdims=True)
      behind[name] = each + DAMPING * each.mean() + 1e-30
    return lambda leaves: {
      name: grouping[name].ungrouped(solved(name, leaf) / behind[name])
      for name, leaf in leaves.items()
    }

  def _probe(self, env, kernels: Leaves, target: Array, *rows: Array) -> Leaves:
    rows, seeds = rows[:-1], rows[-1]
    _, back = jax.vjp(lambda k: self._value(env, k), kernels)
    fitted, _ = _weights(target, *rows)
    # By input, so that they do not depend on how inputs are split.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), seeds)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, target.shape[1:], target.dtype))(keys)
    return back(jnp.sqrt(fitted) * signs)[0]

  def _second_moments(self, kernels: Leaves) -> dict[str, Array]:
    """Returns the mean of x x' over what each map sees at some places, [G, D, D]."""
    program = self._student.program
    seen = [program.seen_by(part.path) for part in self._block]
    places = [
      self._sampler.places(part.path, program.shapes[program.response(part.path)])
      for part in self._block
    ]
    index = [[each[rows] for each in places] for rows in self._batches]
    equations = program.needed(seen, self._student.has)

    def moments(env, kernels: Leaves, *index: Array) -> dict[str, Array]:
      moved = env | {program.leaves[name]: kernel for name, kernel in kernels.items()}
      values = evaluate(equations, moved, seen)
      made = {}
      for (name, module), x, where in zip(self._names.items(), values, index, strict=True):
        x = seen_at(module, x, where)
        made[name] = jnp.einsum("brgd,brge->gde", x, x) / x.shape[1]
      return made

    return self._student.summing(equations, moments, *zip(*index, strict=True), reads=seen)(kernels)


def _weights(
  value: Array, places: Array, channels: Array, fitted: Array, held: Array
) -> tuple[Array, Array]:
  """Returns the weights of fitted and of held-out values, like `value` [B, ..., C].

  Args:
    value: Of one batch.
    places: Importance of its places, [B, P].
    channels: Importance of the channels, [B, C], alike for all inputs.
    fitted: 1 where a place is fitted, else 0, [B, P].
    held: 1 where it is held out, likewise.
  """
  weights = FLOOR + places[:, :, None] * channels[:, None]
  made = [(used[:, :, None] * weights).reshape(value.shape) for used in (fitted, held)]
  return made[0], made[1]


def _conjugate_gradients(
  system: Callable[[Leaves], Leaves],
  right: Leaves,
  precondition: Callable[[Leaves], Leaves],
  steps: int,
) -> Leaves:
  """Solves a symmetric positive system for all leaves together."""

  def dot(a: Leaves, b: Leaves) -> float:
    return float(sum(jnp.vdot(a[name], b[name]) for name in a))

  solution = jax.tree.map(jnp.zeros_like, right)
  residual, direction = right, precondition(right)
  rho = dot(residual, direction)
  for _ in range(steps):
    image = system(direction)
    curvature = dot(direction, image)
    if not curvature > 0:
      break
    solution, residual = (
      jax.tree.map(lambda a, b, by=by: a + by * b, old, new)
      for old, new, by in (
        (solution, direction, rho / curvature),
        (residual, image, -rho / curvature),
      )
    )
    conditioned = precondition(residual)
    rho, before = dot(residual, conditioned), rho
    direction = jax.tree.map(lambda a, b, by=rho / before: a + by * b, conditioned, direction)
  return solution

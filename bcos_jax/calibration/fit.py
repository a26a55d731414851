"""Kernels of B-cos maps from wanted responses: regression, then Gauss-Newton steps.

The scaled response of a B-cos map to x, y |y|^(B-1) / ||x||^(B-1) for y = w.x with its kernel w,
equals a wanted number t where

    w.x = sign(t) (|t| ||x||^(B-1))^(1/B),

which is linear in w. That regression weighs errors by the wrong scale, though, and asks for exact
negative responses where a gate behind the map makes the same of all of them. A few Gauss-Newton
steps on the gated response itself finish it. Their systems differ between outputs; they share one
matrix up to a positive weight of each row, so conjugate gradients preconditioned by that matrix
solve all outputs together, with the cost of a few products with the rows.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from .. import functional as F

Array = jax.Array
Fit = tuple[Array, Array]  # A kernel, and its linear responses to the rows.

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths of the ridge that are tried, relative to the mean square of an input channel."""

STEPS = (1.0, 0.5, 0.25, 0.1)
"""Fractions of a Gauss-Newton step that are tried."""

RECTIFIED = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu")
"""Gates that make little of negative responses."""


@dataclasses.dataclass(frozen=True)
class Rows:
  """What a map sees and what is wanted of it, at R places.

  Attributes:
    x: Inputs, [R, P, G, D]: of each place P rows whose responses are averaged (1 but for heads
      before a pooling), of G groups.
    target: Wanted values behind the map's chain, [R, O].
    base: These values for a response of zero, [R, O].
    gain: What a response of one adds to them, [O].
    held_out: Whether a place is of a held-out input, [R].
  """

  x: Array
  target: Array
  base: Array
  gain: Array
  held_out: Array


jax.tree_util.register_dataclass(Rows, ["x", "target", "base", "gain", "held_out"], [])


@dataclasses.dataclass(frozen=True)
class Compared:
  """How a map responds, and what is compared.

  Attributes:
    b: The exponent.
    guard: The epsilons of the norm.
    gate: Kind of the gate behind the chain; '' for none.
    bias: Whether the last input channel is the constant one of a bias, which norms leave out.
    length: The norm that kernels have, where nothing behind them can make up for another; None for
      kernels of any norm.
  """

  b: float
  guard: F.Guard
  gate: str = ""
  bias: bool = False
  length: float | None = None

  def lengths(self, x: Array) -> Array:
    """Returns the norms of inputs, [R, P, G, 1]."""
    return self.guard.norm(F.sq_norm(x[..., :-1] if self.bias else x))

  def weights(self, w: Array) -> Array:
    """Returns kernels [G, D, O / G] without their biases."""
    return w.at[:, -1].set(0.0) if self.bias else w

  def reach(self, w: Array) -> Array:
    """Returns what makes kernels have the norm that they have in the network, [G, 1, O / G]."""
    if self.length is None:
      return jnp.ones((w.shape[0], 1, w.shape[2]), w.dtype)
    return self.length / _safe(jnp.linalg.norm(self.weights(w), axis=1, keepdims=True))

  def reached(self, w: Array) -> Array:
    """Returns the kernels of the norm that they have."""
    return w * self.reach(w)

  def act(self, value: Array) -> Array:
    """Returns what is compared of a value."""
    return F.gated(value, self.gate) if self.gate else value


@dataclasses.dataclass(frozen=True)
class Effort:
  """How long kernels are improved.

  Attributes:
    one_sided: Further regressions in which, where value and target are both negative and a gate
      follows, the value is as good as the target.
    rounds: Gauss-Newton steps.
    inner: Steps of conjugate gradients in each.
    block_rounds: Gauss-Newton steps of the maps of each block together, in a second sweep; 0 leaves
      it out. It helps small networks most, and costs several times the first sweep.
    block_inner: Steps of conjugate gradients in each of them.
  """

  one_sided: int = 3
  rounds: int = 3
  inner: int = 10
  block_rounds: int = 0
  block_inner: int = 4


def response(w: Array, x: Array, form: Compared) -> Array:
  """Returns the mean scaled response, [R, O], of kernels [G, D, O / G] to inputs [R, P, G, D]."""
  return _response((w, _linear(w, x)), form.lengths(x), form)


def _response(fit: Fit, lengths: Array, form: Compared) -> Array:
  w, y = fit
  return _scaled(y * form.reach(w)[:, 0], lengths, form).mean(1).reshape(len(y), -1)


def _linear(w: Array, x: Array) -> Array:
  if len(w) > 1:
    return jnp.einsum("rpgd,gdo->rpgo", x, w)
  # Of one group a plain product, which is several times as fast on CPUs.
  return (x.reshape(-1, x.shape[-1]) @ w[0]).reshape(*x.shape[:3], -1)


def _back(x: Array, y: Array) -> Array:
  """Returns the sums over rows of inputs times responses [R, P, G, O / G], [G, D, O / G]."""
  if x.shape[2] > 1:
    return jnp.einsum("rpgd,rpgo->gdo", x, y)
  return (x.reshape(-1, x.shape[-1]).T @ y.reshape(-1, y.shape[-1]))[None]


def _scaled(y: Array, length: Array, form: Compared) -> Array:
  return y if form.b == 1 else y * (jnp.abs(y) / _safe(length)) ** (form.b - 1)


def _safe(length: Array) -> Array:
  return jnp.where(length == 0, 1.0, length)


def errors(w: Array, rows: Rows, form: Compared) -> tuple[Array, Array]:
  """Returns the mean square errors of outputs, [O] each, in places that are fitted and held out."""
  return _Judge(rows, form).errors((w, _linear(w, rows.x)))


class _Judge:
  """What kernels make at rows, and how far that is from the targets.

  Attributes:
    lengths: Norms of the inputs, which take a pass over all of them.
  """

  def __init__(self, rows: Rows, form: Compared):
    self.rows, self.form = rows, form
    self.lengths = form.lengths(rows.x)

  def value(self, fit: Fit) -> Array:
    """Returns the values behind the chain, [R, O]."""
    return self.rows.base + self.rows.gain * _response(fit, self.lengths, self.form)

  def errors(self, fit: Fit) -> tuple[Array, Array]:
    """Returns the mean square errors, see `errors`."""
    act, held = self.form.act, self.rows.held_out[:, None]
    square = (act(self.rows.target) - act(self.value(fit))) ** 2
    return _mean(square, ~held), _mean(square, held)

  def better(self, fit: Fit, other: Fit) -> Fit:
    """Returns, output by output, the kernel with the smaller error."""
    helps = self.errors(other)[0] < self.errors(fit)[0]
    helps = helps.reshape(len(fit[0]), -1)
    return jnp.where(helps[:, None], other[0], fit[0]), jnp.where(helps, other[1], fit[1])

  def wanted(self, target: Array) -> Array:
    """Returns the linear responses that make targets, [R, P, G, O / G]."""
    r, p, g, _ = self.rows.x.shape
    t = ((target - self.rows.base) / self.rows.gain).reshape(r, 1, g, -1)
    b = self.form.b
    t = jnp.sign(t) * (jnp.abs(t) * self.lengths ** (b - 1)) ** (1 / b)
    return jnp.broadcast_to(t, (r, p, *t.shape[2:]))


def _mean(values: Array, chosen: Array) -> Array:
  return jnp.where(chosen, values, 0.0).sum(0) / jnp.maximum(chosen.sum(0), 1)


@functools.partial(jax.jit, static_argnames=("form", "effort"))
def fit(rows: Rows, old: Array, form: Compared, effort: Effort) -> tuple[Array, dict[str, Array]]:
  """Finds the kernel whose values are closest to the targets.

  Args:
    rows: Inputs and targets; places that are held out choose the ridge only.
    old: The kernel before, [G, D, O / G]. Each output starts from the multiple of its own that
      fits best, so that directions which the inputs do not tell apart stay as they were.
    form: How the map responds.
    effort: How long.

  Returns:
    The kernel, and figures of the fit: `ridge`, that was chosen; `condition` of the regularised
    matrix, an estimate from its factor.
  """
  judge, normal = _Judge(rows, form), _NormalEquations(rows, old)
  first = normal.sides(judge.wanted(rows.target))

  def tried_with(ridge: Array) -> Array:
    w = _solved(normal.factor(ridge), *first)
    return judge.errors((w, _linear(w, rows.x)))[1].sum()

  # Loops of the program rather than of Python: each map is another shape to compile.
  tried = lax.map(tried_with, jnp.asarray(RIDGES))
  ridge = jnp.asarray(RIDGES)[jnp.argmin(jnp.where(jnp.isfinite(tried), tried, jnp.inf))]
  chol = normal.factor(ridge)
  w = _solved(chol, *first)
  state = w, _linear(w, rows.x)
  if form.gate in RECTIFIED:

    def again(_: int, state: Fit) -> Fit:
      value = judge.value(state)
      one_sided = jnp.where((rows.target < 0) & (value < 0), value, rows.target)
      other = _solved(chol, *normal.sides(judge.wanted(one_sided)))
      return judge.better(state, (other, _linear(other, rows.x)))

    state = lax.fori_loop(0, effort.one_sided, again, state)
  if form.b > 1 or form.gate or rows.x.shape[1] > 1 or form.length is not None:

    def step(_: int, state: Fit) -> Fit:
      return _gauss_newton(state, judge, chol, ridge * normal.power, effort.inner)

    state = lax.fori_loop(0, effort.rounds, step, state)
  diagonal = jnp.diagonal(chol, axis1=1, axis2=2)
  condition = (diagonal.max() / diagonal.min()) ** 2
  return state[0], {"ridge": ridge, "condition": condition}


class _NormalEquations:
  """Those of regressions on the places that are fitted.

  Attributes:
    power: Mean square of an input channel, [G, 1, 1].
  """

  def __init__(self, rows: Rows, old: Array):
    live = ~rows.held_out
    self._old, self._x, self._live = old, rows.x, live[:, None, None, None]
    self._count = jnp.maximum(live.sum(), 1) * rows.x.shape[1]
    # What a map sees may be most of the memory: masked here alone, the copy goes at once.
    fitted = jnp.where(self._live, rows.x, 0.0)
    self._gram = jnp.einsum("rpgd,rpge->gde", fitted, rows.x) / self._count
    channels = self._gram.shape[-1]
    self.power = jnp.trace(self._gram, axis1=1, axis2=2)[:, None, None] / channels + 1e-30
    self._before = jnp.where(self._live, _linear(old, rows.x), 0.0)

  def factor(self, ridge: float | Array) -> Array:
    """Returns the Cholesky factors of the regularised matrices, [G, D, D]."""
    eye = jnp.eye(self._gram.shape[-1])
    return jnp.linalg.cholesky(self._gram + (ridge * self.power + 1e-7 * self.power) * eye)

  def sides(self, wanted: Array) -> tuple[Array, Array]:
    """Returns the multiples of the old kernels to start from, and the right sides of the rest."""
    multiple = _multiple(self._before, wanted)
    rest = jnp.where(self._live, wanted - self._before * multiple, 0.0)
    right = _back(self._x, rest) / self._count
    return self._old * multiple[:, None], right


def _solved(chol: Array, start: Array, right: Array) -> Array:
  return start + jax.scipy.linalg.cho_solve((chol, True), right)


def _multiple(y: Array, wanted: Array) -> Array:
  """Returns the multiples of linear responses that are closest to wanted ones, [G, O / G]."""
  square = (y**2).sum((0, 1))
  return (y * wanted).sum((0, 1)) / jnp.where(square > 0, square, 1.0)


def _gauss_newton(fit: Fit, judge: _Judge, chol: Array, ridge: Array, inner: int) -> Fit:
  """Returns the kernel after a step on the gated, scaled response; no output gets worse."""
  rows, form = judge.rows, judge.form
  x, (r, p, g, _) = rows.x, rows.x.shape
  reach = form.reach(fit[0])
  w, y = fit[0] * reach, fit[1] * reach[:, 0]
  plain = form.weights(w) if form.length is not None else jnp.zeros_like(w)
  square = _safe((plain**2).sum(1, keepdims=True))
  value = judge.value((w, y))
  residual, slope = _residual(rows.target, value, form)
  held = rows.held_out[:, None]
  residual, slope = (jnp.where(held, 0.0, each) for each in (residual, slope * rows.gain))
  length = _safe(judge.lengths)
  inside = jnp.ones_like(y) if form.b == 1 else form.b * (jnp.abs(y) / length) ** (form.b - 1)
  jacobian = slope.reshape(r, 1, g, -1) * inside / p
  count = jnp.maximum((~held).sum(), 1)

  def back(rows_of: Array) -> Array:
    u = _back(x, jacobian * rows_of.reshape(r, 1, g, -1)) / count
    return u - plain * (w * u).sum(1, keepdims=True) / square

  def tangent(v: Array) -> Array:  # to the kernels of the same norm
    return v - w * (plain * v).sum(1, keepdims=True) / square

  def along(v: Array) -> Array:
    return (jacobian * _linear(tangent(v), x)).sum(1)

  weight = (jacobian**2).sum((0, 1)) / count
  weight = jnp.where(weight > 0, weight, 1.0)[:, None, :]

  def system(v: Array) -> Array:
    return back(along(v)) + ridge * weight * v

  def precondition(v: Array) -> Array:
    return jax.scipy.linalg.cho_solve((chol, True), v) / weight

  step = tangent(_conjugate_gradients(system, back(residual), precondition, inner))
  along_step = _linear(step, x)

  def tried(fit: Fit, size: Array) -> tuple[Fit, None]:
    return judge.better(fit, (fit[0] + size * step, fit[1] + size * along_step)), None

  return lax.scan(tried, (w, y), jnp.asarray(STEPS))[0]


def _residual(target: Array, value: Array, form: Compared) -> tuple[Array, Array]:
  """Returns what is missing and the slope of the gate. A rectifier that is wrongly off pulls."""
  if not form.gate:
    return target - value, jnp.ones_like(value)
  if form.gate == "relu":
    live = (value > 0) | (target > 0)
    return live * (jnp.maximum(target, 0.0) - value), live.astype(value.dtype)
  slope = jax.vmap(jax.vmap(jax.grad(form.act)))(value)
  return form.act(target) - form.act(value), slope


def _conjugate_gradients(
  system: Callable[[Array], Array],
  right: Array,
  precondition: Callable[[Array], Array],
  steps: int,
) -> Array:
  """Solves a symmetric positive system for each output by itself, [G, D, O / G]."""

  def dot(a: Array, b: Array) -> Array:
    return (a * b).sum(1, keepdims=True)

  def body(_: int, state: Any) -> Any:
    v, r, d, rho = state
    q = system(d)
    curvature = dot(d, q)
    alpha = rho / jnp.where(curvature > 0, curvature, jnp.inf)
    v, r = v + alpha * d, r - alpha * q
    z = precondition(r)
    new = dot(r, z)
    return v, r, z + d * new / jnp.where(rho > 0, rho, jnp.inf), new

  first = precondition(right)
  start = (jnp.zeros_like(right), right, first, dot(right, first))
  return lax.fori_loop(0, steps, body, start)[0]

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

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
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

  def reached(self, w: Array) -> Array:
    """Returns the kernels of the norm that they have."""
    if self.length is None:
      return w
    norm = jnp.linalg.norm(self.weights(w), axis=1, keepdims=True)
    return w * (self.length / _safe(norm))

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
  """

  one_sided: int = 3
  rounds: int = 3
  inner: int = 10


def response(w: Array, x: Array, form: Compared) -> Array:
  """Returns the mean scaled response, [R, O], of kernels [G, D, O / G] to inputs [R, P, G, D]."""
  return _scaled(_linear(form.reached(w), x), form.lengths(x), form).mean(1).reshape(len(x), -1)


def _linear(w: Array, x: Array) -> Array:
  return jnp.einsum("rpgd,gdo->rpgo", x, w)


def _scaled(y: Array, length: Array, form: Compared) -> Array:
  return y if form.b == 1 else y * (jnp.abs(y) / _safe(length)) ** (form.b - 1)


def _safe(length: Array) -> Array:
  return jnp.where(length == 0, 1.0, length)


def errors(w: Array, rows: Rows, form: Compared) -> tuple[Array, Array]:
  """Returns the mean square errors of outputs, [O] each, in places that are fitted and held out."""
  square = (form.act(rows.target) - form.act(_value(w, rows, form))) ** 2
  held = rows.held_out[:, None]
  return _mean(square, ~held), _mean(square, held)


def _mean(values: Array, chosen: Array) -> Array:
  return jnp.where(chosen, values, 0.0).sum(0) / jnp.maximum(chosen.sum(0), 1)


def _value(w: Array, rows: Rows, form: Compared) -> Array:
  return rows.base + rows.gain * response(w, rows.x, form)


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
  live = ~rows.held_out
  x = jnp.where(live[:, None, None, None], rows.x, 0.0)
  count = jnp.maximum(live.sum(), 1) * x.shape[1]
  gram = jnp.einsum("rpgd,rpge->gde", x, x) / count
  power = jnp.trace(gram, axis1=1, axis2=2)[:, None, None] / gram.shape[-1] + 1e-30
  eye = jnp.eye(gram.shape[-1])

  def factor(ridge: float | Array) -> Array:
    return jnp.linalg.cholesky(gram + (ridge * power + 1e-7 * power) * eye)

  def regression(chol: Array, target: Array) -> Array:
    wanted = _wanted(target, rows, form)
    start = _multiple(old, x, wanted)
    right = jnp.einsum("rpgd,rpgo->gdo", x, wanted - _linear(start, x)) / count
    return start + jax.scipy.linalg.cho_solve((chol, True), right)

  def tried_with(ridge: Array) -> Array:
    return errors(regression(factor(ridge), rows.target), rows, form)[1].sum()

  # Loops of the program rather than of Python: each map is another shape to compile.
  tried = lax.map(tried_with, jnp.asarray(RIDGES))
  ridge = jnp.asarray(RIDGES)[jnp.argmin(jnp.where(jnp.isfinite(tried), tried, jnp.inf))]
  chol = factor(ridge)
  w = regression(chol, rows.target)
  if form.gate in RECTIFIED:

    def again(_: int, w: Array) -> Array:
      value = _value(w, rows, form)
      one_sided = jnp.where((rows.target < 0) & (value < 0), value, rows.target)
      return _better(w, regression(chol, one_sided), rows, form)

    w = lax.fori_loop(0, effort.one_sided, again, w)
  if form.b > 1 or form.gate or x.shape[1] > 1 or form.length is not None:

    def step(_: int, w: Array) -> Array:
      return _gauss_newton(w, rows, form, chol, ridge * power, effort.inner)

    w = lax.fori_loop(0, effort.rounds, step, w)
  diagonal = jnp.diagonal(chol, axis1=1, axis2=2)
  condition = (diagonal.max() / diagonal.min()) ** 2
  return w, {"ridge": ridge, "condition": condition}


def _wanted(target: Array, rows: Rows, form: Compared) -> Array:
  """Returns the linear responses that make the targets, [R, P, G, O / G]."""
  r, p, g, _ = rows.x.shape
  t = ((target - rows.base) / rows.gain).reshape(r, 1, g, -1)
  length = form.lengths(rows.x)
  t = jnp.sign(t) * (jnp.abs(t) * length ** (form.b - 1)) ** (1 / form.b)
  return jnp.broadcast_to(t, (r, p, *t.shape[2:]))


def _multiple(old: Array, x: Array, wanted: Array) -> Array:
  y = _linear(old, x)
  square = (y**2).sum((0, 1))
  return old * ((y * wanted).sum((0, 1)) / jnp.where(square > 0, square, 1.0))[:, None, :]


def _better(w: Array, other: Array, rows: Rows, form: Compared) -> Array:
  """Returns, output by output, the kernel with the smaller error."""
  helps = errors(other, rows, form)[0] < errors(w, rows, form)[0]
  return jnp.where(helps.reshape(w.shape[0], 1, -1), other, w)


def _gauss_newton(
  w: Array, rows: Rows, form: Compared, chol: Array, ridge: Array, inner: int
) -> Array:
  """Returns the kernel after a step on the gated, scaled response; no output gets worse."""
  x, (r, p, g, _) = rows.x, rows.x.shape
  w = form.reached(w)
  plain = form.weights(w) if form.length is not None else jnp.zeros_like(w)
  square = _safe((plain**2).sum(1, keepdims=True))
  value = _value(w, rows, form)
  residual, slope = _residual(rows.target, value, form)
  held = rows.held_out[:, None]
  residual, slope = (jnp.where(held, 0.0, each) for each in (residual, slope * rows.gain))
  y, length = _linear(w, x), _safe(form.lengths(x))
  inside = 1.0 if form.b == 1 else form.b * (jnp.abs(y) / length) ** (form.b - 1)
  jacobian = slope.reshape(r, 1, g, -1) * inside / p
  count = jnp.maximum((~held).sum(), 1)

  def back(rows_of: Array) -> Array:
    u = jnp.einsum("rpgd,rpgo->gdo", x, jacobian * rows_of.reshape(r, 1, g, -1)) / count
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
  return lax.scan(
    lambda w, size: (_better(w, w + size * step, rows, form), None), w, jnp.asarray(STEPS)
  )[0]


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

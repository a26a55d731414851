"""Layer families with modified backward passes, for attribution methods with their own rules.

A network asks its ops for every layer. Each class here replaces a family's activations, pooling
or attention and keeps the rest, so `model.clone(ops=replaced(model.ops, Guided))` is a network of
the same variables and outputs that differs in its gradients only.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from .. import functional as F
from ..ops import Ops

Array = jax.Array

SEEN = "attribution_seen"
"""Collection of what a replaced layer shows: attention weights, and that a rule was used."""

TAPS = "attribution_taps"
"""Collection of zeros that are added to attention weights, to take gradients at."""


@functools.cache
def _family(rules: type[Ops], base: type[Ops]) -> type[Ops]:
  return type(f"{rules.__name__}{base.__name__}", (rules, base), {})


def replaced(ops: Ops, rules: type[Ops]) -> Ops:
  """Returns `ops` with the layers that `rules` defines; equal arguments give equal values."""
  fields = {field.name: getattr(ops, field.name) for field in dataclasses.fields(ops)}
  return _family(rules, type(ops))(**fields)


def show(module: nn.Module, name: str, value: Array) -> None:
  """Puts a value into the collection `SEEN`, if it is requested."""
  latest: Any = {"reduce_fn": lambda _, new: new, "init_fn": lambda: None}
  module.sow(SEEN, name, value, **latest)


class _Activations(Ops):
  """Activations outside and inside of dense maps, all by way of `gated`."""

  def dense(self, features, *, gate=None, use_bias=True, name):
    inner = super().dense(features, use_bias=use_bias, name=name)
    return inner if gate is None else lambda x: inner(self.act(x, gate))


@jax.custom_vjp
def _guided_relu(x: Array) -> Array:
  return F.gated(x, "relu")


_guided_relu.defvjp(
  lambda x: (F.gated(x, "relu"), x > 0), lambda on, g: (jnp.where(on, jnp.maximum(g, 0), 0),)
)


class _GuidedReLU(nn.Module):
  @nn.compact
  def __call__(self, x: Array) -> Array:
    show(self, "relu", jnp.zeros(()))
    return _guided_relu(x)


class Guided(_Activations):
  """Each ReLU lets only positive gradients pass (arXiv 1412.6806)."""

  def gated(self, x, kind):
    return _GuidedReLU()(x) if kind == "relu" else super().gated(x, kind)


class Rescale(_Activations):
  """DeepLIFT's rescale rule (arXiv 1704.02685, section 3.5.2).

  A batch holds inputs, then as many references. The multiplier of an activation is the slope
  between the two instead of the gradient at the input; only gradients of the inputs flow.
  """

  def gated(self, x, kind):
    return _secant(functools.partial(super().gated, kind=kind), x)

  def max_pool(self, x, window, strides, padding):
    return _secant_pool(super().max_pool, x, (window, strides, padding))


_LEAST_STEP = 1e-10  # below this difference a slope is the gradient, as in Captum


def _secant(function, x: Array) -> Array:
  @jax.custom_vjp
  def apply(x):
    return function(x)

  def forward(x):
    return function(x), x

  def backward(x, g):
    half = len(x) // 2
    y, pullback = jax.vjp(function, x)
    local = pullback(g)[0][:half]
    step = x[:half] - x[half:]
    flat = jnp.abs(step) < _LEAST_STEP
    slope = (y[:half] - y[half:]) / jnp.where(flat, 1.0, step)
    found = jnp.where(flat, local, g[:half] * slope)
    return (jnp.concatenate([found, jnp.zeros_like(found)]),)

  apply.defvjp(forward, backward)
  return apply(x)


def _secant_pool(function, x: Array, window: tuple[int, int, int]) -> Array:
  """Max pooling, whose change is that up to the larger maximum, which belongs to the place of the
  inputs' maximum, and that from there on, which belongs to the place of the references'."""

  def pool(x):
    return function(x, *window)

  @jax.custom_vjp
  def apply(x):
    return pool(x)

  def backward(x, g):
    half = len(x) // 2
    y, pullback = jax.vjp(pool, x)
    larger = jnp.maximum(y[:half], y[half:])
    g = g[:half]
    local = pullback(jnp.concatenate([g, jnp.zeros_like(g)]))[0][:half]
    at = pullback(jnp.concatenate([g * (larger - y[half:]), g * (y[:half] - larger)]))[0]
    step = x[:half] - x[half:]
    flat = jnp.abs(step) < _LEAST_STEP
    found = jnp.where(flat, local, (at[:half] + at[half:]) / jnp.where(flat, 1.0, step))
    return (jnp.concatenate([found, jnp.zeros_like(found)]),)

  apply.defvjp(lambda x: (pool(x), x), backward)
  return apply(x)


def _same(x: Array, parts: int) -> Array:
  return x


_share = jax.custom_vjp(_same, nondiff_argnums=(1,))
_share.defvjp(lambda x, parts: (x, None), lambda parts, _, g: (g / parts,))


BEND = 10.0
"""How sharply the stand-in for a ReLU's step rises, per unit of its input; see `BentReLU`."""


@jax.custom_vjp
def _bent_step(x: Array) -> Array:
  return (x > 0).astype(x.dtype)


def _bent_step_bwd(x, g):
  rise = jax.nn.sigmoid(BEND * x)
  return (g * BEND * rise * (1 - rise),)


_bent_step.defvjp(lambda x: (_bent_step(x), x), _bent_step_bwd)


class BentReLU(_Activations):
  """Each ReLU has a second derivative, that of a softplus (arXiv 1906.07983, section 4).

  Values and first derivatives stay those of the ReLU, whose own second derivative is 0 wherever
  it exists: a loss on an explanation does not see otherwise that a change opens or shuts a gate.
  """

  def gated(self, x, kind):
    return x * _bent_step(F.hold(x)) if kind == "relu" else super().gated(x, kind)


class HalvedProducts(Ops):
  """AttnLRP (arXiv 2402.05602) as a gradient: what it differs in from `detached()` ops.

  The rules for norms and activations (their divisor, or gate, is a constant) are those of
  explanation mode. A product of two variables halves the relevance of each (section 3.3): softmax
  attention has two in a row on the way of queries and keys, one on that of values.
  """

  def attend(self, q, k, v, **fields):
    return F.attend(_share(q, 4), _share(k, 4), _share(v, 2), **fields)

  def weigh(self, x, weight):
    return _share(x * weight, 2)


class _SeenAttention(nn.Module):
  """Softmax attention that shows its weights and adds a tap to them."""

  @nn.compact
  def __call__(self, q: Array, k: Array, v: Array, **fields: Any) -> Array:
    weights = F.attention_weights(q, k, **fields)
    show(self, "weights", weights)
    if self.has_variable(TAPS, "weights"):
      weights = weights + self.get_variable(TAPS, "weights")
    return F.mix(weights, v)


class SeenAttention(Ops):
  """Attention weights are in the collection `SEEN`, and have gradients at `TAPS`."""

  def attend(self, q, k, v, **fields):
    if self.detach:
      q, k = F.hold(q), F.hold(k)
    return _SeenAttention(name="seen")(q, k, v, **fields)

"""Fits of single maps, where the right kernel is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bcos_jax import functional as F
from bcos_jax.calibration.fit import RIDGES, Compared, Effort, Rows, errors, fit, response
from bcos_jax.layers import BcosConv, BcosDense


def _rows(target, x, gain=1.0, base=0.0, held_out=None):
  held = np.arange(len(x)) % 8 == 7 if held_out is None else held_out
  outputs = target.shape[-1]
  return Rows(
    jnp.asarray(x),
    jnp.asarray(target),
    jnp.broadcast_to(base, target.shape),
    jnp.broadcast_to(gain, (outputs,)),
    jnp.asarray(held),
  )


def _planted(b, groups=1, places=1, seed=0, count=3000, channels=12, outputs=6):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(count, places, groups, channels)).astype(np.float32)
  w = rng.normal(size=(groups, channels, outputs // groups)).astype(np.float32)
  start = rng.normal(size=w.shape).astype(np.float32)
  form = Compared(b, F.CONV_GUARD)
  return x, jnp.asarray(w), jnp.asarray(start), form


@pytest.mark.parametrize(
  ("b", "groups", "places"),
  [
    (1.0, 1, 1),
    (1.0, 1, 4),
    (1.0, 3, 4),
    (2.0, 1, 1),
    (1.5, 3, 1),
    (3.0, 1, 1),
    (2.0, 1, 4),
  ],
)
def test_finds_the_kernel_that_made_the_targets(b, groups, places):
  x, w, start, form = _planted(b, groups, places)
  rows = _rows(response(w, x, form), x)
  made, figures = fit(rows, start, form, Effort(rounds=12))
  power = np.var(rows.target, axis=0).sum()
  assert errors(start, rows, form)[1].sum() > 0.3 * power
  assert errors(made, rows, form)[1].sum() < 1e-6 * power
  np.testing.assert_allclose(made, w, atol=2e-2)
  assert float(figures["ridge"]) == pytest.approx(1e-4)


@pytest.mark.parametrize("gate", ["relu", "gelu"])
def test_negative_values_before_a_gate_are_free(gate):
  """Targets that no kernel can reach where they are negative: a gated fit does not care."""
  x, w, start, _ = _planted(2.0)
  x = np.abs(x)
  form = Compared(2.0, F.CONV_GUARD, gate)
  reached = response(w, x, form)
  noise = np.random.default_rng(1).exponential(size=reached.shape).astype(np.float32)
  target = jnp.where(reached < 0, reached - 5 * noise, reached)
  rows = _rows(target, x)
  gated, _ = fit(rows, start, form, Effort(rounds=8))
  plain, _ = fit(rows, start, Compared(2.0, F.CONV_GUARD), Effort(rounds=8))
  error, other = (float(errors(k, rows, form)[1].sum()) for k in (gated, plain))
  assert error < 0.05 * other


def test_adds_what_the_chain_adds_and_multiplies():
  x, w, start, form = _planted(2.0)
  base = np.random.default_rng(2).normal(size=(len(x), 6)).astype(np.float32)
  gain = jnp.asarray([0.5, 2.0, -1.0, 3.0, 1.0, 0.1])
  target = base + gain * response(w, x, form)
  made, _ = fit(_rows(target, x, gain, base), start, form, Effort(rounds=12))
  np.testing.assert_allclose(made, w, atol=2e-2)


@pytest.mark.parametrize("bias", [False, True])
def test_kernels_of_a_given_length_are_fitted_as_such(bias):
  """A teacher of shorter and longer ones: what is found is better than the right direction.

  Were the inputs alike in all directions, nothing would be.
  """
  x, w, start, _ = _planted(2.0)
  x += 1.0
  if bias:
    x[..., -1] = 1.0
  free, form = (Compared(2.0, F.CONV_GUARD, bias=bias, length=length) for length in (None, 1.0))
  lengths = jnp.linspace(0.5, 2.0, 6)
  rows = _rows(response(free_ := form.reached(w) * lengths, x, free), x)
  made, _ = fit(rows, start, form, Effort(rounds=12))
  found, own = (np.asarray(errors(k, rows, form)[1]) for k in (made, free_))
  assert found.sum() < 0.6 * own.sum()
  np.testing.assert_allclose(errors(form.reached(made), rows, free)[1], found, rtol=1e-4)
  exact = _rows(response(form.reached(w), x, free), x)
  made, _ = fit(exact, start, form, Effort(rounds=12))
  np.testing.assert_allclose(form.reached(made), form.reached(w), atol=2e-2)


def test_a_bias_is_the_row_of_a_constant_channel():
  x, w, _, _ = _planted(2.0)
  x[..., -1] = 1.0
  form = Compared(2.0, F.CONV_GUARD, bias=True)
  dense = BcosDense(6, guard=F.CONV_GUARD, use_bias=True)
  variables = {"params": {"kernel": w[0, :-1], "bias": w[0, -1]}}
  wanted = dense.apply(variables, x[:, 0, 0, :-1])
  np.testing.assert_allclose(response(w, x, form), wanted, rtol=1e-4, atol=1e-5)


def test_no_output_gets_worse_by_gauss_newton():
  rng = np.random.default_rng(3)
  x = rng.normal(size=(500, 1, 1, 8)).astype(np.float32)
  rows = _rows(jnp.asarray(rng.normal(size=(500, 5)), jnp.float32), x)
  form = Compared(2.0, F.CONV_GUARD, "relu")
  start = jnp.asarray(rng.normal(size=(1, 8, 5)), jnp.float32)
  some, more = (
    errors(fit(rows, start, form, Effort(rounds=rounds))[0], rows, form)[0] for rounds in (0, 4)
  )
  assert (np.asarray(more) <= np.asarray(some) * (1 + 1e-6)).all()
  assert more.sum() < some.sum()


def test_responds_as_the_layer_does():
  x, w, _, _ = _planted(1.5)
  conv = BcosConv(6, (1, 1), b=1.5)
  found = conv.apply({"params": {"kernel": w[0][None, None]}}, x)
  wanted = response(w, x, Compared(1.5, conv.guard))
  np.testing.assert_allclose(wanted, found[:, 0, 0], rtol=1e-4, atol=1e-5)


def test_the_ridge_is_chosen_by_what_is_held_out():
  """Few noisy places: a strong ridge predicts better, and held-out places show it."""
  rng = np.random.default_rng(4)
  x = rng.normal(size=(80, 1, 1, 40)).astype(np.float32)
  target = jnp.asarray(0.1 * x[:, 0, 0, :1] + rng.normal(size=(80, 1)), jnp.float32)
  rows = _rows(target, x)
  form = Compared(1.0, F.CONV_GUARD)
  _, figures = fit(rows, jnp.zeros((1, 40, 1)), form, Effort(rounds=0))
  assert float(figures["ridge"]) == pytest.approx(max(RIDGES))
  assert np.isfinite(float(jax.device_get(figures["condition"])))
  exact = dataclasses.replace(rows, target=jnp.asarray(x[:, 0, 0, :1]))
  _, figures = fit(exact, jnp.zeros((1, 40, 1)), form, Effort(rounds=0))
  assert float(figures["ridge"]) == pytest.approx(min(RIDGES))

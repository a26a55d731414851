"""Schedules, clipping and optimisers against golden numbers and plain NumPy."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bcos_jax.configs import common
from bcos_jax.errors import InputError
from bcos_jax.train import optimizer

from ..common import suggestion

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "layers.npz")


def recipe(**fields):
  config = common.get_config().optimizer
  config.update(agc=0.0, schedule="constant", **fields)
  return config


def build(steps=10, **fields):
  return optimizer.build(recipe(**fields), steps=steps, steps_per_epoch=5)


def run(opt, params, grads):
  params = opt.start(params)
  state = opt.tx.init(params)
  for grad in grads:
    updates, state = opt.tx.update(grad, state, params)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize("x64, rtol", [(True, 1e-12), (False, 1e-6)])
def test_golden_schedules(x64, rtol):
  with jax.enable_x64(x64):
    by_epoch = optimizer.schedule("cosine_epochs", 1.0, steps=90 * 7, steps_per_epoch=7)
    lr = [by_epoch(7 * epoch + 3) for epoch in range(90)]
    np.testing.assert_allclose(lr, GOLDEN["schedule_cosine_epochs/lr"], rtol, atol=rtol)
    assert by_epoch(0) == by_epoch(6) != by_epoch(7)
    by_step = optimizer.schedule("cosine", 1.0, steps=500, warmup=50)
    lr = by_step(np.arange(500))
    np.testing.assert_allclose(lr, GOLDEN["schedule_cosine_warmup_steps/lr"], rtol, atol=rtol)


def test_schedule_ends_and_warmup_of_constant():
  assert float(optimizer.schedule("cosine", 0.5, steps=10)(10)) == 0
  assert float(optimizer.schedule("cosine", 0.5, steps=10)(99)) == 0
  constant = optimizer.schedule("constant", 0.5, steps=10, warmup=4)
  np.testing.assert_allclose(constant(np.arange(6)), [0.005, 0.12875, 0.2525, 0.37625, 0.5, 0.5])


@pytest.mark.parametrize("case", range(4))
def test_golden_adaptive_clipping(case):
  def flax_layout(x):  # (O, I, H, W) -> (H, W, I, O) and (O, I) -> (I, O)
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T

  param, grad, clipped = (
    flax_layout(GOLDEN[f"agc_{case}/{name}"]) for name in ("param", "grad", "clipped")
  )
  result, _ = optimizer.clip_adaptively().update({"x": grad}, optax.EmptyState(), {"x": param})
  np.testing.assert_allclose(result["x"], clipped, rtol=2e-6)


def test_adaptive_clipping_units():
  rng = np.random.default_rng(0)

  def clipped(shape):
    param, grad = rng.normal(size=shape).astype(np.float32), np.ones(shape, np.float32)
    return param, optimizer.clip_adaptively().update(grad, optax.EmptyState(), param)[0]

  # One-dimensional convolutions: PyTorch's rank-3 rule, one output of one tap.
  param, grad = clipped((3, 4, 5))
  np.testing.assert_allclose(
    np.linalg.norm(grad, axis=1), 0.01 * np.linalg.norm(param, axis=1), rtol=1e-5
  )
  # Three-dimensional ones: one output.
  param, grad = clipped((2, 2, 2, 3, 4))
  np.testing.assert_allclose(
    np.linalg.norm(grad.reshape(-1, 4), axis=0),
    0.01 * np.linalg.norm(param.reshape(-1, 4), axis=0),
    rtol=1e-5,
  )
  # Layer scales, whatever their rank: the whole tensor.
  param, grad = clipped((1, 1, 7))
  np.testing.assert_allclose(np.linalg.norm(grad), 0.01 * np.linalg.norm(param), rtol=1e-5)


def test_adaptive_clipping_lets_zeros_learn_and_small_gradients_pass():
  clip = optimizer.clip_adaptively()
  zero, _ = clip.update(jnp.ones((3, 2)), optax.EmptyState(), jnp.zeros((3, 2)))
  np.testing.assert_allclose(np.linalg.norm(zero, axis=0), 1e-5, rtol=1e-5)
  small = jnp.full((3, 2), 1e-4)
  np.testing.assert_array_equal(clip.update(small, optax.EmptyState(), jnp.ones((3, 2)))[0], small)


def adam_in_numpy(p, grads, lr, decay, decoupled):
  m = v = 0.0
  for t, g in enumerate(grads, 1):
    g = g if decoupled else g + decay * p
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    p = p - lr * (direction + (decay * p if decoupled else 0))
  return p


def sgd_in_numpy(p, grads, lr, decay):
  velocity = 0.0
  for g in grads:
    velocity = 0.9 * velocity + g + decay * p
    p = p - lr * velocity
  return p


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimisers_follow_pytorch(name):
  rng = np.random.default_rng(1)
  p, grads = rng.normal(size=4), rng.normal(size=(5, 4))
  with jax.enable_x64(True):
    result = run(
      build(name=name, lr=0.1, weight_decay=0.3),
      {"w": jnp.asarray(p)},
      [{"w": jnp.asarray(g)} for g in grads],
    )
  expected = (
    sgd_in_numpy(p, grads, 0.1, 0.3)
    if name == "sgd"
    else adam_in_numpy(p, grads, 0.1, 0.3, decoupled=name == "adamw")
  )
  np.testing.assert_allclose(result["w"], expected, rtol=1e-6)


PARAMS = {
  "conv": {"kernel": jnp.ones(2), "bias": jnp.ones(2), "b": jnp.full((), 1.5)},
  "bn": {"bias": jnp.ones(2)},
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def test_kept_biases_decay_to_zero_and_a_learned_b_to_two():
  params = {"conv": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "b": jnp.asarray(1.0)}}
  zeros = jax.tree.map(jnp.zeros_like, params)
  tx = optimizer.decay(0.0, bias=0.5, b=0.5)
  updates, _ = tx.update(zeros, tx.init(params), params)
  np.testing.assert_array_equal(updates["conv"]["kernel"], 0)
  np.testing.assert_array_equal(updates["conv"]["bias"], 0.5)
  # A positive update is subtracted, so B grows from 1 towards 2.
  assert updates["conv"]["b"] == -0.5
  untouched, _ = optimizer.decay(0.1).update(zeros, tx.init(params), params)
  assert untouched["conv"]["b"] == 0 and untouched["conv"]["kernel"][0, 0] > 0


@pytest.mark.parametrize(
  "rule, decayed",
  [
    ("(^|/)bias$", {"conv/bias", "bn/bias"}),
    ("(^|/)b$", set()),
    ("^bn/", {"bn/bias"}),
  ],
)
def test_decay_rules_touch_only_what_they_name(rule, decayed):
  result = run(build(lr=0.1, decay_rules=((rule, 0.5),)), PARAMS, [ZEROS])
  changed = {
    optimizer.path_name(path)
    for path, ratio in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.divide, result, PARAMS))
    if not np.all(ratio == 1)
  }
  assert changed == decayed
  ratio = {optimizer.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(result)}
  start = {optimizer.path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(PARAMS)}
  for name in decayed:
    np.testing.assert_allclose(ratio[name], start[name] * 0.95, rtol=1e-6)


def test_first_decay_rule_decides():
  rules = (("bn/bias$", 0.0), ("bias$", 0.5))
  result = run(build(lr=0.1, weight_decay=1.0, decay_rules=rules), PARAMS, [ZEROS])
  np.testing.assert_allclose(result["bn"]["bias"], 1)
  np.testing.assert_allclose(result["conv"]["bias"], 0.95)
  np.testing.assert_allclose(result["conv"]["kernel"], 0.9)


def test_scheduled_b_ignores_gradients():
  opt = build(lr=0.1, b_schedule={"start": 1.0, "end": 2.0, "steps": 4})
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  seen = [float(run(opt, PARAMS, [ones] * k)["conv"]["b"]) for k in range(6)]
  np.testing.assert_allclose(seen, [1.0, 1.25, 1.5, 1.75, 2.0, 2.0], rtol=1e-6)
  assert float(run(opt, PARAMS, [ones])["conv"]["kernel"][0]) < 1
  np.testing.assert_allclose([float(opt.b(k)) for k in range(6)], seen, rtol=1e-6)


def test_learned_b_follows_its_gradient():
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  learned = run(build(name="sgd", lr=0.1, momentum=0.0), PARAMS, [ones])["conv"]["b"]
  np.testing.assert_allclose(learned, 1.4, rtol=1e-6)


def test_scheduled_b_needs_a_parameter():
  opt = build(b_schedule={"start": 1.0, "end": 2.0, "steps": 4})
  with pytest.raises(InputError, match="learn_b"):
    opt.start({"kernel": jnp.ones(2)})


def test_global_norm_clipping():
  grads = {"a": jnp.full(2, 30.0), "b2": jnp.full(2, 40.0)}
  params = jax.tree.map(jnp.zeros_like, grads)
  moved = run(build(name="sgd", lr=1.0, momentum=0.0, clip_norm=1.0), params, [grads])
  np.testing.assert_allclose(moved["a"], [-30 / 50 / 2**0.5] * 2, rtol=1e-6)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"name": "sdg"}, suggestion("sgd")),
    ({"lr": -1.0}, "lr=-1.0"),
    ({"lr": float("nan")}, r"optimizer\.lr=nan; expected a finite"),
    ({"weight_decay": float("inf")}, r"optimizer\.weight_decay=inf"),
    ({"clip_norm": float("nan")}, r"optimizer\.clip_norm=nan"),
    ({"b2": float("nan")}, r"optimizer\.b2=nan; expected a finite"),
    ({"momentum": 1.0}, r"optimizer\.momentum=1\.0"),
    ({"eps": 0.0}, r"optimizer\.eps=0\.0"),
    ({"b_schedule": {"start": 1.0, "end": float("nan"), "steps": 3}}, r"b_schedule\.end=nan"),
    ({"b_schedule": {"start": 0.5, "end": 2.0, "steps": 3}}, "at least 1"),
  ],
)
def test_bad_fields(fields, message):
  with pytest.raises(InputError, match=message):
    build(**fields)

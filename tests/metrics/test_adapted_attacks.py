"""Attacks adapted to B-cos networks: closed forms, gradients that vanish, and what must hold."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, metrics
from bcos_jax.metrics.attacks import adaptive, square
from bcos_jax.metrics.attacks.ascents import LOSSES

from ..common import photos
from .test_metrics import PLAIN, Linear, linear, refused
from .test_robustness import lengths, losses, small


def accuracy(model, variables, images, targets):
  return float((metrics.logits_of(model, variables, images).argmax(1) == targets).mean())


def two_classes():
  """A linear network of two classes, images whose balls of 0.1 lie in [0, 1], and predictions."""
  model, variables, weights = linear(side=4)
  weights = weights[..., :2]
  model = Linear(model.ops, num_classes=2)
  variables = {"params": {"weights": weights}}
  images = photos(3, 4) / 2 + 0.25
  return model, variables, weights, images, metrics.logits_of(model, variables, images).argmax(1)


# Auto-PGD.


def test_apgd_finds_the_best_change_of_a_linear_network():
  model, variables, weights, images, targets = two_classes()
  away = np.moveaxis(weights[..., 1 - targets] - weights[..., targets], -1, 0)
  given: dict[str, Any] = {"epsilon": 0.1, "loss": "margin", "steps": 5}
  found = metrics.apgd(model, variables, images, targets, **given)
  np.testing.assert_allclose(found, images + 0.1 * np.sign(away), atol=1e-6)
  found = metrics.apgd(model, variables, images, targets, norm="l2", **given)
  unit = away / np.linalg.norm(away.reshape(3, -1), axis=1)[:, None, None, None]
  # Of a ball's border, momentum reaches the best place in the limit.
  gained = np.sum((found - images) * unit, axis=(1, 2, 3))
  assert (gained > 0.1 * 0.99).all() and (gained <= 0.1 + 1e-6).all()


def test_checks_come_as_published():
  # 22 %, 41 %, 57 %, 70 %, 80 %, 87 %, 93 % and 99 % of 100 steps (arXiv 2003.01690, section 3.1).
  windows = adaptive._windows(100)
  checks = [step for step, window in enumerate(windows) if window]
  assert checks == [22, 41, 57, 70, 80, 87, 93, 99]
  assert [windows[step] for step in checks] == [22, 19, 16, 13, 10, 7, 6, 6]
  assert adaptive._windows(1) == [0]


def test_steps_halve_where_they_overshoot():
  class Bowl(nn.Module):
    """The second class is 0.2 below the first, less the squared distance of the pixels to 0.51."""

    ops: bcos_jax.Ops

    @nn.compact
    def __call__(self, x, train=False):
      far = jnp.mean((x - 0.51) ** 2, axis=(1, 2, 3))
      return jnp.stack([jnp.zeros(len(x)), -0.2 - far], axis=1)

  model, images = Bowl(linear()[0].ops), np.full((1, 2, 2, 3), 0.5, np.float32)
  targets = np.zeros(1, int)
  given: dict[str, Any] = {"epsilon": 0.1, "random_start": False, "loss": "margin"}
  # Fixed steps of 0.2 jump across the ball from border to border: the start stays the best.
  fixed = metrics.pgd(model, {}, images, targets, steps=60, step_size=0.2, **given)
  halved = metrics.apgd(model, {}, images, targets, steps=60, **given)
  assert abs(fixed - 0.51).max() > 0.009
  assert abs(halved - 0.51).max() < 0.004


def test_the_ratio_has_no_scale():
  random = np.random.default_rng(0)
  logits = jnp.asarray(random.standard_normal((4, 5)), jnp.float32)
  targets = jnp.asarray([0, 1, 2, 3])
  by_hand = []
  for row, target in zip(np.asarray(logits), targets, strict=True):
    first, _, third = np.sort(row)[::-1][:3]
    by_hand.append((np.delete(row, target).max() - row[target]) / (first - third))
  ratio = LOSSES["ratio"]
  np.testing.assert_allclose(ratio(logits, targets), by_hand, rtol=1e-5)
  slope = jax.grad(lambda z: ratio(z, targets).sum())
  plain = slope(logits)
  step = 1e-2 * random.standard_normal((4, 5))
  numeric = (ratio(logits + step, targets) - ratio(logits - step, targets)) / 2
  np.testing.assert_allclose(numeric, np.sum(plain * step, axis=1), rtol=1e-2, atol=1e-4)
  for scale in (1e-25, 1e25):
    np.testing.assert_allclose(ratio(logits * scale, targets), by_hand, rtol=1e-4)
    np.testing.assert_allclose(slope(logits * scale) * scale, plain, rtol=1e-3, atol=1e-5)
  flat = jnp.zeros((1, 3))
  assert ratio(flat, jnp.zeros(1, int)) == 0
  assert np.isfinite(jax.grad(lambda z: ratio(z, jnp.zeros(1, int)).sum())(flat)).all()


def test_saturated_logits_hide_a_gradient_from_plain_pgd():
  model, variables, weights = linear(side=4)
  weights *= 1e4
  images = photos(3, 4) / 2 + 0.25
  targets = metrics.logits_of(model, variables, images).argmax(1)
  given: dict[str, Any] = {"epsilon": 0.2, "steps": 5, "random_start": False}
  fooled = metrics.pgd(model, variables, images, targets, **given)
  np.testing.assert_array_equal(fooled, images)
  found = metrics.apgd(model, variables, images, targets, **given)
  assert accuracy(model, variables, found, targets) == 0


class Unaligned(nn.Module):
  """A constant class, and B-cos units that an image may or may not be aligned with."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    units = self.ops.dense(2, name="units")(x.reshape(len(x), -1))
    return jnp.concatenate([jnp.full((len(x), 1), 1e-10), units], axis=1)


def unaligned():
  """At B=64 responses underflow unless an image is nearly aligned: there is no slope to climb."""
  model = Unaligned(BcosOps(encoding=PLAIN, b=64.0))
  images = np.full((1, 4, 4, 3), 0.5, np.float32)
  signs = [np.where(np.arange(48) // width % 2, 1.0, -1.0) for width in (1, 2)]
  kernel = np.stack(signs, axis=1).astype(np.float32) / 48**0.5  # orthogonal to the grey image
  variables = model.init(jax.random.key(0), images)
  (name,) = variables["params"]["units"]
  return model, {"params": {"units": {name: kernel}}}, images, np.zeros(1, int)


def test_a_linear_stand_in_sees_through_vanished_slopes():
  model, variables, images, targets = unaligned()
  given: dict[str, Any] = {"epsilon": 0.5, "steps": 5, "loss": "margin"}
  attacks: list[tuple[Any, dict[str, Any]]] = [
    (metrics.pgd, {}),
    (metrics.apgd, {}),
    (metrics.apgd, {"slopes": "held"}),
  ]
  for attack, settings in attacks:
    found = attack(model, variables, images, targets, **given, **settings)
    assert accuracy(model, variables, found, targets) == 1
  found = metrics.apgd(model, variables, images, targets, slopes="linear", **given)
  assert accuracy(model, variables, found, targets) == 0


def test_held_slopes_are_the_explanation():
  model, variables, images, targets = small()
  given: dict[str, Any] = {"epsilon": 0.02, "steps": 1, "random_start": False, "loss": "margin"}
  found = metrics.apgd(model, variables, images, targets, slopes="held", **given)
  ex = bcos_jax.explain(model, variables, images, target=lambda z: LOSSES["margin"](z, targets))
  colors = ex.weights[..., :3] - ex.weights[..., 3:]
  moved = np.abs(found - images).max(axis=(1, 2, 3)) > 0  # elsewhere the step did not help
  expected = np.clip(images + 0.02 * np.sign(colors), 0, 1)
  assert moved.any()
  np.testing.assert_allclose(found[moved], expected[moved], atol=1e-6)


def test_slopes_of_a_conventional_network_are_its_own():
  model, variables, images, targets = small(bcos_jax.StandardOps())
  given: dict[str, Any] = {"epsilon": 0.02, "steps": 3}
  full, linear_, held = (
    metrics.apgd(model, variables, images, targets, slopes=slopes, **given)
    for slopes in ("full", "linear", "held")
  )
  np.testing.assert_array_equal(full, linear_)
  np.testing.assert_allclose(full, held, atol=1e-6)


# The Square attack.


class Stairs(nn.Module):
  """Logits of a linear network, rounded: their gradient is 0 everywhere."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    return jnp.round(4 * Linear(self.ops, name="linear")(x)) / 4


def test_a_search_climbs_stairs_that_gradients_do_not_see():
  plain, variables, _ = linear(side=4)
  model, variables = Stairs(plain.ops), {"params": {"linear": variables["params"]}}
  images = photos(4, 4) / 2 + 0.25
  targets = metrics.logits_of(model, variables, images).argmax(1)
  given: dict[str, Any] = {"epsilon": 0.25}
  climbed = metrics.apgd(model, variables, images, targets, random_start=False, **given)
  assert accuracy(model, variables, climbed, targets) == 1
  found = metrics.square_attack(model, variables, images, targets, queries=100, **given)
  assert accuracy(model, variables, found, targets) == 0
  assert (lengths(found, images)[0] <= 0.25).all()


def test_a_search_nears_the_best_change_of_a_linear_network():
  model, variables, weights, images, targets = two_classes()
  most = 0.1 * np.abs(weights[..., 0] - weights[..., 1]).sum()
  before = losses(model, variables, images, targets, "margin")
  gained = []
  for queries in (1, 2, 30, 400):
    found = metrics.square_attack(
      model, variables, images, targets, epsilon=0.1, queries=queries, batch_size=2
    )
    gained.append(losses(model, variables, found, targets, "margin") - before)
  np.testing.assert_array_equal(gained[0], 0)  # one query looks at the image alone
  assert (gained[2] >= gained[1]).all()
  assert (gained[3] > 0.9 * most).all() and (gained[3] <= most * (1 + 1e-5)).all()
  whole = metrics.square_attack(model, variables, images, targets, epsilon=0.1, queries=30)
  parts = metrics.square_attack(
    model, variables, images, targets, epsilon=0.1, queries=30, batch_size=2
  )
  np.testing.assert_array_equal(whole, parts)


def test_squares_shrink_as_published():
  sides = [square._side(0.8, done / 10000, 20, 20) for done in (5, 10, 11, 51, 201, 9999)]
  assert sides == [18, 18, 13, 9, 6, 1]


# All together.


def test_the_worst_case_by_hand():
  model, _, weights = linear(side=4)
  variables = {"params": {"weights": weights - weights.mean((0, 1, 2))}}  # grey decides nothing
  images = np.random.default_rng(0).random((6, 4, 4, 3)).astype(np.float32)
  predictions = metrics.logits_of(model, variables, images).argmax(1)
  targets = predictions.copy()
  targets[0] = (targets[0] + 1) % 3  # wrong before any attack
  other = [int(np.flatnonzero(predictions != target)[0]) for target in targets]
  first, second = images.copy(), images.copy()
  first[1], second[1], second[2] = images[other[1]], images[other[1]], images[other[2]]
  found = metrics.worst_case(
    model, variables, images, targets, {"first": first, "second": second}, batch_size=4
  )
  assert found.clean.tolist() == [False, True, True, True, True, True]
  assert found.withstood["first"].tolist() == [False, False, True, True, True, True]
  assert found.withstood["second"].tolist() == [False, False, False, True, True, True]
  assert found.accuracies() == {"first": 4 / 6, "second": 3 / 6}
  assert (found.accuracy, found.success) == (3 / 6, 1 - 3 / 5)
  np.testing.assert_array_equal(found.images[1:], second[1:])
  assert found.summary()["worst-case accuracy"] == 0.5


def test_attacks_pass_their_own_sanity_checks():
  """Carlini et al. (arXiv 1902.06705, section 4): what any attack that works must show."""
  model, variables, images, targets = small()
  other = small(BcosOps.v2(b=1.0))
  worst = {}
  for epsilon in (0.0, 0.02, 0.1, 1.0):
    changed = metrics.adapted_attacks(
      *(model, variables, images, targets),
      epsilon=epsilon,
      steps=4,
      queries=20,
      others={"B = 1": other[:2]},
    )
    assert all(lengths(pictures, images)[0].max() <= epsilon for pictures in changed.values())
    worst[epsilon] = metrics.worst_case(model, variables, images, targets, changed)
    assert worst[epsilon].accuracy <= min(worst[epsilon].accuracies().values())
  assert "APGD, B = 1" in changed and "transfer from B = 1" in changed
  accuracies = [found.accuracy for found in worst.values()]
  assert accuracies == sorted(accuracies, reverse=True)
  assert (accuracies[0], accuracies[-1]) == (1, 0)


def test_bad_adapted_attacks_are_refused():
  model, variables, _ = linear()
  images, targets = photos(2, 8), np.array([0, 1])
  given = (model, variables, images, targets)
  refused(lambda: metrics.apgd(*given, slopes="holds"), "holds", "'held'")
  refused(lambda: metrics.apgd(*given, steps=0), "steps=0")
  refused(lambda: metrics.apgd(*given, restarts=2, random_start=False), "restarts=2")
  refused(lambda: metrics.apgd(*given, epsilon=-1), "epsilon=-1")
  refused(lambda: metrics.square_attack(*given, queries=0), "queries=0")
  refused(lambda: metrics.square_attack(*given, share=0), "share=0", "at most 1")
  refused(lambda: metrics.worst_case(*given, {}), "no attack")
  refused(lambda: metrics.worst_case(*given, {"a": images[:1]}), "'a'", "(1, 8, 8, 3)")
  refused(lambda: metrics.worst_case(*given[:3], np.array([0, 3]), {"a": images}), "3")
  two = two_classes()
  refused(lambda: metrics.apgd(two[0], two[1], two[3], two[4]), "2 classes", "at least 3", "margin")


@pytest.mark.parametrize("steps", [(1, 4), (4, 12)])
def test_more_steps_are_never_worse_in_the_worst_case(steps):
  model, variables, images, targets = small()
  given: dict[str, Any] = {"epsilon": 0.03, "loss": "margin", "random_start": False}
  few, many = (
    metrics.apgd(model, variables, images, targets, steps=count, **given) for count in steps
  )
  few, many = (losses(model, variables, found, targets, "margin") for found in (few, many))
  assert (many >= few - 1e-6).all()

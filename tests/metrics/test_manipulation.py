"""Manipulated explanations: by hand, against random changes, with bad input."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps, attribution, metrics
from bcos_jax.attribution.families import BentReLU, replaced
from bcos_jax.attribution.images import ImageNetwork
from bcos_jax.metrics.attacks import MAPS

from ..common import CLASSES, photos
from .test_metrics import linear, refused
from .test_robustness import lengths

SIDE = 12


class TwoMaps(nn.Module):
  """Two convolutions with a ReLU between, so that explanations depend on the image."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    ops = self.ops
    x = ops.act(ops.conv(8, 3, 2, name="conv")(x), "relu")
    return ops.readout(ops.classifier(CLASSES, name="head"), x)


NETWORKS = {
  "own": BcosOps(encoding=Encoding((0.5,) * 3, (0.25,) * 3, "negated")),
  "input_x_gradient": StandardOps(encoding=Encoding((0.5,) * 3, (0.25,) * 3)),
}


def network(explanation):
  model = TwoMaps(NETWORKS[explanation])
  shape = jnp.zeros((1, SIDE, SIDE, model.ops.encoding.channels))
  return model, model.init(jax.random.key(1), shape), photos(3, SIDE)


def explainer_of(explanation, model, variables):
  if explanation == "own":
    return metrics.attribute_with(model, variables)
  return attribution.attribute_with(explanation, model, variables)


@pytest.mark.parametrize("explanation", MAPS)
def test_a_manipulation_changes_maps_more_than_noise_and_keeps_predictions(explanation):
  model, variables, images = network(explanation)
  before = metrics.logits_of(model, variables, images)
  targets = before.argmax(1)
  explainer = explainer_of(explanation, model, variables)
  found = metrics.manipulate(
    model, variables, images, explanation=explanation, epsilon=0.05, steps=30, batch_size=2
  )
  noisy = metrics.random_change(images, 0.05)
  scores = [
    metrics.robustness(model, variables, images, changed, targets, explainer, similarity="cosine")
    for changed in (found, noisy)
  ]
  assert (scores[0].scores < scores[1].scores - 0.005).all()
  after = metrics.logits_of(model, variables, found)
  np.testing.assert_array_equal(after.argmax(1), targets)
  spread = np.linalg.norm(before - before.mean(1, keepdims=True), axis=1)
  assert (np.linalg.norm(after - before, axis=1) <= 0.1 * spread * (1 + 1e-4)).all()
  assert (lengths(found, images)[0] <= 0.05).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("explanation", MAPS)
def test_maps_are_those_of_the_explainers(explanation):
  model, variables, images = network(explanation)
  targets = np.array([2, 0, 1])
  for ops in (model.ops, replaced(model.ops, BentReLU)):
    one = ImageNetwork(model.clone(ops=ops), variables)
    maps = MAPS[explanation](one, jnp.asarray(images), jnp.asarray(targets))
    expected = explainer_of(explanation, model, variables)(images, targets)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_a_bent_relu_bends_only_the_second_derivative():
  ops = replaced(StandardOps(), BentReLU)
  x = jnp.array([-1.0, -0.05, 0.05, 1.0])
  np.testing.assert_array_equal(ops.gated(x, "relu"), np.maximum(x, 0))
  slope = jax.grad(lambda x: ops.gated(x, "relu").sum())
  np.testing.assert_array_equal(slope(x), [0, 0, 1, 1])
  rise = 1 / (1 + np.exp(-10 * np.asarray(x, np.float64)))
  found = jax.grad(lambda x: slope(x).sum())(x)
  np.testing.assert_allclose(found, 10 * rise * (1 - rise), rtol=1e-3)


def test_explanations_of_a_linear_network_follow_its_input():
  """Its map is the weight times the pixels: the least alike is found at a border of the ball."""
  model, variables, _ = linear(side=4)
  images = photos(2, 4) / 2 + 0.25
  given: dict[str, Any] = {"epsilon": 0.05, "tolerance": 1e3}
  found = metrics.manipulate(model, variables, images, explanation="own", steps=30, **given)
  inner = np.abs(found - images) < 0.05 - 1e-6
  kept = metrics.logits_of(model, variables, found).argmax(1)
  np.testing.assert_array_equal(kept, metrics.logits_of(model, variables, images).argmax(1))
  assert inner.mean() < 0.2


def test_nothing_valid_leaves_the_image():
  model, variables, images = network("own")
  given: dict[str, Any] = {"steps": 3, "epsilon": 0.3, "tolerance": 1e-9}
  np.testing.assert_array_equal(metrics.manipulate(model, variables, images, **given), images)


def test_random_changes_have_their_size():
  images = photos(2, 8)
  changed = metrics.random_change(images, 0.01)
  np.testing.assert_allclose(
    np.abs(changed - images)[(images > 0.01) & (images < 0.99)], 0.01, rtol=1e-4
  )
  assert (lengths(changed, images)[0] <= 0.01).all()
  np.testing.assert_array_equal(metrics.random_change(images[:1], 0.01), changed[:1])
  assert (metrics.random_change(images, 0.01, seed=1) != changed).any()


def test_bad_manipulations_are_refused():
  model, variables, images = network("own")
  given = (model, variables)
  refused(lambda: metrics.manipulate(*given, images, explanation="ovn"), "ovn", "'own'")
  refused(lambda: metrics.manipulate(*given, images, steps=0), "steps=0")
  refused(lambda: metrics.manipulate(*given, images, tolerance=0), "tolerance=0", "above 0")
  refused(lambda: metrics.manipulate(*given, images, epsilon=-1), "epsilon=-1")
  refused(lambda: metrics.manipulate(*given, images * 255), "[0, 1]")
  refused(lambda: metrics.random_change(images * 255, 0.1), "[0, 1]")
  refused(lambda: metrics.random_change(images, float("nan")), "epsilon=nan")
  refused(lambda: metrics.random_change(np.zeros(()), 0.1), "shape ()")

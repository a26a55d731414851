"""Attacks by closed forms and constraints, corruptions by hand, robustness by counts."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, metrics
from bcos_jax.metrics.attacks.ascents import LOSSES

from ..common import CLASSES, SIDE, photos, rel
from .test_metrics import PLAIN, SIX, linear, noise, refused


class Small(nn.Module):
  """One convolution between images and logits, so that gradients depend on the image."""

  ops: bcos_jax.Ops

  @nn.compact
  def __call__(self, x, train=False):
    ops = self.ops
    x = ops.act(ops.conv(8, 3, 2, name="conv")(x), "relu")
    return ops.readout(ops.classifier(CLASSES, name="head"), x)


def small(ops=None):
  """A network, its variables, four images and its predictions for them."""
  model = Small(ops or BcosOps.v2())
  shape = jnp.zeros((1, SIDE, SIDE, model.ops.encoding.channels))
  variables = model.init(jax.random.key(0), shape)
  images = photos(4)
  return model, variables, images, metrics.logits_of(model, variables, images).argmax(1)


def losses(model, variables, images, targets, loss="cross_entropy"):
  logits = metrics.logits_of(model, variables, images)
  return np.asarray(LOSSES[loss](jnp.asarray(logits), jnp.asarray(targets)))


def lengths(changed, images):
  """Lengths of changes, exact to float64."""
  change = (changed.astype(np.float64) - images).reshape(len(images), -1)
  return np.abs(change).max(axis=1), np.sqrt((change**2).sum(axis=1))


# Attacks.


@pytest.mark.parametrize("encoding", [PLAIN, SIX])
def test_fgsm_of_a_linear_network(encoding):
  model, variables, weights = linear(encoding=encoding)
  images, targets = photos(3, 8), np.array([0, 2, 1])
  z = metrics.logits_of(model, variables, images).astype(np.float64)
  shares = np.exp(z - z.max(1, keepdims=True))
  slope = shares / shares.sum(1, keepdims=True) - np.eye(3)[targets]
  by_channel = np.einsum("hwck,nk->nhwc", weights.astype(np.float64), slope)
  # The second half of six channels falls as the first rises.
  gradient = by_channel[..., :3] - (by_channel[..., 3:] if encoding is SIX else 0)
  expected = np.clip(images + 0.1 * np.sign(gradient), 0, 1)
  found = metrics.fgsm(model, variables, images, targets, epsilon=0.1, batch_size=2)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_margins_of_a_linear_network():
  model, variables, weights = linear()
  images, targets = photos(2, 8) / 2 + 0.25, np.array([0, 2])
  logits = metrics.logits_of(model, variables, images)
  others = np.where(np.arange(3) == targets[:, None], -np.inf, logits).argmax(1)
  direction = np.moveaxis(weights[..., others] - weights[..., targets], -1, 0)
  found = losses(model, variables, images, targets, "margin")
  rows = np.arange(2)
  np.testing.assert_allclose(found, logits[rows, others] - logits[rows, targets], rtol=1e-6)
  changed = metrics.pgd(
    *(model, variables, images, targets),
    norm="l2",
    epsilon=0.01,
    steps=1,
    step_size=0.01,
    random_start=False,
    loss="margin",
  )
  length = np.linalg.norm(direction.reshape(2, -1), axis=1)[:, None, None, None]
  np.testing.assert_allclose(changed - images, 0.01 * direction / length, atol=1e-7)


def test_the_network_is_attacked_as_it_predicts():
  model, variables, images, targets = small()
  detached = model.clone(ops=model.ops.detached())
  plain, other = (metrics.fgsm(m, variables, images, targets) for m in (model, detached))
  np.testing.assert_array_equal(plain, other)
  ex = bcos_jax.explain(model, variables, images, target=lambda z: LOSSES["margin"](z, targets))
  colors = ex.weights[..., :3] - ex.weights[..., 3:]
  assert (np.sign(plain - images) != np.sign(colors)).mean() > 0.02
  half = model.clone(ops=dataclasses.replace(model.ops, dtype="bfloat16"))
  np.testing.assert_array_equal(metrics.fgsm(half, variables, images, targets), plain)


@pytest.mark.parametrize("loss", LOSSES)
def test_pgd_is_at_least_fgsm(loss):
  model, variables, images, targets = small()
  given = {"epsilon": 0.02, "loss": loss}
  single = metrics.fgsm(model, variables, images, targets, **given)
  same = metrics.pgd(
    model, variables, images, targets, steps=1, step_size=0.02, random_start=False, **given
  )
  climbed = metrics.pgd(model, variables, images, targets, steps=10, random_start=False, **given)
  again = metrics.pgd(model, variables, images, targets, steps=10, restarts=2, **given)
  before, one, equal, many, restarted = (
    losses(model, variables, x, targets, loss) for x in (images, single, same, climbed, again)
  )
  assert (one > before).all()
  np.testing.assert_allclose(equal, np.maximum(one, before), rtol=1e-5, atol=1e-6)
  assert (many >= one - 1e-6).all() and (many > one + 1e-5).any()
  assert (restarted > before).all()


@pytest.mark.parametrize("norm,epsilon", [("linf", 0.03), ("l2", 0.7)])
def test_changes_stay_in_the_ball_and_in_range(norm, epsilon):
  model, variables, images, targets = small()
  images[0, :8], images[1, :8] = 0, 1
  for random_start in (False, True):
    found = metrics.pgd(
      *(model, variables, images, targets),
      norm=norm,
      epsilon=epsilon,
      steps=4,
      random_start=random_start,
    )
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    length = lengths(found, images)[norm == "l2"]
    assert (length <= epsilon * (1 + 1e-12)).all()
    assert (length > 0.9 * epsilon).all()


def test_a_start_depends_on_the_image_alone():
  model, variables, images, targets = small()
  runs = [
    metrics.pgd(model, variables, images, targets, norm="l2", steps=2, batch_size=size, seed=seed)
    for size, seed in ((4, 0), (3, 0), (4, 1))
  ]
  np.testing.assert_allclose(runs[0], runs[1], atol=1e-5)
  assert rel(runs[0] - images, runs[2] - images) > 0.01


def test_progress_goes_batch_by_batch():
  model, variables, _ = linear()
  images, targets, seen = photos(5, 8), np.zeros(5, int), []

  def watch(batches):
    seen.extend(batches)
    return batches

  given = {"batch_size": 2, "progress": watch}
  few = metrics.fgsm(model, variables, images, targets, **given)
  assert seen == [0, 2, 4] and len(few) == 5
  np.testing.assert_allclose(few, metrics.fgsm(model, variables, images, targets), atol=1e-6)


def test_nothing_changes_within_zero():
  model, variables, images, targets = small()
  for norm in ("linf", "l2"):
    found = metrics.pgd(model, variables, images, targets, norm=norm, epsilon=0, steps=2)
    np.testing.assert_array_equal(found, images)
  np.testing.assert_array_equal(metrics.fgsm(model, variables, images, targets, epsilon=0), images)


def test_saturated_losses_are_climbed_by_their_margin():
  model, variables, weights = linear(side=4)
  weights *= 1e4
  images = photos(2, 4) / 2 + 0.25
  targets = metrics.logits_of(model, variables, images).argmax(1)
  given = {"norm": "l2", "epsilon": 0.1, "steps": 1, "random_start": False}
  masked = metrics.pgd(model, variables, images, targets, **given)
  np.testing.assert_array_equal(masked, images)
  found = metrics.pgd(model, variables, images, targets, loss="margin", **given)
  assert (
    losses(model, variables, found, targets, "margin")
    > losses(model, variables, images, targets, "margin")
  ).all()


def test_bad_attacks_are_refused():
  model, variables, _ = linear()
  images, targets = photos(2, 8), np.array([0, 1])

  def attack(images=images, targets=targets, **settings):
    return lambda: metrics.pgd(model, variables, images, targets, **settings)

  refused(attack(epsilon=-0.1), "epsilon=-0.1", "at least 0")
  refused(attack(epsilon=float("nan")), "epsilon=nan")
  refused(attack(epsilon="2/255"), "'2/255'")
  refused(lambda: metrics.fgsm(model, variables, images, targets, epsilon=-1), "epsilon=-1")
  refused(attack(step_size=-1), "step_size=-1")
  refused(attack(steps=0), "steps=0")
  refused(attack(batch_size=0), "batch_size is 0")
  refused(attack(restarts=2, random_start=False), "restarts=2")
  refused(attack(norm="l_2"), "l_2", "'l2'")
  refused(attack(loss="margins"), "'margin'")
  refused(attack(images=images * 255), "[0, 1]")
  refused(attack(images=images[0]), "(8, 8, 3)")
  refused(attack(targets=np.array([0, 3])), "3")
  refused(attack(targets=np.array([0])), "(1,)")


# Corruptions.


def test_colours_by_hand():
  image = np.array([[[[0.2, 0.4, 0.1], [0, 0, 0]], [[1, 0.5, 0], [0.6, 0.6, 0.6]]]])
  bright = metrics.corrupt(image, "brightness", 1)
  expected = [[[0.25, 0.5, 0.125], [0.1] * 3], [[1, 0.5, 0], [0.7] * 3]]
  np.testing.assert_allclose(bright[0], expected, atol=1e-6)
  flat = metrics.corrupt(image, "contrast", 4)
  mean = image.mean((1, 2))
  np.testing.assert_allclose(flat[0], mean + 0.1 * (image[0] - mean), atol=1e-6)
  vivid = metrics.corrupt(image, "saturate", 2)  # a tenth of the saturation
  expected = [[[0.38, 0.4, 0.37], [0] * 3], [[1, 0.95, 0.9], [0.6] * 3]]
  np.testing.assert_allclose(vivid[0], expected, atol=1e-6)


@pytest.mark.parametrize("colors", [1, 3])
def test_pixels_by_hand(colors):
  image = photos(1, 8)[..., :colors]
  boxes = image.reshape(1, 4, 2, 4, 2, colors).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2)
  np.testing.assert_allclose(metrics.corrupt(image, "pixelate", 2), boxes, atol=1e-6)


def test_noise_has_the_published_strength():
  grey = np.full((1, 64, 64, 3), 0.5, np.float32)
  for severity, scale in ((1, 0.08), (2, 0.12)):
    found = metrics.corrupt(grey, "gaussian_noise", severity) - 0.5
    assert found.std() == pytest.approx(scale, rel=0.05) and abs(found.mean()) < 0.005
  counts = metrics.corrupt(grey, "shot_noise", 3) * 12
  np.testing.assert_allclose(counts, counts.round(), atol=1e-5)
  struck = metrics.corrupt(grey, "impulse_noise", 5)
  assert (struck == 0).mean() == pytest.approx(0.135, abs=0.02)
  assert (struck == 1).mean() == pytest.approx(0.135, abs=0.02)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur"])
def test_blurs_keep_what_is_flat_and_grow_with_the_picture(name):
  flat = np.full((1, 24, 24, 3), 0.3, np.float32)
  np.testing.assert_allclose(metrics.corrupt(flat, name, 5), flat, atol=1e-6)
  spread = []
  for side in (64, 128):
    point = np.zeros((1, side, side, 1), np.float32)
    point[0, side // 2, side // 2] = 1
    light = metrics.corrupt(point, name, 5)[0, ..., 0].astype(np.float64)
    assert light.sum() == pytest.approx(1, rel=1e-3)
    rows = np.arange(side)
    mean = (light.sum(1) * rows).sum(), (light.sum(0) * rows).sum()
    spread.append(sum((light.sum(1 - a) * (rows - mean[a]) ** 2).sum() for a in (0, 1)) ** 0.5)
  assert spread[1] / spread[0] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("name", metrics.CORRUPTIONS)
def test_corruptions_are_repeatable_and_of_the_image_alone(name):
  images = photos(3, 32)
  found = metrics.corrupt(images, name, 3)
  assert found.dtype == np.float32 and found.shape == images.shape
  assert found.min() >= 0 and found.max() <= 1
  np.testing.assert_array_equal(metrics.corrupt(images[[2, 0]], name, 3), found[[2, 0]])
  changes = [rel(metrics.corrupt(images, name, severity), images) for severity in range(1, 6)]
  assert changes[4] > 0.01
  if name not in ("saturate", "pixelate", "fog"):  # The last two of fog differ in form.
    assert changes == sorted(changes)
  varied = rel(metrics.corrupt(images, name, 3, seed=1), found) > 0
  assert varied == (name.endswith("noise") or name in ("motion_blur", "fog"))
  if name != "saturate":
    assert metrics.corrupt(images[..., :1], name, 3).shape == (3, 32, 32, 1)
  tiny = np.stack([np.zeros((1, 2, 3)), np.ones((1, 2, 3))])
  assert np.isfinite(metrics.corrupt(tiny, name, 5)).all()


def test_bad_corruptions_are_refused():
  images = photos(1, 8)
  refused(lambda: metrics.corrupt(images, "gausian_blur", 1), "'gaussian_blur'")
  for severity in (0, 6, 1.5):
    refused(lambda s=severity: metrics.corrupt(images, "fog", s), f"severity={severity}")
  refused(lambda: metrics.corrupt(images * 2, "fog", 1), "[0, 1]")
  refused(lambda: metrics.corrupt(images[0], "fog", 1), "(8, 8, 3)")
  refused(lambda: metrics.corrupt(images[..., :2], "fog", 1), "(1, 8, 8, 2)")
  refused(lambda: metrics.corrupt(images[..., :1], "saturate", 1), "saturation")


# Robustness.


def test_robustness_counts():
  model, variables, _ = linear(side=4)
  images = np.random.default_rng(0).random((6, 4, 4, 3)).astype(np.float32)
  predictions = metrics.logits_of(model, variables, images).argmax(1)
  targets = predictions.copy()
  targets[:2] = (targets[:2] + 1) % 3  # Two are classified wrongly.
  changed = images.copy()
  changed[[1, 2, 3]] = images[[2, 1, 4]]
  after = predictions[[0, 2, 1, 4, 4, 5]]
  found = metrics.robustness(model, variables, images, changed, targets, batch_size=4)
  assert (found.num_correct, found.num_images) == (4, 6)
  np.testing.assert_array_equal(found.changed_predictions, after)
  assert found.num_changed_correct == (after == targets).sum()
  assert found.num_kept == (after == predictions).sum()
  assert found.num_successes == ((predictions == targets) & (after != targets)).sum()
  assert found.success == found.num_successes / 4
  assert found.summary()["not attacked: classified wrongly before"] == 2
  largest, length = lengths(changed, images)
  np.testing.assert_allclose(found.largest, largest)
  np.testing.assert_allclose(found.lengths, length)
  np.testing.assert_allclose(found.scores[[0, 4, 5]], 1)
  assert (found.scores[1:4] < 1).all()


@pytest.mark.parametrize("similarity", ["spearman", "cosine", "ssim"])
def test_robustness_oracle_and_baseline(similarity):
  model, variables, _ = linear()
  images, targets = photos(4, 8), np.arange(4) % 3
  targets = metrics.logits_of(model, variables, images).argmax(1)
  same = metrics.robustness(model, variables, images, images, targets, similarity=similarity)
  np.testing.assert_allclose(same.scores, 1)
  assert (same.oracle, same.kept, same.success, same.accuracy) == (1, 1, 0, 1)
  assert same.higher_is_better and np.isnan(same.mean_turned) and same.mean_kept == same.mean
  assert abs(same.random) < 0.2
  calls = iter(range(99))

  def unrelated(batch, classes):
    return noise(*batch.shape[:3], seed=next(calls))

  blind = metrics.robustness(
    model, variables, images, images, targets, unrelated, similarity=similarity
  )
  assert abs(blind.mean) < 0.2


def test_robustness_excludes_and_refuses():
  model, variables, _ = linear()
  images, targets = photos(3, 8), np.array([0, 1, 2])

  def flat_for_one(batch, classes):
    return noise(*batch.shape[:3]) * (classes != 1)[:, None, None]

  found = metrics.robustness(model, variables, images, images, targets, flat_for_one)
  assert found.images.tolist() == [0, 2] and len(found.predictions) == 3
  assert found.excluded == {"a map that spearman is not defined for": 1}

  def check(changed=images, targets=targets, **settings):
    return lambda: metrics.robustness(model, variables, images, changed, targets, **settings)

  refused(check(images[:2]), "(2, 8, 8, 3)", "same")
  refused(check(images * 2), "[0, 1]")
  refused(check(targets=np.array([0, 1, 3])), "3")
  refused(check(similarity="cosin"), "'cosine'")


@pytest.mark.parametrize("ops", [StandardOps(), BcosOps.v2()])
def test_attacks_corruptions_and_robustness_fit(ops):
  model, variables, images, targets = small(ops)
  changed = metrics.pgd(model, variables, images, targets, epsilon=0.1, steps=5)
  found = metrics.robustness(model, variables, images, changed, targets)
  assert found.accuracy == 1 and found.changed_accuracy == 1 - found.success < 1
  assert found.largest.max() <= 0.1 and -1 <= found.mean < 1

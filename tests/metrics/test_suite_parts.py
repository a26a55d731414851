"""Scores of parts by hand, networks that are tuned for a benchmark, and DAVE in its limits."""

import itertools

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, attribution, metrics
from bcos_jax.errors import InputError
from bcos_jax.metrics import suite
from bcos_jax.metrics.suite.part_scenes import bits

from ..common import CLASSES, filled, photos, rel, tiny
from .test_metrics import linear, refused

VARIANTS = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]])
QUARTERS = [np.s_[a : a + 3, b : b + 3] for a, b in itertools.product((1, 5), (1, 5))]


def scenes(**changed):
  """Four scenes, one of each class: a part is a red or a green square, the thing a blue pixel."""
  pictures = np.zeros((4, 16, 8, 8, 3), np.uint8)
  pictures[:, :, 0, 0, 2] = 255
  masks = np.zeros((4, 4, 8, 8), bool)
  for label, part, number in itertools.product(range(4), range(4), range(16)):
    masks[label, part][QUARTERS[part]] = True
    if number >> part & 1:
      pictures[label, number][*QUARTERS[part], VARIANTS[label, part]] = 255
  without = pictures[:, -1:].copy()
  without[:, :, 0, 0] = 0
  thing = np.zeros((4, 1, 8, 8), bool)
  thing[:, :, 0, 0] = True
  fields = {
    "pictures": pictures,
    "labels": np.arange(4),
    "masks": masks,
    "without_thing": without,
    "thing_masks": thing,
    "classes": VARIANTS,
    "part_names": ("a", "b", "c", "d"),
  }
  return suite.PartScenes(**{**fields, **changed})


@pytest.fixture(scope="module")
def measured():
  """A linear network that counts parts, each by its own weight, and its outputs."""
  model, variables, _ = linear()
  weights = np.zeros((8, 8, 3, 4), np.float32)
  for label, part in itertools.product(range(4), range(4)):
    for variant in (0, 1):
      sign = 1 if VARIANTS[label, part] == variant else -1
      weights[*QUARTERS[part], variant, label] = sign * (part + 1)
  model = model.clone(num_classes=4)
  variables = {"params": {"weights": weights}}
  return model, variables, suite.measure_parts(model, variables, scenes())


def test_sets_of_parts_that_tell_a_class():
  found = {tuple(np.flatnonzero(one).tolist()) for one in scenes().sufficient[0]}
  assert found == {(0, 2), (0, 3), (1, 2), (1, 3)}
  assert scenes().foils(0) == (1, 2) and scenes().foils(3) == (1, 2)
  assert bits(np.array([[True, False, True, False], [True] * 4])).tolist() == [5, 15]
  refused(lambda: scenes(classes=VARIANTS[[0, 0, 2, 3]]).sufficient, "Class 0")
  refused(lambda: scenes(classes=VARIANTS[:, :3]), "4 classes of 3 parts")
  refused(lambda: scenes(pictures=scenes().pictures[:, :8]), "4 parts and 8 pictures")


def test_part_scores_by_hand(measured):
  model, variables, effects = measured
  losses = effects.losses()
  np.testing.assert_allclose(losses[:, :4], 9 * np.array([[1, 2, 3, 4]] * 4), rtol=1e-5)
  np.testing.assert_allclose(losses[:, 4], 0, atol=1e-5)
  own = suite.part_scores(effects, metrics.attribute_with(model, variables), dilation=1)
  assert own.accuracy == own.data_check == own.preservation == own.distractibility == 1
  assert own.deletion == 0.75  # without any part class 0 is predicted: no change for its own scene
  assert (own.correctness, own.contrastivity) == (1, 1)
  assert own.completeness == pytest.approx(((1 + 1 + 0.75) / 3 + 1) / 2)
  oracle = suite.part_scores(effects, suite.oracle_explainer(effects), dilation=1)
  assert oracle.summary() == pytest.approx(own.summary())


def test_wrong_parts_fail(measured):
  model, variables, effects = measured
  right = metrics.attribute_with(model, variables)

  def thing(images, targets):
    maps = np.zeros(images.shape[:3])
    maps[:, 0, 0] = 1
    return maps

  blind = suite.part_scores(effects, thing)
  assert blind.data_check == 0 and blind.distractibility == 0 and blind.completeness < 0.2
  negated = suite.part_scores(effects, lambda x, t: -right(x, t), dilation=1)
  assert negated.correctness == 0 and negated.contrastivity == 0
  same = suite.part_scores(effects, lambda x, t: right(x, np.zeros_like(t)), dilation=1)
  assert same.contrastivity < 1  # one map for all classes
  noise = suite.part_scores(effects, suite.random_explainer())
  assert noise.mean < 0.8 < suite.part_scores(effects, right).mean
  model, variables, _ = linear()
  refused(lambda: suite.measure_parts(model, variables, scenes()), "3 classes", "4")


# Networks that are tuned.


@pytest.fixture(scope="module")
def network():
  """A network without training, and pictures whose colour tells their class."""
  model, labels = tiny("resnet8", BcosOps()), np.arange(40) % CLASSES
  tints = np.random.default_rng(0).permutation(list(itertools.product((0, 1), repeat=3)))
  images = 0.4 * photos(40, 16) + 0.6 * tints[labels, None, None]
  return model, filled(model), np.float32(images), labels


def test_tuning_leaves_the_network_and_learns(network):
  model, variables, images, labels = network
  before = metrics.logits_of(model, variables, images)

  def plain(random, images, labels):
    return images, np.ones(images.shape[:3], bool), labels

  found = suite.tuned(model, variables, images, labels, plain, suite.Tuning(steps=30, rate=1e-2))
  np.testing.assert_array_equal(metrics.logits_of(model, variables, images), before)
  after = metrics.logits_of(model, found, images)
  assert (after.argmax(1) == labels).mean() > (before.argmax(1) == labels).mean() + 0.2
  for kind in variables.keys() - {"params"}:
    assert found[kind] is variables[kind]
  for settings in ({"steps": 0}, {"rate": 0}, {"batch_size": 0}):
    refused(lambda settings=settings: suite.Tuning(**settings), next(iter(settings)))


def test_half_of_the_pictures_lose_a_cell():
  images, keep, labels = suite.without_cells(4)(
    np.random.default_rng(0), photos(200, 16), np.arange(200)
  )
  gone = (~keep).sum(axis=(1, 2))
  assert set(gone.tolist()) == {0, 16} and 70 < (gone > 0).sum() < 130
  assert len({tuple(np.argwhere(~one)[0]) for one in keep if not one.all()}) == 16
  assert images.shape == (200, 16, 16, 3) and labels.tolist() == list(range(200))


def test_a_trigger_is_learned_and_found(network):
  model, variables, images, labels = network
  how = suite.Tuning(steps=80, rate=1e-2)
  planted = suite.plant_trigger(
    model, variables, images, labels, images, labels, target=1, size=5, how=how
  )
  assert planted.success > 0.5 and planted.regions.sum(axis=(1, 2)).tolist() == [25] * len(
    planted.images
  )
  assert len(planted.images) == (labels != 1).sum() and set(planted.targets.tolist()) == {1}
  benchmark = planted.benchmark()
  maps = metrics.attribute_with(model, planted.variables)(planted.images, planted.targets)
  found = benchmark.compare(
    {"own": maps, "region": 1.0 * planted.regions, "rest": 1.0 * ~planted.regions}
  )
  assert found["region"].mean == 1 and found["rest"].mean == 0
  assert found["own"].mean > found["own"].random
  refused(
    lambda: suite.plant_trigger(model, variables, images, labels, images, labels * 0), "class 0"
  )


# DAVE.


def test_dave_without_shift_and_noise_is_the_explanation(network):
  model, variables, images, _ = network
  own = bcos_jax.explain(model, variables, images[:2], target=1).contributions
  fields = {"samples": 3, "noise": 0.0}
  found = attribution.dave(model, variables, images[:2], 1, shift=0, **fields)
  assert rel(found, own) < 1e-5
  assert rel(attribution.dave(model, variables, images[:2], 1, shift=2, **fields), own) > 1e-2


def test_dave_undoes_its_shifts():
  """The map of a linear network stays where it is, but for what a shift pushes over the border."""
  model, variables, weights = linear()
  weights[:] = 0
  weights[:, :, :, 1] = np.arange(8)[:, None, None]  # by row: each sample sees it shifted
  images = np.ones((1, 8, 8, 3), np.float32)
  found = attribution.dave(model, variables, images, 1, samples=400, shift=1, noise=0.0)[0]
  inner = found[2:6, 3] / 3
  np.testing.assert_allclose(inner, np.arange(2, 6), atol=0.2)
  with pytest.raises(InputError, match="shift is -1"):
    attribution.dave(model, variables, images, 1, shift=-1)

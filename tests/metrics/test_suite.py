"""Benchmarks by hand, at their oracle, at random, and failed by explanations that are wrong."""

import numpy as np
import pytest

from bcos_jax import BcosOps, attribution, metrics
from bcos_jax.attribution.segments import superpixels
from bcos_jax.metrics import suite
from bcos_jax.metrics.grids import select
from bcos_jax.metrics.perturbation import Perturbation

from ..common import CLASSES, filled, photos, tiny
from .test_metrics import effects, linear, noise, refused

HOW = Perturbation(block=2, fill=0.0, output="logit", confidence=0.0)


@pytest.fixture(scope="module")
def additive():
  """A linear network, pictures, targets, and the map that has every pixel's own effect."""
  model, variables, weights = linear()
  images, targets = photos(6, 8), np.arange(6) % 3
  return (model, variables, images, targets), effects(weights, images, targets, 0.0)


PREPARED = {
  "single_deletion": lambda net: suite.single_deletion(*net),
  "sensitivity_n": lambda net: suite.sensitivity_n(*net, HOW),
  "infidelity": lambda net: suite.infidelity(*net, HOW),
}


@pytest.mark.parametrize("name", PREPARED)
def test_effects_that_add_up_are_predicted_by_the_right_map_only(additive, name):
  net, maps = additive
  benchmark = PREPARED[name](net)
  found = benchmark.compare({"right": maps, "scaled": 7 * maps, "negated": -maps})
  for score in ("right", "scaled"):
    np.testing.assert_allclose(found[score].scores, found[score].oracle_scores, atol=1e-5)
  right, random, wrong = found["right"].mean, found["right"].random, found["negated"].mean
  sign = 1 if benchmark.higher_is_better else -1
  assert sign * (right - random) > 0.4 and sign * (right - wrong) > 0.9
  assert found["right"].random_scores.tolist() == found["negated"].random_scores.tolist()


def test_losses_are_those_of_the_network(additive):
  net, maps = additive
  sets = np.array([[True, False, False, True], [False, True, True, True]])
  found = suite.measure_effects(
    *net, lambda rows, columns: sets, Perturbation(block=4, fill=0.0, output="logit")
  )
  blocks = maps.reshape(6, 2, 4, 2, 4).sum((2, 4)).reshape(6, 4)
  np.testing.assert_allclose(found.losses, blocks @ sets.T, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found.attributed(maps), blocks @ sets.T, rtol=1e-5, atol=1e-5)


def test_single_deletion_by_hand(additive):
  net, maps = additive
  cells = maps.reshape(6, 2, 4, 2, 4).sum((2, 4)).reshape(6, 4)
  ranks = cells.argsort(axis=1).argsort(axis=1)
  shown = np.broadcast_to(np.arange(4.0), (6, 4))
  given = shown.reshape(6, 2, 2).repeat(4, axis=1).repeat(4, axis=2)
  expected = 1 - 6 * ((ranks - shown) ** 2).sum(axis=1) / (4 * 15)
  found = suite.single_deletion(*net, cells=2).score(given)
  np.testing.assert_allclose(found.scores, expected, atol=1e-6)
  flat = given.copy()
  flat[0] = 1
  excluded = suite.single_deletion(*net, cells=2).score(flat).excluded
  assert excluded == {"a map that the score is not defined for": 1}


def test_infidelity_by_hand(additive):
  net, maps = additive
  single = suite.infidelity(*net, HOW, samples=1)  # any scale of the right sign fits one square
  np.testing.assert_allclose(single.measure(maps), 0, atol=1e-9)
  np.testing.assert_allclose(single.measure(-maps), 1)
  benchmark = suite.infidelity(*net, HOW)
  np.testing.assert_allclose(benchmark.measure(np.zeros_like(maps)), 1)
  half = np.where(np.arange(8)[:, None] < 4, maps, 0)
  assert ((benchmark.measure(half) > 0.01) & (benchmark.measure(half) < 1)).all()


def test_complexity_by_hand():
  maps = np.zeros((3, 2, 2))
  maps[0, 0, 0], maps[1, 0], maps[2] = 5, -1, 3
  assert suite.complexity(maps).scores.tolist() == pytest.approx([0, 0.5, 1])
  assert suite.complexity(noise(4, 16, 16)).mean == pytest.approx(
    suite.complexity(noise(4, 16, 16)).random, abs=0.02
  )


def test_superpixels_are_even_and_follow_colours():
  images = np.zeros((2, 16, 16, 3), np.float32)
  images[:, :, 9:] = (0.9, 0.1, 0.1)
  numbers = superpixels(images, 16)
  for row in numbers:
    left, right = set(row[:, :9].ravel()), set(row[:, 9:].ravel())
    assert not left & right and 8 <= len(left | right) <= 20
  flat = superpixels(np.full((1, 12, 12, 1), 0.5), 9)
  assert np.unique(flat, return_counts=True)[1].tolist() == [16] * 9


def test_irof_by_hand(additive):
  (model, variables, images, targets), maps = additive
  numbers = np.repeat(np.arange(4), 16).reshape(8, 8)  # four pairs of rows
  numbers = np.broadcast_to(numbers, (6, 8, 8))
  benchmark = suite.irof(
    model, variables, images, targets, HOW, segments=numbers, fractions=(0, 0.5, 1)
  )
  parts = np.sort(maps.reshape(6, 4, 16).sum(2), axis=1)[:, ::-1]
  start = metrics.logits_of(model, variables, images)[np.arange(6), targets]
  curves = (
    np.stack([start, start - parts[:, :2].sum(1), start - parts.sum(1)], axis=1) / start[:, None]
  )
  expected = 1 - np.trapezoid(curves, (0, 0.5, 1), axis=1)
  kept = start > 0
  assert 0 < kept.sum() < 6
  found = benchmark.score(maps)
  np.testing.assert_allclose(found.scores, expected[kept], rtol=1e-4)
  np.testing.assert_allclose(found.oracle_scores, found.scores, rtol=1e-5)
  assert (benchmark.score(-maps).scores <= found.scores + 1e-6).all()
  assert list(found.excluded.values()) == [6 - kept.sum()]


def test_imputed_pixels_are_the_mean_of_their_neighbours():
  random, image = np.random.default_rng(0), photos(1, 12)[0]
  gone = random.random((12, 12)) < 0.6
  filled_in = suite.impute(image, gone, 0.0, random)
  padded, there = (
    np.pad(filled_in, ((1, 1), (1, 1), (0, 0))),
    np.pad(np.ones((12, 12, 1)), ((1, 1), (1, 1), (0, 0))),
  )
  total = weight = 0.0
  for down in (-1, 0, 1):
    for right in (-1, 0, 1):
      share = 0 if down == right == 0 else 1 / 6 if down * right == 0 else 1 / 12
      place = np.s_[1 + down : 13 + down, 1 + right : 13 + right]
      total, weight = total + share * padded[place], weight + share * there[place]
  np.testing.assert_allclose(filled_in[gone], (total / weight)[gone], atol=1e-5)
  np.testing.assert_array_equal(filled_in[~gone], image[~gone])
  everything = suite.impute(image, np.ones((12, 12), bool), 0.0, random)
  np.testing.assert_allclose(
    everything, np.broadcast_to(image.mean((0, 1)), image.shape), atol=1e-6
  )
  noisy = suite.impute(image, gone, 0.01, random) - filled_in
  assert 0.005 < noisy[gone].std() < 0.015 and not noisy[~gone].any()


def test_road_tells_a_right_map_from_a_wrong_one():
  """Class 1 while one pixel is bright: whoever removes it first turns every prediction."""
  model, variables, weights = linear()
  weights[:] = 0
  weights[2, 3, :, 1], weights[5:, :, :, 0] = 1.0, 0.1
  images = np.full((4, 8, 8, 3), 0.1, np.float32)
  images[:, 2, 3] = 1.0
  right = np.zeros((4, 8, 8))
  right[:, 2, 3] = 1
  net = (model, variables, images, np.ones(4, int))
  most, least = (suite.road(*net, order=order, noise=0.0) for order in ("most", "least"))
  assert most.score(right).mean == most.oracle == 0.0 and most.score(-right).mean > 0.5
  assert least.score(right).mean == least.oracle == 1.0 > least.score(-right).mean
  refused(lambda: suite.road(*net, order="morf"), "morf")
  refused(lambda: suite.road(*net, shares=(0, 1)), "shares")


# Grids whose outputs see one cell.


def own(model, variables):
  return metrics.attribute_with(model, variables)


def named(name, **settings):
  return lambda model, variables: attribution.attribute_with(name, model, variables, **settings)


@pytest.fixture(scope="module")
def grids():
  model = tiny("resnet8", BcosOps())
  variables = filled(model)
  images = photos(24, 16)
  logits = metrics.logits_of(model, variables, images)
  labels = np.arange(24) % 5
  chosen = select(np.eye(CLASSES)[labels], labels, confidence=0.0)
  assert logits.shape == (24, CLASSES)
  return model, variables, suite.disconnected_grids(chosen, images, grid=2, num_grids=4)


def test_grids_repeat_the_class_of_the_first_cell(grids):
  _, _, made = grids
  assert made.images.shape == (4, 32, 32, 3)
  labels = {image.tobytes(): i % 5 for i, image in enumerate(photos(24, 16))}
  for grid, label in zip(made.images, made.classes, strict=True):
    cells = [grid[a : a + 16, b : b + 16] for b in (0, 16) for a in (0, 16)]
    found = [labels[np.ascontiguousarray(cell).tobytes()] for cell in cells]
    assert found[0] == found[3] == label and len(set(found)) == 3
    assert not np.array_equal(cells[0], cells[3])


def test_difull_is_passed_by_gradients_and_failed_by_masks(grids):
  model, variables, made = grids
  right = suite.disconnected(model, variables, own, made)
  assert right.mean == pytest.approx(1) and abs(right.random - 0.25) < 0.01
  masked = suite.disconnected(model, variables, named("rise", masks=20), made)
  assert masked.mean < 0.5
  whole = suite.disconnected(model, variables, lambda m, v: lambda x, t: x[..., 0], made)
  assert whole.mean < 0.5
  refused(lambda: suite.disconnected(model, variables, named("grad_cam"), made), "WholeCell")


def test_outputs_of_cut_networks_see_what_they_should(grids):
  from bcos_jax.metrics.suite.cut_grids import cell_features, whole_cell

  model, variables, made = grids
  alone = metrics.logits_of(model, variables, made.images[:, 16:, 16:])
  network, nested = whole_cell(model, variables, 2, 3)
  np.testing.assert_allclose(metrics.logits_of(network, nested, made.images), alone, rtol=1e-5)
  parts = [
    metrics.logits_of(*cell_features(model, variables, 2, cell), made.images) for cell in range(4)
  ]
  together = metrics.logits_of(model, variables, made.images)
  np.testing.assert_allclose(np.mean(parts, axis=0), together, rtol=1e-4, atol=1e-5)


def test_dipart_is_better_for_the_right_cell(grids):
  model, variables, made = grids
  right = suite.disconnected(model, variables, own, made, "part")
  assert 0.5 < right.mean <= 1
  refused(lambda: suite.disconnected(model, variables, own, made, "half"), "half")
  transformer = tiny("simple_vit_tiny", BcosOps())
  refused(lambda: suite.disconnected(transformer, filled(transformer), own, made, "part"), "DiPart")

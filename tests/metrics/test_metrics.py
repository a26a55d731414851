"""Metrics of explanations: by hand, at their maximum, at their baseline, with bad input."""

import functools

from flax import linen as nn
import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps, metrics
from bcos_jax.errors import InputError
from bcos_jax.metrics import Perturbation

from ..common import filled, photos, tiny

PLAIN = Encoding((0.0,) * 3, (1.0,) * 3)
SIX = Encoding((0.0,) * 3, (1.0,) * 3, "complement")


class Linear(nn.Module):
  """Logits linear in the encoded pixels: every effect is known, and effects add up."""

  ops: bcos_jax.Ops
  num_classes: int = 3

  @nn.compact
  def __call__(self, x, train=False):
    weights = self.param("weights", nn.initializers.normal(), (*x.shape[1:], self.num_classes))
    return jax.numpy.einsum("nhwc,hwck->nk", x, weights)


def linear(side=8, encoding=PLAIN, seed=0):
  """A linear network, and its weights [side, side, channels, 3]."""
  random = np.random.default_rng(seed)
  weights = random.standard_normal((side, side, encoding.channels, 3)).astype(np.float32)
  model = Linear(StandardOps(encoding=encoding))
  return model, {"params": {"weights": weights}}, weights


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def refused(call, *words):
  with pytest.raises(InputError) as caught:
    call()
  message = str(caught.value)
  assert all(word in message for word in words), message
  assert caught.value.fix


# Pointing at objects.


def test_energy_by_hand():
  maps = np.array([[[3.0, 1, 0, -9], [0, 0, 4, 0]]])
  regions = np.array([[[True, False, False, True], [False, False, True, False]]])
  result = metrics.energy_pointing_game(maps, regions)
  assert result.scores.tolist() == [7 / 8]
  assert (result.mean, result.oracle, result.num_images) == (7 / 8, 1.0, 1)


def test_pointing_by_hand():
  maps = np.zeros((3, 4, 4))
  maps[0, 1, 1], maps[1, 1, 3], maps[2, 0, 0] = 1, 1, 1
  maps[2, 1, 1] = 1  # as large: half of the largest values hit
  regions = np.zeros((3, 4, 4), bool)
  regions[:, 1:3, :2] = True
  assert metrics.pointing_game(maps, regions).scores.tolist() == [1, 0, 0.5]
  assert metrics.pointing_game(maps, regions, tolerance=1).scores.tolist() == [1, 0, 1]
  assert metrics.pointing_game(maps, regions, tolerance=2).scores.tolist() == [1, 1, 1]


@pytest.mark.parametrize("game", [metrics.energy_pointing_game, metrics.pointing_game])
def test_pointing_oracle_and_baselines(game):
  boxes = [[(2, 3, 9, 8), (10, 0, 12, 16)]] * 100 + [(0, 0, 8, 8)] * 100
  regions = metrics.box_masks(boxes, 16, 16)
  assert regions[0].sum() == 35 + 32 and regions[100, :8, :8].all() and regions[100].sum() == 64
  assert game(regions.astype(float), regions).mean == 1.0
  assert game(-1.0 * regions + 1.0, regions).mean == 0.0
  flat = game(np.ones(regions.shape), regions)
  np.testing.assert_allclose(flat.scores, regions.mean((1, 2)))
  result = game(noise(*regions.shape), regions)
  for blind in (result.scores, result.random_scores):
    error = np.std(blind - regions.mean((1, 2))) / len(blind) ** 0.5
    assert abs(np.mean(blind - regions.mean((1, 2)))) < 4 * error + 1e-9


def test_pointing_excludes_and_counts():
  regions = np.ones((4, 2, 2), bool)
  maps = np.ones((4, 2, 2))
  regions[0], maps[0], maps[2] = False, -1, -1
  result = metrics.energy_pointing_game(maps, regions)
  assert result.images.tolist() == [1, 3] and len(result.random_scores) == 2
  assert result.excluded == {"an empty region": 1, "a map without positive part": 1}
  assert result.summary()["excluded: an empty region"] == 1
  assert metrics.pointing_game(maps, regions).images.tolist() == [1, 2, 3]
  refused(lambda: metrics.pointing_game(maps, ~np.ones((4, 2, 2), bool)), "None of 4", "4 with an")


def test_pointing_smooths_signed_maps():
  maps = np.zeros((1, 6, 6))
  maps[0, 0, 0], maps[0, 4, 4], maps[0, 3, 3] = 9, 10, -10
  regions = metrics.box_masks([(0, 0, 2, 2)], 6, 6)
  assert metrics.pointing_game(maps, regions).mean == 0
  # 4 windows of +1; of the 9 with 10 / 9 each, 4 see the -10 as well and cancel.
  found = metrics.energy_pointing_game(maps, regions, smooth=3).mean
  assert found == pytest.approx(4 / (4 + 5 * 10 / 9))


def test_an_explainer_scores_as_its_maps_do():
  images, targets = photos(5, 8), np.arange(5) % 3
  seen = []

  def explainer(batch, classes):
    seen.append(len(batch))
    return batch[..., 0] - classes[:, None, None] / 4

  regions = metrics.box_masks([(0, 0, 4, 4)] * 5, 8, 8)
  maps = explainer(images, targets)
  for game in (metrics.energy_pointing_game, metrics.pointing_game):
    found = game(explainer, regions, images, targets, batch_size=2)
    np.testing.assert_array_equal(found.scores, game(maps, regions).scores)
  assert set(seen[1:]) == {2}


def test_bad_regions_and_maps_are_refused():
  maps, regions = np.ones((2, 4, 4)), np.ones((2, 4, 4), bool)
  game = metrics.energy_pointing_game
  refused(lambda: metrics.box_masks([(0, 0, 5, 2)], 4, 4), "image 0", "[0, 0, 5, 2]", "4 x 4")
  refused(lambda: metrics.box_masks([(0, 0, 1, 1), (2, 1, 2, 3)], 4, 4), "image 1")
  refused(lambda: metrics.box_masks([(0.1, 0.1, 0.5, 0.5)], 4, 4), "whole pixels")
  refused(lambda: game(maps, regions[:, :3]), "(2, 4, 4)", "(2, 3, 4)")
  refused(lambda: game(maps, regions.astype(int)), "int64")
  refused(lambda: game(maps * np.nan, regions), "NaN")
  refused(lambda: game(maps[0], regions), "(4, 4)", "[N, H, W]")
  refused(lambda: game(maps, regions, smooth=2), "smooth=2")
  refused(lambda: game(lambda x, t: x[..., 0], regions), "without images")
  refused(lambda: game(lambda x, t: x, regions, photos(2, 4), [0, 1]), "(2, 4, 4, 3)", "(2, 4, 4)")
  refused(lambda: game(lambda x, t: x[..., 0], regions, photos(2, 4), [0]), "(1,)")
  refused(lambda: metrics.pointing_game(maps, regions, tolerance=-1), "tolerance=-1")


# Taking pixels away.


def effects(weights, images, targets, fill):
  """The change of the target's logit [N, H, W] when a pixel becomes `fill` [N or 1, 1, 1, C]."""
  per_pixel = (images - fill) * np.moveaxis(weights[..., targets], -1, 0)
  return per_pixel.sum(-1)


def test_deletion_and_insertion_by_hand():
  model, variables, weights = linear(4)
  images, targets = photos(2, 4), np.array([0, 2])
  maps = effects(weights, images, targets, 0.0)
  how = Perturbation(block=2, fill=0.0, output="logit")
  steps = (0, 0.25, 0.5, 1)
  for measure, keep in ((metrics.deletion, False), (metrics.insertion, True)):
    found = measure(model, variables, images, targets, maps, how, fractions=steps)
    blocks = np.sort(maps.reshape(2, 2, 2, 2, 2).sum((2, 4)).reshape(2, 4))[:, ::-1]
    gone = np.cumsum(np.pad(blocks, ((0, 0), (1, 0))), axis=1)[:, [0, 1, 2, 4]]
    curves = gone if keep else gone[:, -1:] - gone
    np.testing.assert_allclose(found.curves, curves, rtol=1e-5, atol=1e-5)
    area = sum((curves[:, i] + curves[:, i + 1]) / 2 * (0.25, 0.25, 0.5)[i] for i in range(3))
    np.testing.assert_allclose(found.scores, area, rtol=1e-5, atol=1e-5)
    assert found.higher_is_better is keep
    assert found.summary()["num_scored"] == 2


def test_comprehensiveness_and_sufficiency_by_hand():
  model, variables, weights = linear(4)
  images, targets = photos(2, 4), np.array([1, 1])
  maps = effects(weights, images, targets, 0.0)
  blocks = np.sort(maps.reshape(2, 2, 2, 2, 2).sum((2, 4)).reshape(2, 4))[:, ::-1]
  run = functools.partial(
    metrics.comprehensiveness, model, variables, images, targets, maps, fractions=(0.01, 0.5)
  )
  how = Perturbation(block=2, fill=0.0, output="logit")
  expected = (blocks[:, 0] + blocks[:, :2].sum(1)) / 2  # 1 % of 4 blocks is one block
  np.testing.assert_allclose(run(how).scores, expected, rtol=1e-5, atol=1e-5)
  kept = metrics.sufficiency(
    model, variables, images, targets, maps, how, fractions=(0.01, 0.5)
  ).scores
  np.testing.assert_allclose(kept, blocks.sum(1) - expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fill", ["mean", "zero", 0.5, (0.2, 0.4, 0.9)])
def test_deleted_pixels_are_what_was_asked_for(fill):
  model, variables, weights = linear(4, SIX)
  images, targets = photos(3, 4), np.array([0, 1, 2])
  color = images.mean((1, 2), keepdims=True) if fill == "mean" else np.full((3, 1, 1, 3), 0.0)
  if not isinstance(fill, str):
    color = color + np.asarray(fill)
  encoded = np.concatenate([color, 1 - color], -1) * (fill != "zero")
  seen = np.concatenate([images, 1 - images], -1)
  change = effects(weights, seen, targets, encoded)
  how = Perturbation(block=1, fill=fill, output="logit", oracle=False)
  maps = noise(3, 4, 4)
  found = metrics.deletion(model, variables, images, targets, maps, how, fractions=(0, 1 / 16, 1))
  rows, first = np.arange(3), maps.reshape(3, -1).argmax(1)
  lost = found.curves[:, :1] - found.curves
  np.testing.assert_allclose(lost[:, 1], change.reshape(3, -1)[rows, first], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(lost[:, 2], change.sum((1, 2)), rtol=1e-4, atol=1e-5)
  assert found.oracle is None and "oracle" not in found.summary()


@pytest.mark.parametrize(
  "measure",
  [metrics.deletion, metrics.insertion, metrics.comprehensiveness, metrics.sufficiency],
)
def test_perturbation_oracle_and_baselines(measure):
  model, variables, weights = linear()
  images, targets = photos(40, 8), np.arange(40) % 3
  how = Perturbation(block=2, fill=0.0, output="logit", batch_size=16)
  true = effects(weights, images, targets, 0.0)
  sign = 1 if measure in (metrics.insertion, metrics.comprehensiveness) else -1
  run = functools.partial(measure, model, variables, images, targets)
  best, worst = run(true, how), run(-true, how)
  np.testing.assert_allclose(best.scores, best.oracle_scores, rtol=1e-5, atol=1e-5)
  assert best.higher_is_better is (sign > 0)
  assert (sign * (best.scores - best.random_scores) > -1e-4).all()
  assert (sign * (best.scores - worst.scores) > 0).all()
  for blind in (run(noise(40, 8, 8), how), run(np.ones((40, 8, 8)), how)):
    difference = blind.scores - best.random_scores
    assert abs(difference.mean()) < 4 * difference.std() / 40**0.5
    assert difference.std() > 0


def test_perturbation_does_not_depend_on_batches():
  model, variables, _ = linear(16, SIX)
  images = photos(5)
  targets = metrics.logits_of(model, variables, images, batch_size=2).argmax(1)
  run = functools.partial(metrics.insertion, model, variables, images, targets)

  def maps(x, t):
    return x[..., 0] - t[:, None, None] / 4

  one, other = (run(maps, Perturbation(block=8, batch_size=size)) for size in (5, 2))
  np.testing.assert_allclose(one.curves, other.curves, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(one.random_curves, other.random_curves, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(one.oracle_curves, other.oracle_curves, rtol=1e-5, atol=1e-6)
  softmax = jax.nn.softmax(metrics.logits_of(model, variables, images), axis=1)
  np.testing.assert_allclose(one.curves[:, -1], softmax[np.arange(5), targets], rtol=1e-5)


def test_sigmoid_and_sides_that_blocks_do_not_divide():
  model, variables, weights = linear(5)
  images, targets = photos(2, 8)[:, :5, :5], np.array([0, 1])
  how = Perturbation(block=2, fill=0.0, output="sigmoid")
  maps = np.zeros((2, 5, 5))
  maps[:, 4, 4] = 1  # a block of one pixel: the mean over it is the largest
  found = metrics.deletion(model, variables, images, targets, maps, how, fractions=(0, 0.1))
  lost = effects(weights, images, targets, 0.0)
  logits = lost.sum((1, 2))
  expected = 1 / (1 + np.exp(-np.stack([logits, logits - lost[:, 4, 4]], 1)))
  np.testing.assert_allclose(found.curves, expected, rtol=1e-4)


def test_perturbation_counts_images_without_confidence():
  model, variables, _ = linear(4)
  images, maps = photos(6, 4), noise(6, 4, 4)
  logits = metrics.logits_of(model, variables, images)
  targets = logits.argmax(1)
  best = np.sort(logits.max(1))
  run = functools.partial(metrics.deletion, model, variables, images, targets, maps)
  found = run(Perturbation(block=2, output="logit", confidence=float(best[:2].mean())))
  assert len(found.scores) == len(found.curves) == 5 and list(found.excluded.values()) == [1]
  refused(
    lambda: run(Perturbation(block=2, confidence=1.0)), "None of 6", "6 with an output of 1 or less"
  )


def test_bad_perturbations_are_refused():
  model, variables, _ = linear(4)
  images, maps = photos(2, 4), noise(2, 4, 4)
  run = functools.partial(metrics.deletion, model, variables)
  refused(lambda: Perturbation(block=0), "block=0")
  refused(lambda: Perturbation(batch_size=0), "batch_size=0")
  refused(lambda: Perturbation(fill="black"), "black")
  refused(lambda: Perturbation(output="probability"), "probability")
  refused(lambda: run(images, [0, 1], maps, Perturbation(fill=1.5)), "fill=1.5")
  refused(lambda: run(images, [0, 3], maps), "0 to 3", "0 to 2")
  refused(lambda: run(images, [0.0, 1.0], maps), "float64")
  refused(lambda: run(images, [0, 1], maps, Perturbation(block=4)), "block=4", "at most 2")
  refused(lambda: run(images * 255, [0, 1], maps), "[0, 1]")
  refused(lambda: run(images, [0, 1], maps[:, :3]), "(2, 3, 4)", "(2, 4, 4)")
  refused(lambda: run(images, [0, 1], maps * np.inf), "NaN or infinite")
  refused(lambda: run(images, [0, 1], maps, fractions=(0.5, 0.1)), "rising")
  refused(lambda: run(images, [0, 1], maps, fractions=(0, 1.1)), "1.1")


# How alike maps are.


def test_similarities_by_hand():
  first = np.array([[[1.0, 2], [3, 4]]])
  second = np.array([[[10.0, 20], [40, 30]]])  # ranks 1 2 4 3: 1 - 6 * 2 / (4 * 15)
  np.testing.assert_allclose(metrics.similarity("spearman", first, second), [0.8])
  np.testing.assert_allclose(
    metrics.similarity("cosine", first, second), [290 / np.sqrt(30 * 3000)]
  )
  # One window: means .625 and .625, as 1..4 / 4 and 1, 2, 4, 3 / 4.
  variance, covariance, mean = 5 / 48, 4 / 48, 0.625
  c1, c2 = 0.0004, 0.0036
  ssim = (2 * mean**2 + c1) * (2 * covariance + c2) / (2 * mean**2 + c1) / (2 * variance + c2)
  np.testing.assert_allclose(metrics.similarity("ssim", first, second), [ssim])


@pytest.mark.parametrize("name", ["spearman", "cosine", "ssim"])
def test_similarities_at_their_ends(name):
  maps = noise(30, 12, 14)
  np.testing.assert_allclose(metrics.similarity(name, maps, maps), 1)
  np.testing.assert_allclose(metrics.similarity(name, maps, 7e-30 * maps), 1, rtol=1e-5)
  if name != "ssim":  # whose two factors are both negative here
    np.testing.assert_allclose(metrics.similarity(name, maps, -maps), -1)
  assert abs(metrics.similarity(name, maps, noise(30, 12, 14, seed=1)).mean()) < 0.03
  assert np.isnan(metrics.similarity(name, maps, 0 * maps)).all()


def test_ssim_looks_at_windows_of_seven_pixels():
  first, second = noise(2, 9, 8, seed=2), noise(2, 9, 8, seed=3)
  first, second = (m / np.abs(m).max((1, 2), keepdims=True) for m in (first, second))
  values = []
  for i, j in np.ndindex(3, 2):
    x, y = (m[0, i : i + 7, j : j + 7].ravel() for m in (first, second))
    top = (2 * x.mean() * y.mean() + 0.0004) * (2 * np.cov(x, y)[0, 1] + 0.0036)
    low = (x.mean() ** 2 + y.mean() ** 2 + 0.0004) * (x.var(ddof=1) + y.var(ddof=1) + 0.0036)
    values.append(top / low)
  found = metrics.similarity("ssim", first, second)[0]
  np.testing.assert_allclose(found, np.mean(values), rtol=1e-5)


# Randomisation.


@pytest.fixture(scope="module")
def network():
  model = tiny("resnet_tiny", BcosOps())
  return model, filled(model), photos(4)


def test_layers_go_from_the_logits_down(network):
  model, variables, images = network
  layers = metrics.layers_of(model, images)
  assert layers[0] == "head" and layers[-1] == "conv1" and layers[-2] == "bn1"
  assert set(layers) == set(variables["params"])
  vit = tiny("vit_test", BcosOps())
  names = metrics.layers_of(vit, images)
  assert set(names) == set(filled(vit)["params"]) and len(set(names)) == len(names)


def test_randomised_layers_are_shuffled_and_others_untouched(network):
  _, variables, _ = network
  changed = metrics.randomized(variables, "conv1")
  before, after = (v["params"]["conv1"]["kernel"] for v in (variables, changed))
  assert not np.array_equal(before, after)
  np.testing.assert_array_equal(np.sort(before.ravel()), np.sort(after.ravel()))
  same = jax.tree.map(np.array_equal, variables, changed)
  assert sum(not leaf for leaf in jax.tree.leaves(same)) == 1
  fresh = jax.tree.map(lambda leaf: leaf + 1, variables)
  taken = metrics.randomized(variables, "bn1", fresh=fresh)
  assert np.array_equal(taken["batch_stats"]["bn1"]["var"], fresh["batch_stats"]["bn1"]["var"])
  assert np.array_equal(taken["params"]["head"]["kernel"], variables["params"]["head"]["kernel"])
  refused(lambda: metrics.randomized(variables, "conv"), "conv")


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_parameter_randomisation_by_hand(mode):
  """Two factors: a map a * b, where randomising turns a into fresh a, and b into fresh b."""
  base, fresh = noise(2, 3, 6, 6), noise(2, 3, 6, 6, seed=5)
  variables, other = ({"params": {"a": v[0], "b": v[1]}} for v in (base, fresh))
  images, targets = photos(3, 8)[:, :6, :6], np.zeros(3, int)

  def explainer_of(v):
    return lambda x, t: v["params"]["a"] * v["params"]["b"]

  found = metrics.parameter_randomization(
    explainer_of, variables, images, targets, ("b", "a"), mode=mode, fresh=other
  )
  last = fresh[0] * (fresh[1] if mode == "cascading" else base[1])
  for column, maps in zip(found.similarities.T, (base[0] * fresh[1], last), strict=True):
    expected = metrics.similarity("spearman", base[0] * base[1], maps)
    np.testing.assert_allclose(column, expected)
  np.testing.assert_allclose(found.scores, found.similarities.mean(1))
  assert list(found.by_layer()) == ["b", "a"] and found.oracle == 0


def test_parameter_randomisation_tells_dependent_from_independent_maps(network):
  model, variables, images = network
  targets = np.arange(4)
  run = functools.partial(
    metrics.parameter_randomization,
    variables=variables,
    images=images,
    targets=targets,
    layers=metrics.layers_of(model, images)[-2:],
    similarity="cosine",
  )
  blind = run(lambda v: lambda x, t: x[..., 0])
  np.testing.assert_allclose(blind.scores, 1)
  found = run(functools.partial(metrics.attribute_with, model))
  assert (found.scores < 0.9).all() and abs(found.random) < 0.2
  refused(lambda: run(None, mode="cascade"), "cascade")
  refused(lambda: run(None, layers=()), "No layers")
  refused(lambda: run(lambda v: lambda x, t: x[..., 0], similarity="pearson"), "pearson")
  flat = run(lambda v: lambda x, t: np.where(t[:, None, None] < 3, x[..., 0], 0))
  assert flat.images.tolist() == [0, 1, 2] and list(flat.excluded.values()) == [1]
  refused(lambda: run(lambda v: lambda x, t: 0 * x[..., 0]), "None of 4")


def test_label_and_class_randomisation():
  images, targets = photos(30, 12), np.arange(30) % 3
  maps, other = noise(30, 12, 12), noise(30, 12, 12, seed=1)
  np.testing.assert_allclose(metrics.label_randomization(maps, maps).scores, 1)
  unrelated = metrics.label_randomization(maps, other)
  np.testing.assert_allclose(unrelated.scores, metrics.similarity("spearman", maps, other))
  for blind in (unrelated.scores, unrelated.random_scores):
    assert abs(blind.mean()) < 4 / 12 / 30**0.5
  flat = maps.copy()
  flat[0] = 1
  assert metrics.label_randomization(maps, flat).images.tolist() == list(range(1, 30))
  refused(lambda: metrics.label_randomization(maps, other[:, :3]), "(30, 12, 12)", "(30, 3, 12)")
  same = metrics.class_randomization(lambda x, t: x[..., 0], images, targets, 3)
  np.testing.assert_allclose(same.scores, 1)
  by_class = metrics.class_randomization(lambda x, t: other[t], images, targets, 3)
  assert by_class.scores.max() < 0.5  # never the same class
  refused(lambda: metrics.class_randomization(None, images, targets, 1), "num_classes - 1=0")


# Stability and completeness.


def test_stability_by_hand_and_at_its_ends():
  images, targets = np.full((3, 8, 8, 3), 0.5, np.float32), np.zeros(3, int)
  still = metrics.stability(lambda x, t: np.ones(x.shape[:3]), images, targets, samples=3)
  assert still.scores.tolist() == [0, 0, 0] and still.changes.shape == (3, 3)
  assert 1.2 < still.random < 1.8
  found = metrics.stability(lambda x, t: x[..., 0], images, targets, noise=0.1, samples=4)
  # A map .5 that changes by uniform noise of at most .1, hence with a deviation of .1 / sqrt(3).
  # The length over 64 pixels is drawn: its own relative deviation is sqrt(.8 / 256) = .056,
  # of which the tolerance is 4.5, so that no draw leaves it by chance.
  np.testing.assert_allclose(found.changes, 0.2 / 3**0.5, rtol=0.25)
  np.testing.assert_array_equal(found.scores, found.changes.max(1))
  again = metrics.stability(lambda x, t: x[..., 0], images, targets, noise=0.1, samples=4)
  np.testing.assert_array_equal(found.changes, again.changes)


def test_stability_keeps_images_valid_and_counts_zero_maps():
  images, targets = np.stack([np.zeros((4, 4, 3)), np.ones((4, 4, 3))]), np.zeros(2, int)

  def explainer(x, t):
    assert x.min() >= 0 and x.max() <= 1
    return x[..., 0]

  found = metrics.stability(explainer, images, targets, noise=0.3)
  assert found.images.tolist() == [1] and found.excluded == {"a map that is zero": 1}
  refused(lambda: metrics.stability(explainer, images, targets, noise=0), "noise=0")
  refused(lambda: metrics.stability(explainer, images, targets, samples=0), "samples=0")
  refused(lambda: metrics.stability(lambda x, t: x[..., 0] * np.nan, images, targets), "NaN")


def test_completeness_of_given_maps_by_hand():
  model, variables, weights = linear(4)
  images, targets = photos(2, 4), np.array([0, 2])
  maps = effects(weights, images, targets, 0.0)
  exact = metrics.completeness(model, variables, images, targets, maps)
  assert exact.scores.max() < 1e-5 < exact.random
  half = metrics.completeness(model, variables, images, targets, maps / 2)
  scale = np.maximum(np.abs(maps.sum((1, 2))), np.abs(maps).sum((1, 2)) / 2)
  np.testing.assert_allclose(half.scores, np.abs(maps.sum((1, 2))) / 2 / scale, rtol=1e-4)
  summary = half.summary()
  assert summary["|unexplained|"] == pytest.approx(summary["|output|"] / 2, rel=1e-4)


def test_completeness_of_a_network_names_its_residuals():
  model = tiny("resnet_tiny", BcosOps(use_bias=True))
  variables, images = filled(model), photos(5)
  found = metrics.completeness(model, variables, images, np.arange(5), batch_size=2)
  assert found.scores.max() < 1e-4 < found.random and len(found.scores) == 5
  assert np.abs(found.residuals["bias"]).max() > 1e-3
  ex = bcos_jax.explain(model, variables, images, target=np.arange(5))
  np.testing.assert_allclose(found.values, ex.value, rtol=1e-4)
  np.testing.assert_allclose(found.residuals["bias"], ex.residuals["bias"], rtol=5e-5, atol=1e-6)
  given = metrics.completeness(model, variables, images, np.arange(5), ex.contributions)
  np.testing.assert_allclose(
    given.residuals["unexplained"], ex.residual, rtol=1e-5, atol=1e-6 * np.abs(ex.value).max()
  )
  refused(lambda: metrics.completeness(model, variables, images, [0, 1]), "(2,)", "(5,)")
  refused(lambda: metrics.completeness(model, variables, images, [9] * 5), "9")

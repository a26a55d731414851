"""The grid pointing game against golden numbers, hand calculation and general properties."""

import functools
import json
import pathlib

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import attribution, metrics
from bcos_jax.errors import InputError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = [name for name in json.loads((GOLDEN / "layers.json").read_text()) if "gridpg" in name]


def confident(labels, num_classes, seed=0):
  """Logits that get every label right, with distinct confidence."""
  random = np.random.RandomState(seed)
  logits = -1 - random.rand(len(labels), num_classes)
  logits[np.arange(len(labels)), labels] = 1 + random.rand(len(labels))
  return logits.astype(np.float32)


def dataset(classes=10, per_class=8, size=6, seed=0):
  labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(classes), per_class))
  images = np.random.RandomState(seed + 1).rand(len(labels), size, size, 3).astype(np.float32)
  return images, labels, confident(labels, classes, seed + 2)


def cell_maps(batch, grid, size):
  """[B, n, H, W]: one in the cell of each target, zero elsewhere."""
  cells = np.eye(grid * grid)[:, :, None, None, None] * np.ones((1, 1, size, size, 1))
  return np.tile(metrics.make_grid(cells, grid)[None, ..., 0], (batch, 1, 1, 1))


def play(attribute, grid=2, **options):
  images, labels, logits = dataset()
  return metrics.grid_pointing_game(
    attribute, logits, images, labels, grid=grid, **{"smooth": 0, "num_grids": 6, **options}
  )


class Small(nn.Module):
  """Two layers: the game sees a network through `ops` and its outputs only."""

  ops: bcos_jax.Ops
  num_classes: int = 10

  @nn.compact
  def __call__(self, x, train=False):
    x = self.ops.act(self.ops.conv(8, 3, name="conv")(x), "relu")
    return self.ops.readout(self.ops.classifier(self.num_classes, name="head"), x)


@pytest.fixture(scope="module")
def network():
  model = Small(bcos_jax.BcosOps())
  images = np.random.RandomState(0).rand(3, 16, 16, 3).astype(np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), model.ops.encoding(images))
  random = np.random.RandomState(1)
  variables = jax.tree.map(lambda leaf: random.randn(*leaf.shape).astype(leaf.dtype), shapes)
  return model, variables, images


@pytest.mark.parametrize("case", CASES)
def test_shares_equal_the_published_code(case):
  arrays = np.load(GOLDEN / "layers.npz")
  options = json.loads((GOLDEN / "layers.json").read_text())[case]
  maps = arrays[f"{case}/attribution"][:, 0]
  share = np.asarray(metrics.grid_share(maps, options["grid"], options["smooth"]))
  np.testing.assert_allclose(share, arrays[f"{case}/share"], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(np.diag(share), arrays[f"{case}/score"], rtol=1e-5, atol=1e-7)


def test_shares_by_hand():
  attribution = np.array([[[1.0, 0, 2, 2], [0, 0, 0, 0], [-5, 3, 0, -1], [0, 0, 0, 0]]])
  # Column by column: top left, bottom left, top right, bottom right.
  np.testing.assert_allclose(metrics.grid_share(attribution, 2)[0], [1 / 8, 3 / 8, 4 / 8, 0])


def test_smoothing_counts_the_zeros_outside_and_comes_before_the_positive_part():
  attribution = np.zeros((1, 6, 6))
  attribution[0, 0, 2] = 9.0  # one column left of the border between the cells
  # Each of the 2 x 3 windows that see it gets 1: four in the left column of cells, two right.
  np.testing.assert_allclose(
    metrics.grid_share(attribution, 2, 3)[0], [4 / 6, 0, 2 / 6, 0], rtol=1e-6
  )
  attribution[0, 1, 2] = -9.0  # cancels only if negative values still count when averaging
  assert metrics.grid_share(attribution, 2, 3).sum() == 0


def test_tiny_attributions_keep_their_share():
  attribution = np.full((1, 4, 4), 1e-30, np.float32)
  np.testing.assert_allclose(metrics.grid_share(attribution, 2)[0], 0.25)


def test_tiles_go_column_by_column():
  images = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 3, 1), np.float32)
  grid = metrics.make_grid(images, 3)[..., 0]
  assert grid.shape == (6, 9)
  np.testing.assert_array_equal(grid[::2, ::3], [[0, 3, 6], [1, 4, 7], [2, 5, 8]])
  np.testing.assert_array_equal(metrics.make_grid(images[None].repeat(2, 0), 3)[1, ..., 0], grid)


def test_tiles_keep_their_orientation():
  images = np.random.RandomState(0).rand(4, 5, 7, 3)
  np.testing.assert_array_equal(metrics.make_grid(images, 2)[5:, :7], images[1])


def test_rescaled_grids_have_the_size_of_one_picture():
  images = np.random.RandomState(0).rand(4, 8, 8, 3).astype(np.float32)
  grid = metrics.make_grid(images, 2, rescale=True)
  assert grid.shape == (8, 8, 3) and grid.min() >= 0 and grid.max() <= 1
  # Column-major as well: the second picture is below the first.
  np.testing.assert_allclose(grid[4:, :4].mean(), images[1].mean(), atol=0.02)


def test_selection_by_hand():
  logits = np.array([[0.5, -1], [2, 0], [0.5, 0], [1, 3], [-2, -1], [9, 1]], np.float32)
  selection = metrics.select(logits, np.array([0, 0, 0, 1, 1, 1]))
  # 4 is correct but below one half; 5 is wrong; 0 and 2 tie and keep their order.
  assert {k: v.tolist() for k, v in selection.images.items()} == {0: [1, 0, 2], 1: [3]}
  assert (selection.num_images, selection.num_correct, selection.num_eligible) == (6, 5, 4)
  assert metrics.select(logits, np.array([0, 0, 0, 1, 1, 1]), 0).num_eligible == 5
  assert metrics.select(logits, np.array([0, 0, 0, 1, 1, 1]), 0.9).num_eligible == 1  # 3 > log 9


def published_grids(images_by_class, cells, count):
  """The published sampling, step by step, with NumPy's global generator."""
  np.random.seed(42)
  classes = np.array(sorted(images_by_class))
  used = dict.fromkeys(classes.tolist(), 0)
  mask = np.ones(len(classes), bool)
  order = []
  while mask.sum() > cells:
    for label in np.random.choice(classes[mask], size=cells, replace=False):
      order.append((images_by_class[label][used[label]], int(label)))
      used[label] += 1
      mask[classes == label] = used[label] < len(images_by_class[label])
  grids, offset = [], 0
  while len(grids) < count:
    step, images, labels = 0, [], []
    while len(images) < cells:
      if offset + step >= len(order):
        return order, grids
      image, label = order[offset + step]
      step += 1
      if label not in labels:
        images.append(image)
        labels.append(label)
    grids.append((images, labels))
    offset = step + offset + 1
  return order, grids


@pytest.mark.parametrize(("grid", "classes"), [(2, 10), (3, 10), (3, 30), (2, 5)])
def test_sampling_equals_the_published_order(grid, classes):
  _, labels, logits = dataset(classes, per_class=11)
  selection = metrics.select(logits, labels)
  state = np.random.get_state()
  _, expected = published_grids(selection.images, grid**2, 500)
  np.random.set_state(state)
  indices, targets = metrics.sample_grids(selection, grid, 500)
  assert len(expected) > 5
  np.testing.assert_array_equal(indices, [images for images, _ in expected])
  np.testing.assert_array_equal(targets, [labels for _, labels in expected])
  np.testing.assert_array_equal(targets, labels[indices])
  assert all(len(set(row)) == grid**2 for row in targets.tolist())
  assert len(np.unique(indices)) == indices.size  # no picture twice


def test_the_published_loader_loses_one_picture_after_each_grid():
  _, labels, logits = dataset(classes=20, per_class=6)
  selection = metrics.select(logits, labels)
  order, _ = published_grids(selection.images, 4, 1)
  indices, _ = metrics.sample_grids(selection, 2, 2)
  assert indices[0].tolist() == [image for image, _ in order[:4]]
  assert order[4][0] not in metrics.sample_grids(selection, 2, 500)[0]
  complete, _ = metrics.sample_grids(selection, 2, 2, skip=0)
  assert complete[1].tolist() == [image for image, _ in order[4:8]]


@pytest.mark.parametrize("grid", [2, 3])
def test_an_oracle_scores_one_and_a_blind_map_its_share(grid):
  oracle = play(lambda grids, targets: cell_maps(len(grids), grid, 6), grid)
  assert oracle.mean == oracle.oracle == 1.0
  assert oracle.percentiles == {25: 1, 50: 1, 75: 1, 100: 1}
  uniform = play(lambda grids, targets: np.ones((*targets.shape, *grids.shape[1:3])), grid)
  np.testing.assert_allclose(uniform.scores, uniform.uniform, rtol=1e-6)
  assert uniform.uniform == 1 / grid**2


def test_random_maps_score_about_the_uniform_baseline():
  result = play(
    lambda grids, targets: np.ones((*targets.shape, *grids.shape[1:3])), smooth=3, num_grids=100
  )
  error = result.random_scores.std() / result.random_scores.size**0.5
  assert 0 < error < 0.05
  assert abs(result.random - result.uniform) < 4 * error


def test_the_wrong_cells_score_zero_and_are_not_counted_as_empty():
  shifted = play(lambda grids, targets: np.roll(cell_maps(len(grids), 2, 6), 1, axis=1))
  assert shifted.mean == 0 and shifted.num_empty == 0


def test_maps_without_positive_part_are_counted():
  result = play(lambda grids, targets: -cell_maps(len(grids), 2, 6))
  assert result.mean == 0 and result.num_empty == result.scores.size


def test_counts_tell_what_was_used():
  images, labels, logits = dataset()
  logits[:3] = -logits[:3]  # wrong
  logits[3] -= 10  # right, but not confident
  result = metrics.grid_pointing_game(
    lambda grids, targets: cell_maps(len(grids), 3, 6),
    logits,
    images,
    labels,
    num_grids=250,
    smooth=0,
    batch_size=5,
  )
  summary = result.summary()
  assert (summary["num_images"], summary["num_correct"], summary["num_eligible"]) == (80, 77, 76)
  assert summary["requested"] == 250 and 0 < summary["num_grids"] == len(result.scores) < 10
  assert summary["mean"] == 1 and summary["num_empty"] == 0


def test_scores_do_not_depend_on_the_batches_or_on_how_logits_come():
  images, labels, logits = dataset()

  def attribute(grids, targets):  # depends on the pictures and on the target
    return grids[:, None, :, :, 0] - (targets[..., None, None] / 10)

  run = functools.partial(
    metrics.grid_pointing_game,
    attribute,
    images=images,
    labels=labels,
    grid=2,
    num_grids=7,
    smooth=3,
  )
  one = run(logits, batch_size=7)
  other = run(
    lambda batch: logits[[(images == x).all((1, 2, 3)).argmax() for x in batch]],
    batch_size=3,
    progress=list,
  )
  np.testing.assert_allclose(other.scores, one.scores, rtol=1e-6)
  np.testing.assert_allclose(other.random_scores, one.random_scores, rtol=1e-6)
  assert other.num_empty == one.num_empty
  assert one.scores.std() > 0.01


def test_contributions_of_a_network_are_those_of_explain(network):
  model, variables, images = network
  targets = np.array([[0, 3], [9, 1], [4, 4]])
  maps = metrics.attribute_with(model, variables)(images, targets)
  for column in range(2):
    single = bcos_jax.explain(model, variables, images, target=targets[:, column])
    np.testing.assert_allclose(maps[:, column], single.contributions, rtol=1e-4, atol=1e-7)


def test_input_times_gradient_is_the_ordinary_gradient(network):
  model, variables, images = network
  targets = np.array([[0, 3], [9, 1], [4, 4]])
  maps = attribution.attribute_with("input_x_gradient", model, variables)(images, targets)
  assert maps.shape == (3, 2, 16, 16)
  gradient = jax.jit(jax.grad(lambda x, target: model.apply(variables, x[None])[0, target]))
  for image, line, row in zip(images, targets, maps, strict=True):
    x = model.ops.encoding(image)
    for target, found in zip(line, row, strict=True):
      np.testing.assert_allclose(found, jnp.sum(x * gradient(x, target), -1), rtol=1e-4, atol=1e-6)
  assert not np.allclose(maps, metrics.attribute_with(model, variables)(images, targets), rtol=0.1)


def test_a_game_with_a_real_network(network):
  model, variables, _ = network
  images, labels, logits = dataset(size=8)
  result = metrics.grid_pointing_game(
    metrics.attribute_with(model, variables),
    logits,
    images,
    labels,
    grid=2,
    num_grids=3,
    smooth=3,
    batch_size=2,
  )
  assert result.scores.shape == (3, 4)
  assert 0 < result.mean < 1
  selection = metrics.select(logits, labels)
  indices, targets = metrics.sample_grids(selection, 2, 1)
  ex = bcos_jax.explain(model, variables, metrics.make_grid(images[indices], 2), target=targets)
  share = metrics.grid_share(ex.contributions[0], 2, 3)
  np.testing.assert_allclose(result.scores[0], np.diag(share), rtol=1e-5, atol=1e-6)


def test_precomputed_maps_and_explainers_score_as_attributes_do():
  images, labels, logits = dataset()

  def explainer(pictures, targets):
    return pictures[..., 0] - targets[:, None, None] / 10

  one = play(metrics.for_grids(explainer), batch_size=4)
  indices, classes = metrics.sample_grids(metrics.select(logits, labels), 2, 6)
  grids = metrics.make_grid(images[indices], 2)
  maps = np.stack(
    [
      [explainer(grid[None], label)[0] for label in row.reshape(-1, 1)]
      for grid, row in zip(grids, classes, strict=True)
    ]
  )
  np.testing.assert_allclose(play(maps, batch_size=4).scores, one.scores, rtol=1e-5)
  assert one.scores.std() > 0.01
  refused(lambda: play(maps[1:]), "5 grids", "6 grids")
  refused(lambda: play(metrics.for_grids(lambda x, t: x)), "(32, 12, 12, 3)", "(32, 12, 12)")


def test_windows_by_hand():
  grids = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
  seen = []

  def attribute(windows, targets):
    seen.append(windows[0, ..., 0])
    return (windows[..., 0] * windows[..., :1, :1, 0])[:, None].repeat(targets.shape[1], 1)

  targets = np.zeros((1, 3), int)
  mean = metrics.windowed(attribute, 2)(grids, targets)
  assert len(seen) == 9 and mean.shape == (1, 3, 4, 4)
  # Pixel 5 is in the windows that begin with 0, 1, 4 and 5.
  np.testing.assert_allclose(mean[0, :, 1, 1], 5 * (0 + 1 + 4 + 5) / 4)
  np.testing.assert_allclose(mean[0, :, 3, 3], 15 * 10)
  seen.clear()
  total = metrics.strided(attribute, 2, 1, color=-1.0)(grids, targets)
  assert len(seen) == 25
  np.testing.assert_array_equal(seen[0], [[-1, -1], [-1, 0]])
  np.testing.assert_allclose(total[0, :, 1, 1], 5 * (0 + 1 + 4 + 5))
  np.testing.assert_allclose(total[0, :, 0, 1], 1 * (-1 - 1 + 0 + 1))


@pytest.mark.parametrize(
  "through", [lambda a: metrics.windowed(a, 6), lambda a: metrics.strided(a, 6, 3)]
)
def test_windows_leave_the_oracle_at_one_and_flat_maps_at_their_share(through):
  """Maps of windows know only pixels: a picture is bright where the target's class is shown."""
  images, labels, logits = dataset()
  images = np.ones_like(images) * labels[:, None, None, None] / 10

  def oracle(windows, targets):
    return np.isclose(windows[:, None, ..., 0], targets[..., None, None] / 10).astype(np.float32)

  run = functools.partial(
    metrics.grid_pointing_game,
    logits=logits,
    images=images,
    labels=labels + 0,
    grid=2,
    smooth=0,
    num_grids=4,
    sampling="random",
  )
  keep = labels != 0  # class 0 is as dark as the outside
  run = functools.partial(run, logits=logits[keep], images=images[keep], labels=labels[keep])
  result = run(through(oracle))
  assert result.mean == 1.0 and result.num_grids == 4
  flat = run(through(lambda w, t: np.ones((*t.shape, *w.shape[1:3]), np.float32)))
  np.testing.assert_allclose(flat.scores, 0.25, rtol=1e-5)


def test_windows_that_do_not_cover_are_refused():
  grids, targets = np.zeros((1, 12, 12, 3)), np.zeros((1, 4), int)
  refused(lambda: metrics.windowed(None, 6, 4)(grids, targets), "stride 4", "12 x 12")
  refused(lambda: metrics.windowed(None, 13)(grids, targets), "13 pixels")
  refused(lambda: metrics.strided(None, 6, 7), "stride=7")
  refused(lambda: metrics.windowed(lambda w, t: w, 6)(grids, targets), "(1, 6, 6, 3)")


def test_random_grids_have_distinct_classes_and_take_as_many_classes_as_cells():
  _, labels, logits = dataset(classes=4, per_class=3)
  selection = metrics.select(logits, labels)
  indices, classes = metrics.random_grids(selection, 2, 50)
  assert all(len(set(row)) == 4 for row in classes.tolist())
  np.testing.assert_array_equal(labels[indices], classes)
  assert len(np.unique(indices)) == 12 and len(np.unique(indices[:, 0])) > 4
  again, _ = metrics.random_grids(selection, 2, 50)
  np.testing.assert_array_equal(indices, again)
  refused(lambda: metrics.random_grids(selection, 3, 1), "4 classes", "at least 9")


def test_selection_by_softmax():
  logits = np.array([[0.0, 3.0, 0.0], [0.0, 2.0, 0.0], [-9.0, -5.0, -9.0]])
  labels = np.ones(3, int)  # softmax .909, .787 and .965
  found = metrics.select(logits, labels, 0.9, "softmax").images[1]
  assert found.tolist() == [2, 0]  # by softmax, the last is the most confident
  refused(lambda: metrics.select(logits, labels, 0.5, "max"), "max")
  refused(lambda: play(None, sampling="all"), "all")


def refused(call, *words):
  with pytest.raises(InputError) as caught:
    call()
  message = str(caught.value)
  assert all(word in message for word in words), message
  assert caught.value.fix


def test_too_few_classes_say_how_many_there_are():
  images, labels, logits = dataset(classes=9, per_class=2)
  refused(
    lambda: metrics.grid_pointing_game(None, logits, images, labels, grid=3),
    "18 images",
    "18 also",
    "9 classes",
    "more than 9",
  )
  refused(
    lambda: metrics.grid_pointing_game(None, logits - 50, images, labels, grid=2),
    "18 are classified correctly",
    "0 also",
    "0 classes",
  )


@pytest.mark.parametrize(
  ("maps", "words"),
  [
    (lambda grids, targets: cell_maps(len(grids), 2, 6) * np.nan, ("NaN",)),
    (lambda grids, targets: cell_maps(len(grids), 2, 5), ("(8, 4, 10, 10)", "(8, 4, 12, 12)")),
    (lambda grids, targets: cell_maps(len(grids), 2, 6)[:, 0], ("(8, 12, 12)",)),
  ],
)
def test_useless_maps_are_refused(maps, words):
  refused(lambda: play(maps), *words)


def test_bad_arguments_are_refused():
  images, labels, logits = dataset()
  selection = metrics.select(logits, labels)
  refused(lambda: metrics.select(logits, labels + 1), "1 to 10", "0 to 9")
  refused(lambda: metrics.select(logits, labels[1:]), "(80, 10)", "(79,)")
  refused(lambda: metrics.select(logits, labels / 2), "float64")
  refused(lambda: metrics.select(logits * np.nan, labels), "NaN")
  refused(lambda: metrics.select(logits, labels, 1.0), "confidence=1.0")
  refused(lambda: metrics.sample_grids(selection, 1, 5), "grid=1")
  refused(lambda: metrics.make_grid(images[:3], 2), "3 pictures")
  refused(lambda: metrics.grid_share(np.zeros((2, 9, 8)), 2), "9 x 8")
  refused(lambda: metrics.grid_share(np.zeros((2, 8, 8)), 2, 4), "smooth=4")
  refused(lambda: play(None, smooth=4), "smooth=4")
  refused(lambda: play(None, batch_size=0), "batch_size=0")
  refused(lambda: metrics.grid_pointing_game(None, logits, images[1:], labels), "79 images")

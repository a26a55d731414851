"""Label-free objectives: against formulas in NumPy, and in training runs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps
from bcos_jax.configs import common
from bcos_jax.train import config as configs
from bcos_jax.train import loop, objectives, optimizer, sharding, start, state, step
from bcos_jax.train.objectives import alignment, losses

from ..common import applied, filled, flat, photos, rel, suggestion, tiny


@functools.cache
def pair(name: str = "dinov3_test", **fields):
  """A conventional network of features, and its B-cos twin, with their variables."""
  model = tiny(name, StandardOps(), **{"num_classes": 0, "depth": 3} | fields)
  variables = filled(model)
  return (model, variables), bcos_jax.bcosify(model, variables)


def cosines(first, second) -> np.ndarray:
  first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
  norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
  return (first * second).sum(-1) / norms


def features(model, variables, images):
  return applied(model)(variables, images)


@functools.partial(jax.jit, static_argnums=0)
def blocks(model, variables, images):
  """What every block returns, in order, by capturing everything."""
  _, seen = model.apply(
    variables,
    model.ops.encoding(images),
    capture_intermediates=True,
    mutable=["intermediates"],
  )
  return [seen["intermediates"][f"encoder_{i}"]["__call__"][0] for i in range(model.depth)]


def test_alignment_is_the_sum_of_the_published_terms():
  """Two of three blocks, the registers left out, and the pooled features."""
  (teacher, frozen), (student, variables) = pair()
  images = photos(2)
  goal = objectives.Alignment(
    student, objectives.Teacher(teacher), (1, 3), token_weight=0.5, pooled_weight=2.0
  )
  found = jax.jit(goal.evaluate)(variables, {"image": images}, frozen)
  own, other = blocks(student, variables, images), blocks(teacher, frozen, images)
  tokens = {}
  for depth in (1, 3):
    keep = np.r_[0, 1 + teacher.registers : own[0].shape[1]]
    tokens[depth] = cosines(own[depth - 1][:, keep], other[depth - 1][:, keep]).mean(-1)
    np.testing.assert_allclose(found[f"similarity_{depth}"], tokens[depth], rtol=1e-5)
  pooled = cosines(features(student, variables, images), features(teacher, frozen, images))
  np.testing.assert_allclose(found["similarity"], pooled, rtol=1e-5)
  loss = 2.0 * (1 - pooled) + 0.5 * sum(1 - tokens[depth] for depth in (1, 3))
  np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
  (teacher, frozen), _ = pair()
  goal = objectives.Alignment(teacher, objectives.Teacher(teacher), (1, 2, 3), norm_weight=1.0)
  params = frozen["params"]

  def loss(params):
    return goal.train(params, {}, {"image": photos(2)}, frozen, jax.random.key(0))[0]

  value, gradient = jax.jit(jax.value_and_grad(loss))(params)
  assert abs(value) < 1e-5
  assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-4


def test_norms_of_maps_are_kept():
  own = {"a": {"kernel": np.full((2, 2), 2.0)}, "b": {"kernel": np.ones((3,))}}
  other = {"a": {"kernel": np.full((2, 2), 0.5)}, "b": {"kernel": np.ones((4,))}}
  assert alignment.norm_distance(own, other) == pytest.approx((4.0 - 1.0) ** 2)
  zeros = jax.tree.map(jnp.zeros_like, own)
  gradient = jax.grad(lambda p: alignment.norm_distance(p, other))(zeros)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  ("picker", "depth", "blocks"),
  [
    ("published", 12, (3, 7, 11)),
    ("published", 24, (7, 15, 23)),
    ("published", 27, (8, 17, 26)),
    ("corrected", 12, (4, 8, 12)),
    ("corrected", 24, (8, 16, 24)),
    ("corrected", 2, (1, 2)),
    ("2,5", 12, (2, 5)),
    ("", 12, ()),
  ],
)
def test_depths(picker, depth, blocks):
  assert alignment.pick_depths(picker, depth) == blocks


@pytest.mark.parametrize("learned", [False, True])
def test_contrast_is_siglip_of_unit_embeddings(learned):
  (teacher, frozen), (student, variables) = pair("clip_test", projection=8)
  images = photos(4)
  goal = objectives.ContrastiveDistillation(student, objectives.Teacher(teacher), learned=learned)
  params = variables["params"]
  if learned:
    params = {**params, objectives.OWN: goal.own_parameters()}

  def train(params):
    return goal.train(params, {}, {"image": images}, frozen, jax.random.key(0))

  (loss, (_, metrics)), gradient = jax.jit(jax.value_and_grad(train, has_aux=True))(params)
  own, other = (
    np.asarray(features(m, v, images), np.float64)
    for m, v in ((student, variables), (teacher, frozen))
  )
  near = cosines(own[:, None], other[None])
  signs = 2 * np.eye(4) - 1
  expected = np.log1p(np.exp(-signs * (10 * near - 10))).sum() / 4
  assert loss == pytest.approx(expected, rel=1e-5)
  assert metrics["similarity"] == pytest.approx(np.diag(near).mean(), rel=1e-5)
  if learned:
    assert all(float(jnp.abs(leaf)) > 0 for leaf in gradient[objectives.OWN].values())


def test_negatives_of_one_part_and_absent_texts_do_not_count():
  (teacher, frozen), (student, variables) = pair("clip_test", projection=8)
  batch = {"image": photos(4)}
  whole = objectives.ContrastiveDistillation(student, objectives.Teacher(teacher), groups=2)
  parts = objectives.ContrastiveDistillation(student, objectives.Teacher(teacher))
  evaluate = jax.jit(parts.evaluate)
  together = jax.jit(whole.evaluate)(variables, batch, frozen)["loss"]
  alone = [
    evaluate(variables, {"image": batch["image"][rows]}, frozen)["loss"]
    for rows in (slice(0, 2), slice(2, 4))
  ]
  np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5)
  masked = batch | {"mask": np.array([1.0, 1.0, 0.0, 0.0])}
  np.testing.assert_allclose(evaluate(variables, masked, frozen)["loss"][:2], alone[0], rtol=1e-5)
  assert losses.siglip(np.ones((2, 1)), np.ones((2, 1)))[0] == pytest.approx(
    np.log1p(np.exp(0.0)) + np.log1p(np.exp(0.0))
  )


def test_the_teacher_gets_its_own_size_of_the_same_picture():
  (teacher, frozen), _ = pair()
  images = photos(2, 32)
  small = jax.image.resize(images, (2, 16, 16, 3), "linear", antialias=True)
  resized = jax.jit(objectives.Teacher(teacher, size=16).outputs)(frozen, images)
  assert rel(resized, jax.jit(objectives.Teacher(teacher).outputs)(frozen, small)) < 1e-6


@pytest.mark.parametrize("kind", ["align", "clip"])
def test_a_sharded_step_equals_that_of_one_device_and_leaves_the_teacher(kind):
  (teacher, frozen), (student, variables) = pair("clip_test", projection=8)
  batch = {"image": photos(8), "label": np.zeros(8, np.int32)}

  def advance(axes, devices):
    mesh = sharding.make_mesh(axes, jax.devices()[:devices])
    if kind == "align":
      goal = objectives.Alignment(student, objectives.Teacher(teacher), (1, 2))
    else:
      goal = objectives.ContrastiveDistillation(student, objectives.Teacher(teacher), learned=True)
    options = common.get_config().optimizer
    options.update(name="sgd", schedule="constant", lr=0.1, agc=0.0)
    opt = optimizer.build(options, steps=5, steps_per_epoch=5)
    own = goal.own_parameters()
    params = {**variables["params"], **({objectives.OWN: own} if own else {})}
    create = functools.partial(state.create, optimizer=opt, rng=state.new_key(0))
    like = sharding.abstract(create, (("", "fsdp"),), mesh, {"params": params})
    begun = sharding.init_sharded(create, like, {"params": params})
    held = sharding.init_sharded(
      lambda tree: tree, sharding.abstract(lambda tree: tree, (("", "fsdp"),), mesh, frozen), frozen
    )
    one = step.make_train_step(goal, opt, sharding.shardings(like), mesh=mesh)
    after, metrics = one(begun, sharding.put_batch(batch, mesh), held)
    for leaf, old in zip(jax.tree.leaves(held), jax.tree.leaves(frozen), strict=True):
      np.testing.assert_array_equal(leaf, old)
    return jax.device_get(after), jax.device_get(metrics)

  single, values = advance({"data": 1, "fsdp": 1}, 1)
  split, again = advance({"data": 4, "fsdp": 2}, 8)
  assert objectives.OWN not in split.variables["params"]
  for path, leaf in flat(single.params).items():
    assert rel(flat(split.params)[path], leaf) < 1e-5, path
  for name, value in values.items():
    assert again[name] == pytest.approx(value, rel=1e-3), name


def test_what_cannot_be_compared_is_refused():
  (teacher, _), (student, _) = pair()
  wide = tiny("dinov3_test", StandardOps(), num_classes=0, depth=3, width=64)
  classes = tiny("dinov3_test", StandardOps(), depth=3)
  coarse = tiny("dinov3_test", StandardOps(), num_classes=0, depth=3, patch_size=8)
  for other, depths, part in (
    (wide, (), "features"),
    (classes, (), "5 classes"),
    (coarse, (1,), "tokens behind block 1"),
    (teacher, (4,), r"blocks \[4\]"),
  ):
    goal = objectives.Alignment(student, objectives.Teacher(other), depths)
    with pytest.raises(InputError, match=part):
      goal.check(16)
  with pytest.raises(InputError, match=suggestion("published")):
    alignment.pick_depths("publishd", 12)


# -------------------------------------------------------------------------- runs
SMALL = {"image_size": 16, "patch_size": 8, "depth": 2, "width": 16, "num_heads": 2, "mlp_dim": 32}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  """A bundle of a classifier, whose head neither teacher nor student has."""
  model = bcos_jax.create("vit_test", ops=StandardOps(), num_classes=7, **SMALL)
  folder = tmp_path_factory.mktemp("teacher") / "bundle"
  bcos_jax.save(folder, model, filled(model), preprocess=bcos_jax.Preprocess((16, 16), resize=0))
  return folder


def recipe(folder, *overrides: str):
  config = configs.load_config(
    "align_vit:runlocal",
    [
      f"--config.objective.teacher={folder}",
      "--config.ops.family=bcos",
      "--config.ops.dtype=float32",
      "--config.data.image_size=16",
      "--config.data.batch_size=16",
      "--config.steps=6",
      "--config.eval_every=3",
      "--config.optimizer.warmup_steps=0",
      "--config.optimizer.decay_steps=0",
      *overrides,
    ],
  )
  with config.unlocked():
    labelled = config.objective.name == "supervised"
    config.model = {"name": "vit_test", "num_classes": 10 if labelled else 0, **SMALL}
  return config


@pytest.mark.slow
def test_a_student_learns_without_labels_at_several_sizes(teacher, tmp_path):
  config = recipe(teacher, "--config.data.train_sizes=(16,24)", "--config.best=True")
  result = loop.train(config, workdir=tmp_path, progress=False)
  first, last = result.history[0], result.history[-1]
  assert 0 < first["similarity"] < last["similarity"] < 1 and last["loss"] < first["loss"]
  assert "accuracy" not in last and last["count"] == 355
  assert result.model.num_classes == 0
  assert isinstance(result.model.ops, BcosOps)
  again = loop.train(config, workdir=tmp_path, progress=False)  # It is done: nothing is trained.
  assert again.history == result.history


def test_a_student_with_a_stem_of_its_own_keeps_the_rest(teacher, tmp_path):
  config = recipe(teacher, "--config.redraw=('embeddings/stem','embeddings/patch_embedding')")
  with config.unlocked():
    config.model.update(conv_stem=(8, 16), patch_size=2)
  _, variables = start.network(config)
  wanted = flat(start.open_bundle(str(teacher)).variables)
  leaves = flat(variables)
  np.testing.assert_array_equal(
    leaves["params/encoder_0/mlp/linear1/kernel"], wanted["params/encoder_0/mlp/linear1/kernel"]
  )
  assert leaves["params/embeddings/stem0_conv/kernel"].shape[-1] == 8
  with config.unlocked():
    config.redraw = ("embeddings/stem",)
  with pytest.raises(InputError, match="embeddings/patch_embedding/kernel") as error:
    start.network(config)
  assert "--config.redraw" in error.value.fix


@pytest.mark.parametrize(
  ("overrides", "part"),
  [
    (["--config.objective.teacher="], "no teacher"),
    (["--config.objective.name=aling"], suggestion("align")),
    (["--config.objective.depths=5"], r"blocks \[5\]"),
    (["--config.data.interpolation=bicubic"], "data.interpolation='bicubic'"),
    (["--config.data.image_size=24"], "data.image_size=24"),
    (["--config.data.augment.mixup=0.2"], "objective.name=supervised"),
    (["--config.objective.name=clip", "--config.objective.negatives=all"], "negatives"),
    (
      ["--config.objective.name=supervised", "--config.model.num_classes=10"],
      "objective.name=match, align or clip",
    ),
    (["--config.optimizer.decay_steps=2", "--config.optimizer.schedule=cosine"], "does nothing"),
    (["--config.data.train_sizes=(16,)", "--config.data.train_size=16"], "one of them"),
  ],
)
def test_recipes_that_cannot_be_are_refused(teacher, tmp_path, overrides, part):
  with pytest.raises(InputError) as error:
    loop.train(recipe(teacher, *overrides), workdir=tmp_path, progress=False)
  assert re.search(part, f"{error.value.cause} {error.value.fix}")
  assert not list(tmp_path.rglob("checkpoints/*"))


def test_the_rate_is_constant_until_the_last_steps():
  rate = optimizer.schedule("constant", 2.0, steps=100, warmup=10, decay=20)
  assert [float(rate(t)) for t in (0, 10, 79, 80)] == pytest.approx([0.02, 2.0, 2.0, 2.0])
  assert float(rate(90)) == pytest.approx(1.0) and float(rate(100)) == pytest.approx(0.0, abs=1e-6)

"""Probes: learning, alone and in a sweep, and merging into the network."""

import dataclasses
import json
import math

import jax
import numpy as np
import optax
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, InputError, StandardOps, cli
from bcos_jax.train import sharding
from bcos_jax.train.data import sources
from bcos_jax.train.objectives import losses
from bcos_jax.train.probes import features, heads, probe, sweep
from bcos_jax.variables import abstract_variables

from ..clouds import clouds
from ..common import CLASSES, PRESETS, filled, flat, photos, rel, suggestion, tiny

MODEL = tiny("resnet_tiny", BcosOps(), num_classes=0)
QUICK = probe.ProbeOptions(epochs=8, batch_size=32, rates=(0.03, 0.01, 1e-6))


@pytest.mark.parametrize("head", heads.HEADS)
def test_classes_that_lie_apart_are_told_apart(head):
  train, test = clouds(240, seed=0, distance=9.0), clouds(60, seed=1, distance=9.0)
  found = probe.fit(MODEL, train, test, dataclasses.replace(QUICK, head=head, epochs=12))
  assert found.accuracy == 1.0 and found.rates[found.chosen].selection == 1.0
  predicted = np.argmax(found.logits(test.values), axis=-1)
  np.testing.assert_array_equal(predicted, test.labels)
  assert [row.rate for row in found.rates] == list(QUICK.rates) and found.chosen < 2


def test_labels_by_chance_stay_at_chance():
  train, test = clouds(300, seed=0), clouds(300, seed=1)
  rng = np.random.default_rng(2)
  train, test = (
    dataclasses.replace(part, labels=rng.permutation(part.labels)) for part in (train, test)
  )
  accuracy = probe.fit(MODEL, train, test, QUICK).accuracy
  assert abs(accuracy - 1 / 3) < 0.09  # Over three standard deviations of 300 guesses.


def test_a_sweep_is_as_many_runs_alone():
  train, test = clouds(100, seed=0, distance=1.0), clouds(50, seed=1, distance=1.0)
  options = dataclasses.replace(QUICK, epochs=4, rates=(0.03, 1e-3))
  together = probe.fit(MODEL, train, test, options)
  for i, row in enumerate(together.rates):
    alone = probe.fit(MODEL, train, test, dataclasses.replace(options, rates=(row.rate,)))
    (other,) = alone.rates
    assert other == dataclasses.replace(row, loss=other.loss)
    assert other.loss == pytest.approx(row.loss, rel=1e-5)
    if i == together.chosen:
      kernel = alone.params["head"]["kernel"]
      assert rel(together.params["head"]["kernel"], kernel) <= 1e-6


def test_the_mesh_makes_no_difference():
  train, test = clouds(100, seed=0, distance=1.0), clouds(50, seed=1, distance=1.0)
  one, four = (
    probe.fit(MODEL, train, test, QUICK, mesh=sharding.make_mesh({"data": n, "fsdp": 1}))
    for n in (1, 4)
  )
  for row, other in zip(one.rates, four.rates, strict=True):
    assert dataclasses.replace(row, loss=0.0) == dataclasses.replace(other, loss=0.0)
  assert rel(four.params["head"]["kernel"], one.params["head"]["kernel"]) <= 1e-5


def test_a_step_is_adamw_with_padding_left_out():
  head = heads.make(MODEL, 3, "linear")
  params = {"head": {"kernel": np.float32([[1.0, -1.0, 0.5], [2.0, 0.0, -0.5]])}}
  x, labels = np.float32([[1.0, 2.0], [-1.0, 0.5], [9.0, 9.0]]), np.int32([0, 2, 1])
  batch = {"features": x, "label": labels, "mask": np.float32([1, 1, 0])}
  start, advance = sweep.make_step(head, losses.cross_entropy, 0.1, steps=10)
  after, _, loss = advance(0.01, params, start(params), batch, 2)
  kernel = params["head"]["kernel"].astype(np.float64)
  logits = x[:2] @ kernel
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  gradient = x[:2].T @ (p - np.eye(3)[labels[:2]]) / 2
  # Bias corrections make the first step's moments the gradient and its square.
  rate = 0.01 * float(optax.cosine_onecycle_schedule(10, 1.0)(2))
  wanted = kernel - rate * (gradient / (np.abs(gradient) + 1e-8) + 0.1 * kernel)
  np.testing.assert_allclose(after["head"]["kernel"], wanted, rtol=1e-5)
  assert float(loss) == pytest.approx(-np.log(p[[0, 1], labels[:2]]).mean(), rel=1e-5)


def test_the_cycle():
  rates = sweep.schedule(100)
  assert float(rates(0)) == pytest.approx(1 / 25) and float(rates(30)) == pytest.approx(1.0)
  assert float(rates(100)) == pytest.approx(1 / 25 / 1e4, rel=1e-3)
  assert [float(sweep.schedule(3)(step)) for step in range(3)] == [1.0] * 3
  assert all(np.isfinite(sweep.schedule(4)(step)) for step in range(5))


def test_who_chooses():
  train, test = clouds(100, seed=0, distance=1.0), clouds(50, seed=1, distance=1.0)
  held = probe.fit(MODEL, train, test, QUICK)
  assert held.selected_on == 9  # Three of each class.
  by_test = probe.fit(MODEL, train, test, dataclasses.replace(QUICK, select="test"))
  assert by_test.selected_on == 50
  assert all(row.test == row.selection for row in by_test.rates)
  assert by_test.accuracy == max(row.test for row in by_test.rates)


def test_what_is_held_out():
  train = clouds(102, seed=0)
  labels = np.where(np.arange(102) < 2, 2, np.arange(102) % 2).astype(np.int32)
  labels[1] = 0
  train = dataclasses.replace(train, labels=labels)
  fitted, held = probe.split(train, probe.ProbeOptions(held_out=0.2))
  assert sorted([*fitted, *held]) == list(range(102))
  np.testing.assert_array_equal(np.bincount(labels[held], minlength=3), [10, 10, 0])
  same, other = (probe.split(train, probe.ProbeOptions(held_out=0.2, seed=s))[1] for s in (0, 1))
  assert np.array_equal(held, same) and not np.array_equal(held, other)
  with pytest.raises(InputError, match="holds none out"):
    probe.split(clouds(3, seed=0), probe.ProbeOptions())


def test_what_the_published_head_is():
  """ALOE's: the cosine to plain weights, B=2, off-target 1/C, and -log(C - 1) on the logits."""
  student = tiny("aloe_test", BcosOps.aloe(), num_classes=0)
  train, test = clouds(60, seed=0, width=6), clouds(30, seed=1, width=6)
  found = probe.fit(student, train, test, dataclasses.replace(QUICK, epochs=1))
  assert found.options.head == "bcos" and found.options.loss == "uniform_off_label_bce"
  w, x = found.params["head"]["kernel"].astype(np.float64), test.values.astype(np.float64)
  cosines = (x @ w) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=0)
  assert rel(found.logits(test.values), (x @ w) * np.abs(cosines) - math.log(2)) <= 1e-5
  # A conventional network has no B-cos head of its own and gets the same.
  teacher = tiny("vit_test", StandardOps(), num_classes=0)
  own = heads.make(teacher, 3, "bcos", logit_bias=-math.log(2))
  assert rel(own(found.params, test.values), found.logits(test.values)) <= 1e-6
  assert probe.ProbeOptions().resolved(teacher).head == "linear"
  assert probe.ProbeOptions().resolved(teacher).loss == "cross_entropy"


def test_features_of_unit_length():
  train, test = clouds(60, seed=0), clouds(30, seed=1)
  options = dataclasses.replace(QUICK, head="linear", normalise=True, epochs=1)
  found = probe.fit(MODEL, train, test, options)
  unit = test.values / np.linalg.norm(test.values, axis=1, keepdims=True)
  assert rel(found.logits(test.values), unit @ found.params["head"]["kernel"]) <= 1e-5
  with pytest.raises(InputError, match="a scaling to unit length"):
    heads.joined_model(MODEL, 3, found.head)


def _joined(model, kind, width=None, logit_bias=-1.5):
  """A network with random weights joined to a random head, and the head's own logits."""
  variables, images = filled(model), photos(3)
  backbone, kept = features.headless(model, variables)
  values = jax.jit(backbone.apply)(kept, backbone.ops.encoding(images))
  head = heads.make(model, CLASSES, kind, logit_bias=logit_bias)
  params = jax.jit(head.init, static_argnums=1)(jax.random.key(0), values.shape[-1])
  return heads.join(model, variables, head, params), head(params, values), images


@pytest.mark.parametrize(
  "name, preset",
  [
    ("resnet_tiny", "standard"),
    pytest.param("deit_test", "standard", marks=pytest.mark.slow),
    pytest.param("convnext_test", "standard", marks=pytest.mark.slow),
    ("resnet_tiny", "bcosification"),
    pytest.param("densenet_tiny", "bcosification", marks=pytest.mark.slow),
    pytest.param("vgg_tiny", "bcosification", marks=pytest.mark.slow),
    ("convnext_test", "bcosification"),
    ("simple_vit_tiny", "bcosification"),
    pytest.param("siglip_test", "bcosification", marks=pytest.mark.slow),
    pytest.param("swin_test", "bcosification", marks=pytest.mark.slow),
    pytest.param("simple_vit_tiny", "equivalent", marks=pytest.mark.slow),
    ("resnet_tiny", "v1"),
    pytest.param("vgg_tiny", "v2", marks=pytest.mark.slow),
    ("aloe_test", "aloe2"),
  ],
)
def test_a_joined_network_is_head_of_features(name, preset):
  ops = PRESETS[preset]
  if preset == "v1":
    ops = dataclasses.replace(ops, logit_temperature=0.1)
  if preset == "v2":
    ops = dataclasses.replace(ops, learn_b=True, use_bias=True)
  model = tiny(name, ops)
  linear = getattr(ops, "b", 1) == 1
  (new, variables), logits, images = _joined(model, "linear" if linear else "bcos")
  assert new.num_classes == CLASSES
  own = jax.jit(new.apply)(variables, new.ops.encoding(images))
  assert rel(own, logits) <= 1e-5
  assert flat(variables).keys() == flat(abstract_variables(new)).keys()


def test_a_joined_network_explains_itself(tmp_path):
  (new, variables), logits, images = _joined(tiny("resnet_tiny", BcosOps()), "bcos")
  folder = bcos_jax.save(tmp_path / "joined", new, variables)
  bundle = bcos_jax.load(folder)
  explanation = bcos_jax.explain(bundle.model, bundle.variables, images)
  assert rel(explanation.logits, logits) <= 1e-5
  assert explanation.completeness_error.max() <= 1e-5
  assert explanation.residuals["logit_bias"] == pytest.approx(-1.5)


@pytest.mark.parametrize(
  "name, ops, kind, missing",
  [
    ("resnet_tiny", BcosOps(), "linear", "'linear', the classifier of this .* B-cos map"),
    ("resnet_tiny", StandardOps(), "bcos", "'bcos', the classifier of this .* linear map"),
    ("resnet_tiny", BcosOps(), "bcos_mlp", "a second map before the classifier"),
    ("clip_resnet_test", BcosOps(), "bcos", "no classifier"),
  ],
)
def test_what_is_missing(name, ops, kind, missing):
  model = tiny(name, ops)
  with pytest.raises(InputError, match=missing):
    heads.joined_model(model, CLASSES, heads.make(model, CLASSES, kind))


def test_a_probe_joins_its_own_network_only():
  model = tiny("resnet_tiny", BcosOps(), num_classes=0)
  variables = filled(model)
  width = jax.eval_shape(model.apply, variables, model.input_spec).shape[-1]
  about = {"network": features.digest(model, variables), "data": "clouds", "examples": 60}
  train, test = (
    dataclasses.replace(clouds(60, seed=seed, width=width), about=about) for seed in (0, 1)
  )
  found = probe.fit(model, train, test, dataclasses.replace(QUICK, epochs=1))
  new, joined = probe.join(model, variables, found)
  np.testing.assert_array_equal(joined["params"]["head"]["kernel"], found.params["head"]["kernel"])
  assert new.num_classes == 3 and new.ops.logit_bias == pytest.approx(-math.log(2))
  other = jax.tree.map(lambda leaf: leaf * 2, variables)
  with pytest.raises(InputError, match="features of the network"):
    probe.join(model, other, found)


@pytest.mark.parametrize(
  "change, problem",
  [
    ({"head": "liner"}, suggestion("linear")),
    ({"loss": "cross_entrpy"}, suggestion("cross_entropy")),
    ({"select": "tests"}, suggestion("test")),
    ({"rates": ()}, "rates="),
    ({"rates": (0.1, -1.0)}, "rates="),
    ({"rates": (math.nan,)}, "rates="),
    ({"epochs": 0}, "epochs=0"),
    ({"batch_size": -1}, "batch_size=-1"),
    ({"weight_decay": -1.0}, "weight_decay="),
    ({"hidden": -1}, "hidden=-1"),
    ({"held_out": 1.0}, "held_out=1.0"),
  ],
)
def test_options_that_cannot_be_used(change, problem):
  with pytest.raises(InputError, match=problem):
    dataclasses.replace(QUICK, **change).resolved(MODEL)


def test_features_that_are_not_finite():
  train, test = clouds(60, seed=0), clouds(30, seed=1)
  train.values[17, 0] = np.nan
  with pytest.raises(InputError, match="example 17 of clouds:0"):
    probe.fit(MODEL, train, test, QUICK)


def test_a_rate_that_diverges_is_not_chosen():
  train, test = clouds(100, seed=0), clouds(50, seed=1)
  found = probe.fit(
    MODEL, train, test, dataclasses.replace(QUICK, head="linear", rates=(1e38, 0.03))
  )
  assert found.chosen == 1 and np.isfinite(found.params["head"]["kernel"]).all()


@pytest.fixture
def bundle(tmp_path, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path / "data"))
  model = bcos_jax.create(
    "resnet_tiny",
    ops=BcosOps(encoding=Encoding((0.3,), (0.4,), "negated")),
    image_size=8,
    stages=(1,),
  )
  return bcos_jax.save(tmp_path / "bundle", model, filled(model))


def run(*arguments):
  return cli.main(["probe", *map(str, arguments)])


def test_the_command(bundle, tmp_path, capsys):
  asked = (
    bundle,
    "--dataset=digits",
    "--train_split=train[:120]",
    "--test_split=test[:40]",
    "--epochs=2",
    f"--features={tmp_path / 'kept'}",
  )
  assert run(*asked, f"--output={tmp_path / 'joined'}") == 0, capsys.readouterr().err
  said = capsys.readouterr().out
  for words in ("120 x 8 of digits:train[:120]", "head bcos", "<- chosen", "k-NN, k=20, euclidean"):
    assert words in said
  assert said.count("\n") == 10 and len(list((tmp_path / "kept").iterdir())) == 2
  joined = bcos_jax.load(tmp_path / "joined")
  assert joined.labels == tuple("0123456789") and joined.model.num_classes == 10
  about = joined.config["provenance"]["probe"]
  assert about["head"] == "bcos" and json.loads(json.dumps(about)) == about
  # Features are taken from where they are kept; the test set chooses if asked, and it is said.
  assert run(*asked, "--head=linear", "--select=test", "--knn=0", "--rates=0.01") == 0
  said = capsys.readouterr().out
  assert "optimistic" in said and "k-NN" not in said
  # A network agrees with itself.
  assert run(*asked, "--rates=0.01", f"--teacher={bundle}") == 0
  assert "both predict the same for 100.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
  "arguments, problem",
  [
    (["--head=bcoss"], suggestion("bcos")),
    (["--head=linear", "--output=never"], "B-cos map"),
    (["--knn=5000"], "k=5000 neighbours"),
    (["--knn=-1"], "--knn=-1"),
    (["--knn=0", "--teacher=SELF"], "knn=0"),
    (["--metric=cosin"], suggestion("cosine")),
    (["--rates=fast"], "--rates='fast'"),
    (["--batch_size=0"], "--batch_size=0"),
  ],
)
def test_the_command_names_what_is_wrong(bundle, arguments, problem, capsys):
  arguments = [argument.replace("SELF", str(bundle)) for argument in arguments]
  assert run(bundle, "--dataset=digits", *arguments) == 2
  said = capsys.readouterr()
  assert problem in said.err and not said.out

"""Networks of other libraries that are trained, saved and explained as this package's own."""

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, InputError, program
from bcos_jax.train.config import load_config
from bcos_jax.train.loop import train

from ..common import photos, rel
from . import foreign

HERE = foreign.__name__
GREY = Encoding((0.3,), (0.4,))
COLORS = Encoding((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def grey(**options):
  fields = {"image_size": 16, "num_classes": 10, "encoding": GREY, **options}
  return program.as_network(f"{HERE}:small", {"seed": 1}, **fields)


def test_the_network_is_the_one_that_the_factory_builds():
  images = photos(3, 16)[..., :1]
  network, variables = grey()
  other = foreign.small(seed=1)
  function, own = program.function_of(other)
  assert set(variables) == {"params", "batch_stats"}
  assert variables["batch_stats"]["norm"].keys() == {"mean", "var"}
  seen = GREY(images)
  assert rel(network.apply(variables, seen), function(own, seen)) <= 1e-6
  found = bcos_jax.explain(network, variables, images, 1)
  expected = program.trace(function, own, seen).explain(own, seen, 1)
  assert rel(found.weights, expected.weights) <= 1e-5
  assert found.residuals.keys() == expected.residuals.keys()
  assert rel(found.residuals["norm/mean"], expected.residuals["norm/mean"]) <= 1e-4
  assert found.conventional


@pytest.fixture(scope="module")
def made():
  return grey(ops=BcosOps(learn_b=True, b=1.5), rules={"head*": {"learn_b": False}})


def test_bundles_are_built_again(made, tmp_path):
  network, variables = made
  images = photos(2, 16)[..., :1]
  bcos_jax.save(tmp_path / "bundle", network, variables, labels=map(str, range(10)))
  read = bcos_jax.load(tmp_path / "bundle")
  assert read.model == network and "program" in repr(read)
  assert read.config["module"] == HERE
  found, expected = read.explain(images, "3"), bcos_jax.explain(network, variables, images, 3)
  np.testing.assert_array_equal(found.weights, expected.weights)
  assert found.weights.shape[-1] == 2 and found.completeness_error.max() <= 1e-5
  function, example = program.network_function(read.model)
  assert program.trace(function, read.variables, example).check().maps == 2


def test_what_is_missing_is_named(made, tmp_path, monkeypatch):
  bcos_jax.save(tmp_path / "bundle", *made)
  config = tmp_path / "bundle" / "config.json"
  text = config.read_text(encoding="utf-8")
  for wanted, message in (
    ("no_such_module:make", "'no_such_module:make', which is not known.*--import=no_such_module"),
    ("os:system", "'os:system', which is not known.*not marked as a factory"),
  ):
    config.write_text(text.replace(f"{HERE}:small", wanted), encoding="utf-8")
    with pytest.raises(InputError, match=message):
      bcos_jax.load(tmp_path / "bundle")


def test_variables_of_the_program_and_back(made):
  network, variables = made
  tree = network.tree_of(variables)
  assert set(tree) == {"network", "negated", "b"} and set(tree["b"]) == {"stem/kernel"}
  program_of = network.made()
  x = GREY(photos(2, 16)[..., :1])
  both = BcosOps(encoding=Encoding((0.3,), (0.4,), "negated")).encoding(photos(2, 16)[..., :1])
  assert rel(program_of(tree, x), network.apply(variables, both)) <= 1e-6
  again = network.variables_of(tree)
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), variables, again))


def test_the_loop_trains_it(made, tmp_path):
  config = load_config("digits:scratch")
  with config.unlocked():
    config.data.image_size, config.data.batch_size, config.steps = 16, 32, 3
    config.eval_every, config.data.test_split = 0, "test[:32]"
    config.optimizer.agc = 0.0
  result = train(config, workdir=tmp_path / "run", init=made, progress=False)
  before, after = made[1]["params"], result.variables["params"]
  for path in (("stem", "kernel"), ("negated", "stem", "kernel"), ("head", "kernel")):
    one, other = before, after
    for name in path:
      one, other = one[name], other[name]
    assert np.abs(np.asarray(other) - np.asarray(one)).max() > 0, path
  held = (made[1]["batch_stats"], jax.device_get(result.variables["batch_stats"]))
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == b).all()), *held))
  assert result.history[-1]["count"] == 32


def test_variables_outside_and_channels_first():
  fields = {"image_size": 8, "num_classes": 4, "encoding": COLORS, "channels_first": True}
  images = photos(2, 8)
  ops = BcosOps(b=1.0, use_bias=True, pool="max")
  network, variables = program.as_network(f"{HERE}:channels_first", **fields, ops=ops)
  plain, own = program.as_network(f"{HERE}:channels_first", **fields)
  assert set(own) == {"params", "batch_stats"} and "norm" in own["batch_stats"]
  expected = plain.apply(own, COLORS(images))
  ex = bcos_jax.explain(network, variables, images, 1)
  assert rel(ex.logits, expected) <= 1e-5
  assert ex.weights.shape == (2, 8, 8, 6) and ex.contributions.shape == (2, 8, 8)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: grey(num_classes=3), r"returns \(1, 10\) for one picture, expected \(1, 3\)"),
    (lambda: grey(ops=BcosOps(max_out=2)), "ops has max_out=2, which .* not follow"),
    (lambda: grey()[0].made(), "The family is StandardOps"),
    (
      lambda: program.as_network(
        f"{HERE}:normalising", image_size=8, num_classes=4, encoding=COLORS, ops=BcosOps()
      )[0],
      "shifts or scales its input itself",
    ),
  ],
)
def test_what_cannot_be(make, message):
  with pytest.raises(InputError, match=message):
    make()

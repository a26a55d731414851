"""Architectures of one's own, and the names of all: registered, created, saved and loaded."""

import dataclasses
import os
import subprocess
import sys

from flax import linen as nn
import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, Ops, StandardOps, convert, models, ops
from bcos_jax.convert import targets
from bcos_jax.convert.tables import keys as key_tables
from bcos_jax.io import bundles
from bcos_jax.models import registration
from bcos_jax.studies import equivalence
from bcos_jax.train import config as configs
from bcos_jax.train import loop, start
from bcos_jax.variables import abstract_variables

from ..common import ROOT, applied, filled, photos, rel, suggestion


class Pebbles(models.ImageModel):
  """Two convolutions: the smallest network with everything that is asked of one."""

  ops: Ops
  num_classes: int = 10
  width: int = 8
  image_size: int = 8

  input_map = "first"
  head = "head"
  norm_eps = 1e-5
  grad_cam_layer = "second"
  block_paths = ("second",)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    ops = self.ops
    ops.check_encoded(x)
    x = ops.conv(self.width, 3, name="first")(x)
    x = ops.act(ops.batch_norm(name="norm")(x, train), "relu")
    x = ops.conv(2 * self.width, 3, 2, name="second")(x)
    if not self.num_classes:
      return ops.average(lambda features: features, x)
    return ops.readout(ops.classifier(self.num_classes, name="head"), x)


TABLE = (
  convert.parts.weight("stem", "first", convert.axes.CONV),
  *convert.parts.batch_norm("bn", "norm"),
  convert.parts.weight("body", "second", convert.axes.CONV),
  *convert.parts.biased("fc", "head"),
)
KEYS = (convert.Keys("pebbles", StandardOps(), TABLE),)
VARIANTS = {"pebbles": {}, "pebbles_again": {}, "pebbles_wide": {"width": 16}}


@pytest.fixture
def pebbles(own_architectures):
  return models.register(Pebbles, VARIANTS, test_variants={"pebbles_test": {"width": 4}}, keys=KEYS)


def created(name="pebbles", **fields):
  model = bcos_jax.create(name, ops=StandardOps(), **fields)
  return model, filled(model)


# ------------------------------------------------------------- an architecture of one's own
def test_it_is_created_by_name(pebbles):
  assert set(VARIANTS) <= set(bcos_jax.names()) and "pebbles_test" in models.test_variants()
  assert "pebbles_test" not in bcos_jax.names()
  model, _ = created("pebbles_wide", num_classes=3)
  assert isinstance(model, Pebbles) and (model.width, model.num_classes) == (16, 3)
  assert models.describe(model) == ("pebbles_wide", {"num_classes": 3})
  assert "pebbles_test" in equivalence.networks()
  with pytest.raises(InputError, match=suggestion("pebbles_wide")):
    bcos_jax.create("pebble_wide", ops=StandardOps())


def test_it_is_bcosified_and_explained(pebbles):
  model, variables = created()
  images = photos(2, side=8)
  twin = bcos_jax.bcosify(model, variables, ops=BcosOps.equivalent())
  assert rel(applied(twin[0])(twin[1], images), applied(model)(variables, images)) <= 1e-5
  explanation = bcos_jax.explain(*bcos_jax.bcosify(model, variables), images)
  assert explanation.completeness_error.max() <= 1e-5
  assert np.abs(explanation.contributions).max() > 0


def test_it_is_saved_and_loaded(pebbles, tmp_path):
  model, variables = bcos_jax.bcosify(*created("pebbles_again", width=4))
  folder = bcos_jax.save(tmp_path / "bundle", model, variables)
  bundle = bcos_jax.load(folder)
  assert bundle.model == model and bundle.config["architecture"] == "pebbles_again"
  images = photos(2, side=8)
  assert (
    rel(applied(model)(variables, images), applied(bundle.model)(bundle.variables, images)) == 0
  )


def test_it_is_converted_both_ways(pebbles):
  model, variables = created(num_classes=3)
  state = convert.to_state_dict(bundles.make_bundle(model, variables), "pebbles")
  assert state["stem.weight"].shape == (8, 3, 3, 3) and "bn.num_batches_tracked" in state
  bundle = convert.from_state_dict(state, "pebbles")
  assert bundle.model == model
  written = convert.to_state_dict(bundle)
  assert written.keys() == state.keys()
  assert all(np.array_equal(written[key], tensor) for key, tensor in state.items())


def test_its_architecture_is_found_by_its_keys(pebbles, tmp_path):
  bundle = bundles.make_bundle(*created("pebbles_wide"), provenance={"source": "pebbles"})
  file = targets.write(bundle, tmp_path / "pebbles.safetensors", "pebbles")
  assert convert.from_pretrained(file).model == bundle.model


def test_grad_cam_weighs_its_layer(pebbles):
  model, variables = created()
  images = photos(2, side=8)
  maps = bcos_jax.attribution.grad_cam(model, variables, images)
  named = bcos_jax.attribution.grad_cam(model, variables, images, layer="second")
  assert maps.shape == (2, 8, 8) and maps.max() > 0
  np.testing.assert_array_equal(maps, named)


def test_it_is_trained(pebbles, tmp_path, monkeypatch):
  overrides = (
    "model.name=pebbles_wide",
    "data.image_size=8",
    "data.batch_size=16",
    "data.test_split=test[:20]",
    "mesh.data=1",
    "steps=4",
    "eval_every=4",
    "checkpoint_every=4",
    "log_every=2",
    "optimizer.warmup_steps=1",
    "init=",
  )
  monkeypatch.setenv("BCOS_JAX_DATA", str(tmp_path / "data"))
  config = configs.load_config("digits:scratch", [f"--config.{text}" for text in overrides])
  result = loop.train(config, workdir=tmp_path / "run", progress=False)
  assert isinstance(result.model, Pebbles) and models.describe(result.model)[0] == "pebbles_wide"
  assert len(result.history) == 1 and np.isfinite(result.history[0]["loss"])


OWN_FILE = """
import bcos_jax
from tests.models import test_registration as own
bcos_jax.models.register(own.Pebbles, own.VARIANTS, keys=own.KEYS)
"""


def test_another_process_imports_the_module_that_registers_it(pebbles, tmp_path):
  """A bundle says which module that is; a command imports it with --import."""
  folder = bcos_jax.save(tmp_path / "bundle", *created())
  (tmp_path / "own_networks.py").write_text(OWN_FILE, encoding="utf-8")

  def bcosified(target, *arguments):
    command = ("bcosify", folder, tmp_path / target, *arguments)
    return subprocess.run(
      [sys.executable, "-m", "bcos_jax", *map(str, command)],
      capture_output=True,
      text=True,
      env={**os.environ, "PYTHONPATH": str(ROOT)},
      cwd=tmp_path,
      check=False,
    )

  refused = bcosified("a")
  assert refused.returncode == 2
  assert "'pebbles', which is not registered" in refused.stderr
  assert f"--import={Pebbles.__module__}" in refused.stderr
  done = bcosified("b", "--import=own_networks")
  assert done.returncode == 0, done.stderr
  assert isinstance(bcos_jax.load(tmp_path / "b").model.ops, BcosOps)
  missing = bcosified("c", "--import=no_such_networks")
  assert missing.returncode == 2 and "no_such_networks" in missing.stderr


# ------------------------------------------------------------------------ bad registrations
def refused(module, variants=None, **fields):
  with pytest.raises(InputError) as caught:
    models.register(module, {"stones": {}} if variants is None else variants, **fields)
  return str(caught.value)


class Bare(nn.Module):
  """A Flax module that knows nothing of this package."""

  width: int = 3


class Stones(Pebbles):
  """A second architecture."""


def test_all_traits_that_are_missing_are_listed(own_architectures):
  message = refused(Bare, {"stones": {"widht": 4}, "resnet50": {}})
  for part in (
    "'ops'",
    "'input_map'",
    "'head'",
    "'block_paths'",
    "'grad_cam_layer'",
    "'image_size'",
    "'widht', which is not a field",
    "'resnet50' is taken by ResNet",
  ):
    assert part in message
  assert "stones" not in bcos_jax.names()
  assert "not a subclass of flax.linen.Module" in refused(dict)


def test_names_are_unique(pebbles):
  message = refused(Stones, {"pebbles": {}, "stones": {}}, test_variants={"stones": {}})
  assert "'pebbles' is taken by Pebbles" in message
  assert "'stones' is both public and for tests" in message
  assert "no variants" in refused(Stones, {})


def test_registering_again_replaces(pebbles):
  """As a notebook does whose cell runs again."""
  models.register(Pebbles, {"pebbles": {"width": 2}})
  assert bcos_jax.create("pebbles", ops=StandardOps()).width == 2
  assert "pebbles_wide" not in bcos_jax.names()


def test_paths_are_compared_with_the_network_when_it_is_first_created(own_architectures):
  wrong = {"input_map": "stem", "head": "fc", "grad_cam_layer": "third", "block_paths": ("body",)}
  module = type("Wrong", (Pebbles,), wrong)
  models.register(module, {"wrong": {}})
  for _ in range(2):
    with pytest.raises(InputError) as caught:
      bcos_jax.create("wrong", ops=StandardOps())
    for path in ("'stem'", "'fc'", "'third'", "'body'"):
      assert path in str(caught.value)


def test_a_network_that_cannot_be_initialised(own_architectures):
  models.register(Stones, {"stones": {"width": 0}})
  with pytest.raises(InputError, match="cannot be initialised"):
    bcos_jax.create("stones", ops=StandardOps())


def test_a_key_table_has_one_rule_for_each_leaf(own_architectures):
  table = (*TABLE[:-2], TABLE[0])
  models.register(Pebbles, VARIANTS, keys=(convert.Keys("pebbles", StandardOps(), table),))
  with pytest.raises(InputError) as caught:
    convert.from_state_dict({}, "pebbles")
  for part in (
    "'params/head/kernel' is written by 0 rules",
    "'params/head/bias' is written by 0 rules",
    "'params/first/kernel' is written by 2 rules",
  ):
    assert part in str(caught.value)


@pytest.mark.parametrize(
  "keys, message",
  [("no_such_module:KEYS", "no_such_module"), (lambda: (TABLE,), "is not a convert.Keys")],
)
def test_keys_that_are_none(keys, message, own_architectures):
  models.register(Pebbles, VARIANTS, keys=keys)
  with pytest.raises(InputError, match=message):
    convert.from_state_dict({}, "pebbles")


# ---------------------------------------------------------------- those of this package
OWN = {found.module.__name__: found for found in models.architectures() if found.own}


@pytest.mark.parametrize("name", OWN)
def test_registrations_of_this_package_are_sound(name):
  assert registration.unsound(OWN[name]) == []
  # No source has a CLIP tower with a classifier behind its projection.
  problems = [text for text in key_tables.unsound(OWN[name]) if "clip_test" not in text]
  assert problems == []
  assert OWN[name].key_tables() and all(OWN[name].named)


def test_creating_imports_no_conversion():
  code = "import sys, bcos_jax; bcos_jax.create('resnet18', ops=bcos_jax.StandardOps()); "
  code += "print([name for name in sys.modules if name.startswith('bcos_jax.convert')])"
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    check=True,
  )
  assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------- names survive
NAMES = (*bcos_jax.names(), *models.test_variants())
ALIASES = {name: models.canonical(name) for name in NAMES if models.canonical(name) != name}


TOKENS = {"width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 8}
TEXT = {**TOKENS, "vocab_size": 10, "context_length": 4}
SMALL = {
  "ResNet": {"stages": (1,), "width": 16},
  "ClipResNet": {"stages": (1,), "width": 16, "features": 8},
  "DenseNet": {"blocks": (1,), "growth": 4, "width": 8},
  "VGG": {"stages": (1,), "widths": (8,), "hidden": 8, "window": 1},
  "ConvNeXt": {"stages": (1,), "widths": (8,)},
  "AlexNet": {"convs": ((8, 3, 2, 1, False),), "hidden": 8, "window": 1},
  "MobileNet": {"stem": 8, "stages": ((("plain", 1, 1, 0, 8, 0, "relu"),),), "features": 8},
  "RegNet": {"stem": 8, "depths": (1,), "widths": (8,)},
  "ShuffleNet": {"stem": 8, "depths": (1,), "widths": (8,), "features": 8},
  "SqueezeNet": {"stem": (8, 3), "rows": ((4, 4, 4),)},
  "Swin": {"depths": (1,), "num_heads": (1,), "width": 8, "pretrained_windows": ()},
  "SimpleViT": {**TOKENS, "conv_stem": (8,)},
  "VisionTransformer": {**TOKENS, "conv_stem": (8,)},
  "TextEncoder": TEXT,
  "TextDecoder": {**TEXT, "kv_heads": 0},
  "TextTransformer": TEXT,
}
"""What makes the variants of each architecture small enough to be written."""


def _small(found, name):
  fields = {"num_classes": 2} if found.module.head else {}
  fields |= SMALL[found.module.__name__]
  if not found.full(name).get("conv_stem"):
    fields.pop("conv_stem", None)
  model = bcos_jax.create(name, ops=StandardOps(), **fields)
  return model, jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract_variables(model)
  )


@pytest.mark.parametrize("architecture", OWN)
def test_every_name_survives(architecture, tmp_path):
  found = OWN[architecture]
  for name in found.named:
    model, variables = _small(found, name)
    bundle = bcos_jax.load(bcos_jax.save(tmp_path / name, model, variables))
    assert bundle.config["architecture"] == name
    assert bundle.model == model and models.describe(bundle.model) == models.describe(model)
    whole = bcos_jax.create(name, ops=model.ops)
    assert models.describe(whole) == (name, {})


def test_names_survive_what_becomes_of_networks():
  model = bcos_jax.create("deit_test", ops=StandardOps(), num_classes=3)
  twin, _ = bcos_jax.bcosify(model, filled(model))
  for other in (model.clone(num_classes=0), twin, model.clone(depth=1)):
    assert models.describe(other)[0] == "deit_test"


def test_aliases_are_equal():
  assert len(set(ALIASES.values())) >= 20
  for name, first in ALIASES.items():
    one, other = (bcos_jax.create(n, ops=StandardOps()) for n in (name, first))
    assert one == other and hash(one) == hash(other)
    assert models.describe(one)[0] == name and models.describe(other)[0] == first
    assert models.canonical(first) == first
  assert ALIASES["deit_tiny_patch16_224"] == "vit_tiny_patch16_224"


def test_a_recipe_takes_a_bundle_by_any_of_its_names(tmp_path):
  """Bundles written before this say `vit_tiny_patch16_224` for DeiT-Ti."""
  overrides = ("model.name=deit_tiny_patch16_224", "model.depth=1", "data.image_size=16")
  config = configs.load_config("digits:scratch", [f"--config.{text}" for text in overrides])
  fields = {"image_size": 16, "depth": 1, "num_classes": 10}
  for name in ("deit_tiny_patch16_224", "vit_tiny_patch16_224"):
    model = bcos_jax.create(name, ops=ops.from_dict(config.ops.to_dict()), **fields)
    config.init = str(bcos_jax.save(tmp_path / name, model, filled(model)))
    assert start.network(config)[0] == model
  other = bcos_jax.create("deit_small_patch16_224", ops=model.ops, **fields)
  config.init = str(bcos_jax.save(tmp_path / "other", other, filled(other)))
  with pytest.raises(InputError, match="'deit_small_patch16_224'"):
    start.network(config)


def test_modules_made_without_a_name_have_that_of_the_nearest_variant():
  model = models.ResNet(StandardOps(), stages=(3, 4, 6, 3), num_classes=7)
  assert models.describe(model) == ("resnet34", {"num_classes": 7})
  assert dataclasses.replace(model, variant="resnet34") == model

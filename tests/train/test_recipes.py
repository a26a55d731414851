"""Every recipe: built, with the published values, and misspellings refused."""

import pytest

from bcos_jax import InputError
from bcos_jax.train import config as configs
from bcos_jax.train import start

from ..common import ROOT, suggestion

# The files of the folder that define a recipe; the others hold what recipes share.
RECIPES = {
  path.stem
  for path in ROOT.glob("configs/*.py")
  if path.stem != "common" and "def get_config(" in path.read_text(encoding="utf-8")
}


def variants():
  for name in sorted(RECIPES):
    for variant in configs.variants(name):
      yield f"{name}:{variant}"


def test_the_recipes_are_listed():
  assert set(configs.names()) == RECIPES
  assert {spec.partition(":")[0] for spec in variants()} == RECIPES  # each has a variant


@pytest.mark.parametrize("spec", list(variants()))
def test_every_variant_names_a_network_that_exists(spec):
  """Built without its weights; printing and reading it back gives the same recipe."""
  config = configs.load_config(spec)
  printed = configs.format_config(config).splitlines()
  assert configs.load_config(spec, printed) == config
  network, _ = start.network(config, weights=False)
  assert network.num_classes == config.model.num_classes


@pytest.mark.parametrize(
  "spec, expected",
  [
    (
      "bcosify_cnn:resnet50_v2",
      {
        "optimizer.name": "adamw",
        "optimizer.lr": 1e-4,
        "steps": "90 epochs",
        "data.batch_size": 256,
        "data.resize": 256,
        "optimizer.agc": 0.01,
        "ops.b": 2.0,
        "optimizer.schedule": "cosine_epochs",
        "optimizer.weight_decay": 0.0,
        "loss.name": "uniform_off_label_bce",
        "init": "bundles/resnet50_v2",
      },
    ),
    (
      "align_vit:dinov3_l",
      {
        "model.name": "aloe_dinov3_vitl16",
        "steps": 170_000,
        "data.batch_size": 1024,
        "optimizer.name": "adamw",
        "optimizer.lr": 3e-4,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 5000,
        "optimizer.decay_steps": 30_000,
        "optimizer.weight_decay": 0.0,
        "optimizer.clip_norm": 1.0,
        "ops.family": "aloe",
        "objective.teacher_model": "dinov3_vitl16",
      },
    ),
    (
      "bcosify_clip",
      {
        "model.name": "clip_resnet50",
        "steps": "90 epochs",
        "data.batch_size": 256,
        "optimizer.name": "adam",
        "optimizer.lr": 1e-4,
        "optimizer.agc": 0.01,
        "optimizer.schedule": "cosine_epochs",
        "objective.scale": 10.0,
        "objective.bias": -10.0,
        "objective.learned": False,
      },
    ),
    (
      "bcosify_vit:vitc_s",
      {
        "optimizer.name": "adam",
        "optimizer.lr": 1e-3,
        "data.batch_size": 1024,
        "data.augment.policy": "rand_augment",
        "data.augment.policy_magnitude": 10,
        "data.augment.mixup": 0.2,
        "optimizer.warmup_steps": 0,
      },
    ),
    ("bcosify_vit:simple_vit_b", {"data.batch_size": 512, "optimizer.warmup_steps": 50_000}),
    (
      "bcos_scratch:resnext50_32x4d",
      {
        "steps": "100 epochs",
        "optimizer.warmup_steps": "5 epochs",
        "optimizer.lr": 1e-3,
        "ops.family": "bcos_v2",
      },
    ),
    (
      "bcos_scratch:resnet50,long",
      {
        "steps": "600 epochs",
        "data.train_size": 176,
        "data.resize": 232,
        "data.batch_size": 1024,
        "data.augment.erase": 0.1,
        "data.augment.cutmix": 1.0,
        "data.augment.repeats": 4,
        "ema.decay": 0.99998,
        "ema.every": 32,
        "model.drop_path": 0.1,
      },
    ),
    ("bcos_scratch:densenet121,long", {"data.augment.repeats": 1}),
    (
      "baseline:vitc_l",
      {
        "optimizer.weight_decay": 1e-4,
        "optimizer.clip_norm": 1.0,
        "loss.name": "cross_entropy",
        "optimizer.agc": 0.0,
      },
    ),
  ],
)
def test_published_values(spec, expected):
  values = configs.flatten(configs.load_config(spec))
  assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
  "argument, near",
  [
    ("--config.data.augment.mixpu=0.2", "data.augment.mixup"),
    ("--config.optimizer.lrr=1", "optimizer.lr"),
    ("--config.ema.decya=0.9", "ema.decay"),
  ],
)
def test_misspelt_keys_name_the_nearest(argument, near):
  with pytest.raises(InputError, match=suggestion(near)):
    configs.load_config("bcosify_cnn", [argument])

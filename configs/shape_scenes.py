"""A small ResNet on ShapeScenes: 12 shapes and glyphs among distractors, 64 x 64 pixels.

  bcos-jax train --config=shape_scenes:conventional --workdir=runs/shapes/conventional
  bcos-jax train --config=shape_scenes:bcosify \
    --config.init=runs/shapes/conventional/bundle --workdir=runs/shapes/bcosified
  bcos-jax train --config=shape_scenes:scratch --workdir=runs/shapes/scratch
  bcos-jax train --config=shape_scenes:align --workdir=runs/shapes/aligned

`conventional` is a standard network, `bcosify` fine-tunes its B-cos twin (B=2, no biases;
arXiv 2411.00715) and `scratch` trains the same B-cos network from random weights. `match` and
`align` teach the B-cos twin without labels, from predictions and from features.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

MEAN, STD = (0.45, 0.45, 0.45), (0.27, 0.27, 0.27)


def get_config() -> ConfigDict:
  """Returns the recipe of the conventional network."""
  config = common.get_config()
  config.model.update(name="resnet8", num_classes=12, small_inputs=False)
  config.ops = ConfigDict({"family": "standard", "encoding": {"mean": MEAN, "std": STD}})
  config.data.update(name="shape_scenes", image_size=64, resize=0, cache=True)
  config.data.augment.crop = "shift"
  config.steps = 600
  config.loss.update(name="cross_entropy", eval_name="cross_entropy")
  config.optimizer.update(lr=3e-3, warmup_steps=50, agc=0.0)
  config.eval_every = 100
  return config


def conventional(config: ConfigDict) -> None:
  """Leaves the recipe as it is."""
  del config


def _bcos(config: ConfigDict) -> None:
  encoding = {"mean": MEAN, "std": STD, "pairing": "negated"}
  config.ops = ConfigDict({"family": "bcos", "b": 2.0, "encoding": encoding})
  config.loss.update(name="uniform_off_label_bce", eval_name="bce")
  config.optimizer.update(agc=0.01)


def scratch(config: ConfigDict) -> None:
  """Trains a B-cos network from random weights."""
  _bcos(config)
  config.optimizer.lr = 1e-2


def bcosify(config: ConfigDict) -> None:
  """Fine-tunes the B-cos twin of a conventional network."""
  _bcos(config)
  config.optimizer.lr = 3e-3
  config.init = "runs/shapes/conventional/bundle"


def match(config: ConfigDict) -> None:
  """Teaches the B-cos twin, from its closed form on, what the conventional network predicts."""
  bcosify(config)
  common.match(config, "runs/shapes/conventional/bundle")


def align(config: ConfigDict) -> None:
  """Teaches the B-cos twin, without labels, what a conventional network sees at all its depths."""
  bcosify(config)
  config.model.num_classes = 0
  config.init = ""
  config.objective.update(name="align", teacher="runs/shapes/conventional/bundle")
  config.steps = 600


def runlocal(config: ConfigDict) -> None:
  """Trains the conventional network for a minute at most."""
  config.update(steps=100, eval_every=50)


VARIANTS = {
  "conventional": conventional,
  "bcosify": bcosify,
  "scratch": scratch,
  "match": match,
  "align": align,
  "runlocal": runlocal,
}

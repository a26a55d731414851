"""A small ResNet on 8 x 8 handwritten digits, enlarged to 24 x 24; about a minute on a laptop.

  bcos-jax train --config=digits:conventional --workdir=runs/conventional
  bcos-jax train --config=digits:bcosify --config.init=runs/conventional/bundle \
    --workdir=runs/bcosified
  bcos-jax train --config=digits:scratch --workdir=runs/scratch

`conventional` is a standard network, `bcosify` fine-tunes its B-cos twin (B=2, no biases;
arXiv 2411.00715) and `scratch` trains the same B-cos network from random weights.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

# Of the training digits, which are grey.
MEAN, STD = (0.305,), (0.376,)


def get_config() -> ConfigDict:
  """Returns the recipe of the conventional network."""
  config = common.get_config()
  config.model.update(name="resnet8", num_classes=10)
  config.ops = ConfigDict({"family": "standard", "encoding": {"mean": MEAN, "std": STD}})
  config.data.update(name="digits", image_size=24, resize=0, cache=True)
  config.data.augment.crop = "shift"
  config.steps = 300
  config.loss.update(name="cross_entropy", eval_name="cross_entropy")
  config.optimizer.update(lr=3e-3, warmup_steps=20, agc=0.0)
  config.eval_every = 20
  return config


def conventional(config: ConfigDict) -> None:
  """Leaves the recipe as it is."""
  del config


def _bcos(config: ConfigDict, lr: float) -> None:
  encoding = {"mean": MEAN, "std": STD, "pairing": "negated"}
  config.ops = ConfigDict({"family": "bcos", "b": 2.0, "encoding": encoding})
  config.loss.update(name="uniform_off_label_bce", eval_name="bce")
  config.optimizer.update(lr=lr, agc=0.01)
  config.steps = 120


def scratch(config: ConfigDict) -> None:
  """Trains a B-cos network from random weights, at the best rate of 3e-3, 6e-3 and 1e-2."""
  _bcos(config, lr=1e-2)


def bcosify(config: ConfigDict) -> None:
  """Fine-tunes the B-cos twin of a conventional network."""
  _bcos(config, lr=1e-3)
  config.init = "runs/conventional/bundle"


def match(config: ConfigDict) -> None:
  """Teaches the B-cos twin, from its closed form on, what the conventional network predicts."""
  _bcos(config, lr=1e-3)
  common.match(config, "runs/conventional/bundle")


def runlocal(config: ConfigDict) -> None:
  """Trains the conventional network for a minute at most."""
  config.update(steps=100, eval_every=50)


VARIANTS = {
  "conventional": conventional,
  "bcosify": bcosify,
  "match": match,
  "scratch": scratch,
  "runlocal": runlocal,
}

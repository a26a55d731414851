"""A small ResNet on 8 x 8 handwritten digits, shown at 32 x 32; trains in a minute on a laptop.

  bcos-jax train --config=digits:conventional --workdir=runs/conventional
  bcos-jax train --config=digits:bcosify --config.init=runs/conventional/bundle \
    --workdir=runs/bcosified
  bcos-jax train --config=digits:scratch --workdir=runs/scratch

`conventional` is a standard network, `bcosify` fine-tunes its B-cos twin (B=2, no biases;
arXiv 2411.00715) and `scratch` trains the same B-cos network from random weights.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe of the conventional network."""
  config = common.get_config()
  config.model.update(name="resnet8", num_classes=10)
  config.data.update(name="digits", image_size=32, resize=0, augment="shift", cache=True)
  config.steps = 300
  config.loss.update(name="cross_entropy", eval_name="cross_entropy")
  config.optimizer.update(lr=3e-3, warmup_steps=20, agc=0.0)
  config.eval_every = 50
  return config


def conventional(config: ConfigDict) -> None:
  """Leaves the recipe as it is."""
  del config


def scratch(config: ConfigDict) -> None:
  """Trains a B-cos network from random weights."""
  config.ops = ConfigDict({"family": "bcos", "b": 2.0})
  config.loss.update(name="uniform_off_label_bce", eval_name="bce")
  config.optimizer.agc = 0.01


def bcosify(config: ConfigDict) -> None:
  """Fine-tunes the B-cos twin of a conventional network."""
  scratch(config)
  config.init = "runs/conventional/bundle"


VARIANTS = {"conventional": conventional, "bcosify": bcosify, "scratch": scratch}

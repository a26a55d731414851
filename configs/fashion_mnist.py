"""ResNet-20 or small vision transformers on Fashion-MNIST: clothes, shoes and bags, 28 x 28 grey.

  apt-get download dataset-fashion-mnist
  bcos-jax prepare fashion_mnist --source dataset-fashion-mnist_*.deb
  bcos-jax train --config=fashion_mnist:conventional --workdir=runs/fashion/conventional
  bcos-jax train --config=fashion_mnist:bcosify \
    --config.init=runs/fashion/conventional/bundle --workdir=runs/fashion/bcosified
  bcos-jax train --config=fashion_mnist:scratch --workdir=runs/fashion/scratch

`conventional` is a standard network, `bcosify` fine-tunes its B-cos twin (B=2, no biases;
arXiv 2411.00715) and `scratch` trains the same B-cos network from random weights. With `,vit`, as
in `fashion_mnist:conventional,vit`, each is a transformer of four blocks, and with `,vitc` one
behind a stem of convolutions. To choose
settings without the test pictures: --config.data.train_split=train[5000:] and
--config.data.test_split=train[:5000].
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

# Of the training pictures.
MEAN, STD = (0.286,), (0.353,)


def get_config() -> ConfigDict:
  """Returns the recipe of the conventional ResNet-20."""
  config = common.get_config()
  config.model.update(name="resnet20", num_classes=10, image_size=28)
  config.ops = ConfigDict({"family": "standard", "encoding": {"mean": MEAN, "std": STD}})
  config.data.update(name="fashion_mnist", image_size=28, resize=0, cache=True)
  config.data.update(batch_size=256, eval_batch_size=500)
  config.data.augment.update(crop="shift", shift=0.08, flip=0.5)  # by 2 pixels
  config.steps, config.log_every, config.eval_every = 1200, 50, 300
  config.loss.update(name="cross_entropy", eval_name="cross_entropy")
  config.optimizer.update(lr=3e-3, warmup_steps=100, agc=0.0, clip_norm=1.0, weight_decay=0.05)
  return config


def conventional(config: ConfigDict) -> None:
  """Leaves the recipe as it is."""
  del config


def _bcos(config: ConfigDict, lr: float) -> None:
  encoding = {"mean": MEAN, "std": STD, "pairing": "negated"}
  config.ops = ConfigDict({"family": "bcos", "b": 2.0, "encoding": encoding})
  config.loss.update(name="uniform_off_label_bce", eval_name="bce")
  config.data.batch_size = 128
  config.optimizer.update(lr=lr, warmup_steps=0, agc=0.01, clip_norm=0.0, weight_decay=0.0)
  config.steps, config.eval_every = 300, 100


def bcosify(config: ConfigDict) -> None:
  """Fine-tunes the B-cos twin of a conventional network."""
  _bcos(config, lr=3e-3)
  config.init = "runs/fashion/conventional/bundle"


def match(config: ConfigDict) -> None:
  """Teaches the B-cos twin, from its closed form on, what the conventional network predicts."""
  bcosify(config)
  common.match(config, "runs/fashion/conventional/bundle", blocks=2)


def align(config: ConfigDict) -> None:
  """Teaches the B-cos twin, without labels, what the conventional network sees at all depths."""
  bcosify(config)
  config.model.num_classes, config.init, config.steps = 0, "", 600
  config.objective.update(name="align", teacher="runs/fashion/conventional/bundle")


def scratch(config: ConfigDict) -> None:
  """Trains a B-cos network from random weights."""
  _bcos(config, lr=1e-2)


def _transformer(config: ConfigDict, steps: int, **sizes) -> None:
  config.model.update(width=96, depth=4, num_heads=4, mlp_dim=192, **sizes)
  config.data.batch_size = 128
  # So few epochs are better spent on the pictures as they are.
  config.data.augment = common.get_config().data.augment
  config.data.augment.flip = 0.5
  config.statistics = "batch"  # They have no batch norms.
  if config.ops.family == "standard":
    config.steps, config.optimizer.lr = steps, 3e-3
    config.optimizer.update(warmup_steps=200, b2=0.99)
  elif config.objective.name == "supervised":
    # As B-cos v2's recipes, lower rates than for ResNets.
    config.steps, config.optimizer.lr = 600, config.optimizer.lr / 3


def vit(config: ConfigDict) -> None:
  """Takes a transformer of 16 tokens in place of the ResNet-20."""
  _transformer(config, 3000, name="simple_vit_tiny", patch_size=7)


def vitc(config: ConfigDict) -> None:
  """Takes a transformer behind three convolutions in place of the ResNet-20."""
  _transformer(config, 2000, name="vitc_tiny", conv_stem=(16, 32, 64))


def runlocal(config: ConfigDict) -> None:
  """Trains a tiny network on handwritten digits, which need no archive, for a minute at most."""
  config.model.name, config.data.name = "resnet_tiny", "digits"
  config.update(steps=100, eval_every=50)
  config.data.batch_size = 64


VARIANTS = {
  "conventional": conventional,
  "bcosify": bcosify,
  "match": match,
  "align": align,
  "scratch": scratch,
  "vit": vit,
  "vitc": vitc,
  "runlocal": runlocal,
}

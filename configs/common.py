"""Parts that recipes share; the keys and their defaults are declared in sections.

A recipe module has `get_config() -> ConfigDict` and a table `VARIANTS` of functions that change
such a config. `--config=NAME:variant` picks one, `--config.a.b=value` changes single fields.
Durations are steps, or text such as "90 epochs".
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from .sections import KEYS, nested


def get_config() -> ConfigDict:
  """Returns the defaults; `model.name`, `data.name` and `steps` are for the recipe to set."""
  # A duration is a number or text; `config.settle` checks the types of all.
  defaults = {name: key.default for name, key in KEYS.items()}
  return ConfigDict(nested(defaults), type_safe=False)


def reset(config: ConfigDict, *sections: str) -> None:
  """Gives sections their defaults again, for a recipe that chooses something else than another."""
  defaults = get_config()
  for section in sections:
    config[section] = defaults[section]


def language_model() -> ConfigDict:
  """Returns what B-cos LM's published recipes share: AdamW, linear warm-up and decay."""
  config = get_config()
  config.data.update(batch_size=16, eval_batch_size=64)
  config.optimizer.update(schedule="linear", agc=0.0, warmup_steps="0.5 epochs")
  config.steps, config.log_every = "5 epochs", 50
  config.eval_every = config.checkpoint_every = 1000
  config.best = True
  return config


def match(config: ConfigDict, teacher: str, *, blocks: int = 0) -> None:
  """Lets a B-cos twin, from its closed form on, learn what a conventional network predicts.

  The loss' optimum is what the closed form aims at, and its statistics stay: nothing is undone.

  Args:
    config: Recipe of the twin's fine-tuning.
    teacher: Bundle of the conventional network.
    blocks: Rounds of the closed form's second sweep.
  """
  config.objective.update(name="match", teacher=teacher)
  config.update(init="", calibrate=512, calibrate_blocks=blocks, statistics="running", steps=100)
  config.loss.name = "bce"
  config.optimizer.update(lr=1e-3, warmup_steps=10, b2=0.99, agc=0.0)
  config.data.augment = get_config().data.augment


def imagenet() -> ConfigDict:
  """Returns what the published ImageNet recipes share: data, crops, mirroring, clipping."""
  config = get_config()
  config.model.num_classes = 1000
  config.data.update(name="imagenet2012", test_split="validation", workers=16)
  config.data.augment.update(crop="random_resized", flip=0.5)
  config.log_every = 100
  config.eval_every = config.checkpoint_every = "1 epoch"
  return config


def vit(config: ConfigDict, family: str, size: str) -> None:
  """Names a SimpleViT or ViTc of B-cos v2 and sets its 90 epochs, batch and warm-up."""
  patch = "patch16_224" if family == "simple_vit" else "patch1_14"
  config.model.name = f"{family}_{size}_{patch}"
  config.steps = "90 epochs"
  large = size == "l" or (family, size) == ("simple_vit", "b")
  config.data.batch_size = 512 if large else 1024
  config.optimizer.warmup_steps = 50_000 if large else 10_000


def cifar10(config: ConfigDict) -> None:
  """Makes a recipe one of the norm ablations of B-cos v2 on CIFAR-10."""
  config.model.update(name="resnet20", num_classes=10)
  config.data.update(name="cifar10", test_split="test", image_size=32, resize=0, batch_size=64)
  config.data.augment.update(crop="shift", flip=0.5)
  config.optimizer.update(name="adam", lr=1e-3, schedule="cosine_epochs", warmup_steps=0, agc=0.0)
  config.loss.update(name="bce", eval_name="bce")
  config.steps = "100 epochs"


def runlocal(name: str) -> Callable[[ConfigDict], None]:
  """Returns a variant that runs a recipe for real in a minute on a laptop, offline.

  It keeps the recipe's family, optimiser, loss and augmentation, and takes a tiny network and
  handwritten digits in place of the rest.
  """

  def variant(config: ConfigDict) -> None:
    labelled = config.objective.name == "supervised"
    config.model = ConfigDict({"name": name, "num_classes": 10 if labelled else 0})
    config.init, config.redraw, config.objective.teacher_model = "", (), ""
    config.data.update(name="digits", folder="", test_split="test", workers=0, batch_size=64)
    config.data.update(unlabelled=False, held_out=0.2, balance=0.0)
    config.data.update(image_size=32, train_size=0, resize=0)
    config.data.augment.update(scale=(0.6, 1.0), flip=0.0)
    config.optimizer.update(lr=3e-3, warmup_steps=20)
    config.steps, config.log_every = 100, 10
    config.eval_every, config.checkpoint_every, config.keep_every = 50, 0, 0

  return variant


def conventional(config: ConfigDict) -> None:
  """Makes a recipe that of the conventional network."""
  config.ops = ConfigDict({"family": "standard"})


def runlocal_texts(name: str) -> Callable[[ConfigDict], None]:
  """Returns the like of `runlocal` for language models, on texts that are made here."""

  def variant(config: ConfigDict) -> None:
    decoder, labelled = config.objective.name == "causal_lm", config.objective.name == "text"
    config.model = ConfigDict({"name": "gpt2_tiny" if decoder else "bert_tiny", "num_classes": 0})
    config.model.update(width=64, mlp_dim=128, context_length=128, num_classes=2 * labelled)
    config.init = ""
    config.data.update(name=name, text="text", test_split="test[:500]", batch_size=32)
    config.data.train_split = "train" if labelled else "unlabelled[:4000]"
    config.data.tokenizer = "reviews/decoder" if decoder else "reviews"
    config.data.max_length = 64 if decoder else 0
    config.optimizer.update(lr=2e-3, warmup_steps=30)
    config.steps, config.log_every = 300, 10
    config.eval_every = config.checkpoint_every = 100

  return variant

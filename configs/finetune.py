"""Fine-tuning of a pretrained network on a user's pictures, with explanations.

  bcos-jax train --config=finetune --config.init=bundles/resnet18 --config.data.folder=pictures \
    --workdir=runs/mine

The folder holds one folder per class (or `train` and `val` with one per class each), or pictures
with a table of one label or several each: `--config.data.labels=labels.csv`. A conventional network
is B-cosified (arXiv 2411.00715), a B-cos network is taken as it is; the head is new. The run ends
with the best evaluated state as a bundle, evaluation.json, and report.html.

What is 0, -1 or "" here is chosen by the size of the data (`bcos_jax.train.finetune.sizes`):

  training pictures   batch   steps                      evaluations
  up to 160           8       300, or 20 epochs if more  20
  up to 640           16, 32  as above                   20
  up to 100,000       64      20 epochs, at most 50,000  20
  more                256     20 epochs, at most 50,000  20
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe; `init` and `data.folder` (or `data.name`) are to be set."""
  config = common.get_config()
  config.finetune = config.best = True
  config.ops = ConfigDict({"family": "bcos"})  # B=2; of a B-cos network it is not asked
  config.data.update(batch_size=0, eval_batch_size=64, image_size=0, workers=-1)
  # Half way between the classes as they are and all equally often; damaged pictures are counted.
  config.data.update(balance=0.5, damaged="skip")
  config.data.augment.update(crop="random_resized", scale=(0.35, 1.0), flip=0.5)
  config.loss.update(name="", eval_name="")
  config.optimizer.update(name="adamw", lr=1e-3)
  config.log_every = 0
  return config


def _runlocal(config: ConfigDict) -> None:
  common.runlocal("resnet_tiny")(config)
  config.model.num_classes = 0


VARIANTS = {"runlocal": _runlocal}

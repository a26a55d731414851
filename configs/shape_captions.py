"""A small CLIP trained on captions of ShapeScenes: an image tower and a text tower.

  bcos-jax train --config=shape_scenes:conventional --workdir=runs/shapes/conventional
  bcos-jax train --config=shape_captions --workdir=runs/captions
  bcos-jax train --config=shape_captions:bcosify --workdir=runs/captions/bcosified \
    --config.objective.teacher=runs/captions/bundle

Captions such as "a red star with a bar on a blue ground" name the object of the class and, only
sometimes, colours, the ground and distractors. The image tower begins as a classifier without its
head, for so few captions teach no forms from scratch (as in LiT, arXiv 2111.07991, but not locked).
The second command leaves it in `bundle`, and the text tower in `text` and `tokenizer`; the third
B-cosifies the image tower, which learns
the embeddings of the first from pictures alone (arXiv 2411.00715, section 5).
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common, shape_scenes

END = 1  # Id of the token that ends a text.


def get_config() -> ConfigDict:
  """Returns the recipe of the conventional pair."""
  config = shape_scenes.get_config()
  common.reset(config, "loss")  # Captions are not labels.
  config.model.num_classes = 0
  config.objective.name = "pairs"
  config.init = "runs/shapes/conventional/bundle"
  config.text = ConfigDict({"name": "clip_text_test", "pool": "eos", "eos_token": END})
  config.text.update(context_length=20, width=64, mlp_dim=128, projection=64)
  config.data.eval_batch_size = 100
  config.steps = 500
  config.optimizer.lr = 2e-3
  return config


def pretrain(config: ConfigDict) -> None:
  """Leaves the recipe as it is."""
  del config


def bcosify(config: ConfigDict) -> None:
  """Teaches the B-cosified image tower what the conventional one sees."""
  shape_scenes.bcosify(config)
  common.reset(config, "text", "loss")
  config.init = ""
  config.objective.update(name="clip", teacher="runs/captions/bundle")
  config.steps = 600


def runlocal(config: ConfigDict) -> None:
  """Trains the pair for a minute at most, from random weights."""
  config.update(init="", steps=100, eval_every=50)


VARIANTS = {"pretrain": pretrain, "bcosify": bcosify, "runlocal": runlocal}

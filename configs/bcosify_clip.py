"""B-cosification of CLIP's image tower, its own teacher (arXiv 2411.00715, section 5).

  bcos-jax convert openai/clip-rn50.pt bundles/clip_resnet50 --architecture=clip_resnet50
  bcos-jax train --config=bcosify_clip --workdir=runs/clip
  bcos-jax train --config=bcosify_clip:pictures --config.data.folder=cc3m --workdir=runs/clip_cc3m

The student, with six channels, B=2 and without biases, learns the teacher's embeddings from
pictures alone: SigLIP's loss, in which the teacher's embeddings stand for texts. Negatives come
from the whole batch; the published code has those of one device:
--config.objective.negatives=device. All weights are copied; the published code left out those of
the convolutions. The text tower stays as it is. A vision transformer: `bcosify_clip:vit_b16`. On
one machine: `bcosify_clip:runlocal` with the bundle of any small tower.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def get_config() -> ConfigDict:
  """Returns the recipe of the ResNet-50 on ImageNet's pictures."""
  config = common.imagenet()
  config.objective.name = "clip"
  encoding = {"mean": MEAN, "std": STD, "pairing": "negated"}
  config.ops = ConfigDict({"family": "bcos", "b": 2.0, "encoding": encoding})
  config.data.update(batch_size=256, interpolation="bicubic", resize=224)
  config.steps, config.best = "90 epochs", True
  config.optimizer.update(name="adam", lr=1e-4, schedule="cosine_epochs", warmup_steps=0)
  resnet50(config)
  return config


def resnet50(config: ConfigDict) -> None:
  """Takes OpenAI's ResNet-50."""
  _tower(config, "clip_resnet50")


def vit_b16(config: ConfigDict) -> None:
  """Takes OpenAI's ViT-B/16."""
  _tower(config, "clip_vit_base_patch16")


def _tower(config: ConfigDict, name: str) -> None:
  config.model = ConfigDict({"name": name, "num_classes": 0})
  config.objective.teacher = f"bundles/{name}"


def pictures(config: ConfigDict) -> None:
  """Takes any pictures, such as CC3M's, as files or WebDataset shards below data.folder."""
  config.data.update(name="", folder="pictures", unlabelled=True, held_out=0.01, damaged="skip")
  config.data.test_split = "test"


VARIANTS = {
  "pictures": pictures,
  "resnet50": resnet50,
  "vit_b16": vit_b16,
  "runlocal": common.runlocal("clip_resnet_test"),
}

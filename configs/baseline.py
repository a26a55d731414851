"""Training of conventional networks, the baselines and starting points of the papers.

  bcos-jax train --config=baseline:vitc_s --workdir=runs/vitc_s
  bcos-jax train --config=baseline:resnet50 --workdir=runs/resnet50

Published top-1 of the ViTs (B-cos v2, `standard_*`), SimpleViT: ti 70.2, s 74.5, b 75.3, l 75.7;
ViTc: ti 72.6, s 75.8, b 76.8, l 77.9. ResNets follow torchvision's first recipe: resnet18 69.8,
resnet50 76.1.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe of ResNet-50."""
  config = common.imagenet()
  config.ops = ConfigDict({"family": "standard"})
  config.loss.update(name="cross_entropy", eval_name="cross_entropy")
  _resnet(config, "resnet50")
  return config


def _resnet(config: ConfigDict, name: str) -> None:
  config.model.name = name
  config.steps = "90 epochs"
  config.data.batch_size = 256
  config.optimizer.update(
    name="sgd", lr=0.1, schedule="step_epochs", weight_decay=1e-4, momentum=0.9, agc=0.0
  )


def _vit(config: ConfigDict, family: str, size: str) -> None:
  config.optimizer.update(
    name="adamw", lr=1e-3, schedule="cosine", weight_decay=1e-4, agc=0.0, clip_norm=1.0
  )
  config.data.augment.update(policy="rand_augment", mixup=0.2)
  common.vit(config, family, size)


VARIANTS = {
  "runlocal": common.runlocal("resnet_tiny"),
  **{
    name: lambda config, name=name: _resnet(config, name)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
  },
  **{
    f"{family}_{size}": lambda config, f=family, s=size: _vit(config, f, s)
    for family in ("simple_vit", "vitc")
    for size in ("ti", "s", "b", "l")
  },
}

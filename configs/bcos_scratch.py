"""Training of B-cos networks from scratch: B-cos v2 (arXiv 2306.10898), ImageNet and CIFAR-10.

  bcos-jax train --config=bcos_scratch:resnet50 --workdir=runs/bcos_resnet50
  bcos-jax train --config=bcos_scratch:resnet50,long --workdir=runs/bcos_resnet50_long
  bcos-jax train --config=bcos_scratch:cifar10 --config.model.name=resnet56 \
    --config.ops.norm=all_uncentered --workdir=runs/cifar

Published top-1 after 90 epochs: resnet18 68.7, resnet50 75.9, densenet121 73.6, vgg11_bnu 69.3,
convnext_tiny 77.5, convnext_base 79.7; resnet50 long (600 epochs) 79.5; vitc_ti 67.3, vitc_b 77.2.
`bcos-jax models` lists all of them.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common

CNNS = (
  *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
  *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
  *("resnext50_32x4d", "vgg11_bnu"),
  *(f"convnext_{size}{norm}" for size in ("tiny", "base") for norm in ("", "_bnu")),
)


def get_config() -> ConfigDict:
  """Returns the 90-epoch recipe of ResNet-50."""
  config = common.imagenet()
  config.ops = ConfigDict({"family": "bcos_v2"})
  config.data.batch_size = 256
  config.optimizer.update(name="adam", lr=1e-3, schedule="cosine_epochs", warmup_steps="5 epochs")
  _cnn(config, "resnet50")
  return config


def _cnn(config: ConfigDict, name: str) -> None:
  config.model.name = name
  config.steps = "100 epochs" if name.startswith("resnext") else "90 epochs"


def long(config: ConfigDict) -> None:
  """The 600-epoch recipe; for ResNets with stochastic depth, for others with none."""
  config.steps = "600 epochs"
  config.data.update(batch_size=1024, train_size=176, resize=232)
  config.data.augment.update(policy="trivial_augment_wide", erase=0.1, mixup=0.2, cutmix=1.0)
  config.ema.decay = 0.99998
  if config.model.name.startswith("resnet"):
    config.model.drop_path = 0.1
  if not config.model.name.startswith("densenet"):
    config.data.augment.repeats = 4


def _vit(config: ConfigDict, family: str, size: str) -> None:
  config.optimizer.schedule = "cosine"
  config.data.augment.update(policy="rand_augment", mixup=0.2)
  common.vit(config, family, size)


def cifar10(config: ConfigDict) -> None:
  """ResNet-20 on CIFAR-10, one of the norm ablations; no clipping, MaxOut of two units."""
  common.cifar10(config)
  config.ops.max_out = 2


VARIANTS = {
  "runlocal": common.runlocal("resnet_tiny"),
  **{name: lambda config, name=name: _cnn(config, name) for name in CNNS},
  **{
    f"{family}_{size}": lambda config, f=family, s=size: _vit(config, f, s)
    for family in ("simple_vit", "vitc")
    for size in ("ti", "s", "b", "l")
  },
  "long": long,
  "cifar10": cifar10,
}

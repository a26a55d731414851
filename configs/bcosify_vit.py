"""B-cosification of pretrained SimpleViT or ViTc on ImageNet (arXiv 2411.00715, table 3).

  bcos-jax convert standard_vitc_b_patch1_14-4d374b0220.pth bundles/vitc_b_patch1_14 \
    --architecture=vitc_b_patch1_14
  bcos-jax train --config=bcosify_vit:vitc_b --workdir=runs/vitc_b

Published top-1 (B-cosified; pretrained; B-cos from scratch), SimpleViT: ti 69.3 (70.3; 60.0),
s 75.2 (74.4; 69.2), b 75.3 (75.3; 74.4), l 75.5 (75.8; 75.1). ViTc: ti 72.3 (72.6; 67.3),
s 76.0 (75.7; 74.5), b 76.7 (76.8; 77.1), l 77.1 (77.9; 77.8). The options are those of bcosify_cnn.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe of ViTc-Ti."""
  config = common.imagenet()
  config.ops = ConfigDict({"family": "bcos", "b": 2.0})
  config.steps = "90 epochs"
  config.optimizer.update(name="adam", lr=1e-3)
  config.data.augment.update(policy="rand_augment", mixup=0.2)
  _network(config, "vitc", "ti")
  return config


def _network(config: ConfigDict, family: str, size: str) -> None:
  common.vit(config, family, size)
  config.init = f"bundles/{config.model.name}"
  if size in ("ti", "s"):
    config.optimizer.warmup_steps = 0


VARIANTS = {
  "runlocal": common.runlocal("vitc_tiny"),
  **{
    f"{family}_{size}": lambda config, f=family, s=size: _network(config, f, s)
    for family in ("simple_vit", "vitc")
    for size in ("ti", "s", "b", "l")
  },
}

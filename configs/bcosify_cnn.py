"""B-cosification of pretrained CNNs on ImageNet (arXiv 2411.00715, table 2).

  bcos-jax convert resnet18-f37072fd.pth bundles/resnet18 --architecture=resnet18
  bcos-jax train --config=bcosify_cnn:resnet18 --workdir=runs/resnet18

Published top-1 (B-cosified; pretrained; B-cos from scratch): resnet18 71.5 (69.8; 68.7),
resnet50_v1 76.5 (76.1; 75.9), resnet50_v2 77.3 (80.9; 75.9), densenet121 76.3 (74.4; 73.6).

Options of the study, each a single key: B by `ops.b`, `optimizer.b_schedule` or `ops.learn_b` with
`optimizer.b_decay`; biases by `ops.use_bias` and `optimizer.bias_decay`; `ops.norm`,
`ops.keep_activations`, `ops.pool`, `ops.head_order`.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe of ResNet-18."""
  config = common.imagenet()
  config.ops = ConfigDict({"family": "bcos", "b": 2.0})
  config.steps = "90 epochs"
  config.data.batch_size = 256
  config.optimizer.update(name="adamw", lr=1e-4, schedule="cosine_epochs")
  _start(config, "resnet18")
  return config


def _start(config: ConfigDict, bundle: str) -> None:
  config.model.name = bundle.partition("_v")[0]
  config.init = f"bundles/{bundle}"


VARIANTS = {
  "runlocal": common.runlocal("resnet_tiny"),
  **{
    bundle: lambda config, bundle=bundle: _start(config, bundle)
    for bundle in ("resnet18", "resnet50_v1", "resnet50_v2", "densenet121")
  },
}

"""Recipe: the network of `typegroups.py`, in closed form, learns what its teacher predicts.

    bcos-jax train --config=benchmarks/match_pages.py --workdir=runs/pages

Its pictures are the pages of `drawn_pages.py`, without labels; none is seen twice.
"""

from ml_collections import ConfigDict

from bcos_jax.configs import common


def get_config() -> ConfigDict:
  """Returns the recipe; a few pages are held out to watch the loss, the tests are others."""
  config = common.get_config()
  config.model.update(name="densenet121", num_classes=12)
  encoding = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "pairing": "negated"}
  config.ops = ConfigDict({"family": "bcos", "b": 2.0, "encoding": encoding})
  config.data.update(folder="pages/match", unlabelled=True, held_out=0.05)
  config.data.update(batch_size=8, eval_batch_size=8, resize=224, interpolation="bilinear")
  config.loss.eval_name = "bce"
  common.match(config, "bundles/typegroups")
  config.update(init="bundles/closed", calibrate=0, steps=64, log_every=4, eval_every=32)
  # A thirtieth of what 20 layers bear: at 1e-4 the first steps undo the fit of these 121.
  config.optimizer.update(lr=3e-5, warmup_steps=5)
  return config


VARIANTS: dict = {}

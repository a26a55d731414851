"""Memory of parameters and optimiser state per chip, sharded over 256 chips.

    python benchmarks/state.py

Nothing is allocated: shapes and shardings say it. An array none of whose dimensions is a multiple
of 256 is on every chip, which shows where channels are few. Exits with 1 if a chip holds more than
1.1 times its equal share of ViT-L.
"""

from __future__ import annotations

import argparse
import math
import sys

import jax

from bcos_jax.train import objectives, plan, sharding, start
from bcos_jax.train.config import load_config

CHIPS = 256
MOST = 1.1
FSDP = ("--config.mesh.data=1", "--config.mesh.fsdp=-1", '--config.layout=(("", "fsdp"),)')
BOUND = "bcosify_vit:simple_vit_l"
RECIPES = (BOUND, "bcosify_vit:vitc_l", "bcosify_cnn:resnet50_v1")


def main() -> int:
  """Prints a table and returns the exit code."""
  argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  ).parse_args()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", CHIPS)
  print(f"{'recipe':<28}{'whole (MB)':>12}{'chip (MB)':>12}{'chip / equal share':>20}")
  within = True
  for recipe in RECIPES:
    config = load_config(recipe, ["--config.init=", *FSDP])
    model, _ = start.network(config)
    mesh = sharding.make_mesh(config.mesh)
    objective, frozen = objectives.from_config(config, model, mesh)
    layout = plan.make(config, objective, None, frozen, mesh, 1000).layout
    whole, chip = nbytes((layout.params, layout.opt_state))
    share = chip / (whole / CHIPS)
    within &= share <= MOST or recipe != BOUND
    print(f"{recipe:<28}{whole / 1e6:>12.2f}{chip / 1e6:>12.3f}{share:>20.3f}", flush=True)
  return int(not within)


def nbytes(tree) -> tuple[int, int]:
  """Returns the bytes of all arrays, and of what one device holds of them."""
  leaves = jax.tree.leaves(tree)
  whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
  chip = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
  return whole, chip


if __name__ == "__main__":
  sys.exit(main())

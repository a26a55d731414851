"""Communication volume of a sharded training step, read off the compiled program.

    python benchmarks/collectives.py

Each step is compiled for eight virtual devices at two batch sizes. Gradients and batch statistics
have the same size at both, activations do not, so equal bytes mean that no activation is sent.
Exits with 1 if they differ, or if a step without FSDP gathers anything.
"""

from __future__ import annotations

import argparse
import math
import sys

import jax
from ml_collections import ConfigDict

from bcos_jax.train import objectives, plan, sharding, start
from bcos_jax.train.config import load_config
from bcos_jax.train.estimates import pod

DEVICES = 8
FSDP = ("--config.mesh.data=1", "--config.mesh.fsdp=-1", '--config.layout=(("", "fsdp"),)')
STEPS = {
  "ResNet-50": ("bcosify_cnn:resnet50_v1", ()),
  "ViT-B/16": ("bcosify_vit:simple_vit_b", ()),
  "ViT-B/16, FSDP": ("bcosify_vit:simple_vit_b", FSDP),
}
BATCHES = (16, 32)


def main() -> int:
  """Prints a table and returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--image_size", type=int, default=64, help="parameters do not depend on it")
  side = parser.parse_args().image_size
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", DEVICES)
  # The program is only read: what is sent is decided before most of the compiler's work.
  jax.config.update("jax_disable_most_optimizations", True)
  columns = f"{'count':>6}{'MB':>10}{'/ parameters':>14}  equal at both batches"
  print(f"{'step':<16}{'collective':<20}{columns}")
  wrong = False
  for name, (recipe, flags) in STEPS.items():
    found, nbytes = [], 0
    for batch in BATCHES:
      size = (f"--config.data.image_size={side}", f"--config.data.batch_size={batch}")
      sent, nbytes = collectives(load_config(recipe, ["--config.init=", *size, *flags]))
      found.append(sent)
    for kind, (count, sent) in sorted(found[0].items()):
      equal = found[1].get(kind) == (count, sent)
      wrong |= not equal or (not flags and kind != "all-reduce")
      row = f"{count:>6}{sent / 1e6:>10.2f}{sent / nbytes:>14.3f}  {'yes' if equal else 'NO'}"
      print(f"{name:<16}{kind:<20}{row}", flush=True)
  return int(wrong)


def collectives(config: ConfigDict) -> tuple[dict[str, tuple[int, int]], int]:
  """Compiles a recipe's step; returns its collectives and the bytes of its parameters."""
  mesh = sharding.make_mesh(config.mesh)
  model, _ = start.network(config)
  objective, frozen = objectives.from_config(config, model, mesh)
  made = plan.make(config, objective, None, frozen, mesh, 1000)
  batch = pod.abstract_batch(config, model, mesh)
  compiled = made.train_step.lower(made.layout, batch, made.frozen).compile()
  leaves = jax.tree.leaves(made.layout.params)
  return pod.collectives(compiled.as_text()), 4 * sum(math.prod(x.shape) for x in leaves)


if __name__ == "__main__":
  sys.exit(main())

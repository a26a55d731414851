"""Cost of a B-cos training step beside the conventional one, compiled for a TPU v5e.

No TPU is needed: libtpu (`pip install libtpu`) compiles for a described chip, and the compiler's
own analysis gives FLOPs, bytes moved to and from memory, and the memory of temporaries.

    python benchmarks/cost.py
    python benchmarks/cost.py --models resnet50 --batch 64
"""

from __future__ import annotations

import argparse
import os
import time

# Read by libtpu when JAX loads it: describe a chip instead of looking for one.
os.environ |= {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import optax

import bcos_jax
from bcos_jax.train import losses
from bcos_jax.train.optimizer import Optimizer
from bcos_jax.train.state import create as create_state
from bcos_jax.train.step import make_train_step

FAMILIES = {
  "conventional": bcos_jax.StandardOps(dtype="bfloat16"),
  "B-cos": bcos_jax.BcosOps(dtype="bfloat16"),
}
METRICS = {"FLOPs (G)": 1e9, "bytes (GB)": 1e9, "temporary (GB)": 1e9, "compile (s)": 1}


def chip() -> jax.sharding.SingleDeviceSharding:
  """Returns the placement on one TPU v5e chip that this machine need not have."""
  topology = topologies.get_topology_desc(
    "v5e:1x1x1", "tpu", chips_per_host_bounds=(1, 1, 1), num_slices=1
  )
  return jax.sharding.SingleDeviceSharding(topology.devices[0])


def compile_step(name: str, family: str, batch: int, placement) -> jax.stages.Compiled:
  """Compiles the training step of an architecture: bfloat16 compute, float32 parameters, AdamW."""
  model = bcos_jax.create(name, ops=FAMILIES[family])
  rate = optax.constant_schedule(1e-3)
  optimizer = Optimizer(optax.adamw(rate, weight_decay=1e-4), rate, None)

  def start():
    shape = (1, model.image_size, model.image_size, model.ops.encoding.channels)
    variables = model.init(jax.random.key(0), jnp.zeros(shape))
    return create_state(variables, optimizer, jax.random.key(1))

  state = jax.eval_shape(start)
  images = jax.ShapeDtypeStruct((batch, model.image_size, model.image_size, 3), jnp.float32)
  data = {"image": images, "label": jax.ShapeDtypeStruct((batch,), jnp.int32)}
  state, data = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement), (state, data)
  )
  shardings = jax.tree.map(lambda leaf: placement, state)
  step = make_train_step(model, losses.uniform_off_label_bce, optimizer, shardings)
  return step.lower(state, data).compile()


def measure(name: str, family: str, batch: int, placement, hlo: str | None) -> list[float]:
  """Returns the values of METRICS; writes the optimised program to the folder `hlo` if given."""
  start = time.perf_counter()
  compiled = compile_step(name, family, batch, placement)
  seconds = time.perf_counter() - start
  if hlo:
    os.makedirs(hlo, exist_ok=True)
    with open(os.path.join(hlo, f"{name}.{family}.txt"), "w") as file:
      file.write(compiled.as_text())
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  return [cost["flops"], cost["bytes accessed"], memory.temp_size_in_bytes, seconds]


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--models", nargs="+", default=["resnet50", "simple_vit_b_patch16_224"])
  parser.add_argument("--batch", type=int, default=256)
  parser.add_argument("--hlo", help="folder for the optimised programs, as text")
  args = parser.parse_args()
  print(f"jax {jax.__version__}, TPU v5e, batch {args.batch}, bfloat16, AdamW")
  placement = chip()
  for name in args.models:
    rows = {family: measure(name, family, args.batch, placement, args.hlo) for family in FAMILIES}
    print(f"\n{name:<26}" + "".join(f"{family:>14}" for family in FAMILIES) + f"{'ratio':>8}")
    for i, (metric, unit) in enumerate(METRICS.items()):
      values = [row[i] for row in rows.values()]
      print(
        f"{metric:<26}"
        + "".join(f"{value / unit:>14.3f}" for value in values)
        + f"{values[1] / values[0]:>8.3f}"
      )


if __name__ == "__main__":
  main()

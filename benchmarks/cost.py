"""Cost of a B-cos training step against the conventional one, compiled for a TPU v5e.

No TPU is needed: libtpu (`pip install libtpu`) compiles for a described chip. FLOPs and bytes moved
to and from memory are XLA's count over the optimised program, temporaries are what its buffer
assignment lays out. Machine code, which takes minutes more and changes none of this, is not waited
for, unless --full asks for it; then the numbers are those of the finished executable.

    python benchmarks/cost.py
    python benchmarks/cost.py --models resnet50 --batch 64
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import re
import shutil
import tempfile
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

# Not public: nothing public analyses a program that has no executable.
from jaxlib import _hlo, _jax
import optax
from plain_flax import PlainResNet50

import bcos_jax
from bcos_jax.train.objectives import Supervised, losses
from bcos_jax.train.optimizer import Optimizer
from bcos_jax.train.state import create as create_state
from bcos_jax.train.step import make_train_step

FAMILIES = {
  "conventional": bcos_jax.StandardOps(dtype="bfloat16"),
  "B-cos": bcos_jax.BcosOps(dtype="bfloat16"),
}
PLAIN = "Flax alone"  # ResNet-50 only, see `plain_flax`
# What XLA has written once a program is optimised and its memory laid out, in this order.
PROGRAM = "*jit_step*after_optimizations.txt"
BUFFERS = "*jit_step*buffer-assignment.txt"
POLL, SETTLED = 0.2, 1.0  # seconds between looks; seconds without growth of a finished file
METRICS = {"FLOPs (G)": 1e9, "bytes (GB)": 1e9, "temporary (GB)": 1e9, "compile (s)": 1}


def chip() -> jax.sharding.SingleDeviceSharding:
  """Returns the placement on one TPU v5e chip that this machine need not have."""
  topology = topologies.get_topology_desc(
    "v5e:1x1x1", "tpu", chips_per_host_bounds=(1, 1, 1), num_slices=1
  )
  return jax.sharding.SingleDeviceSharding(topology.devices[0])


def lower_step(name: str, family: str, batch: int) -> jax.stages.Lowered:
  """Lowers the training step of an architecture: bfloat16 compute, float32 parameters, AdamW."""
  placement = chip()
  model = PlainResNet50() if family == PLAIN else bcos_jax.create(name, ops=FAMILIES[family])
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
  step = make_train_step(Supervised(model, losses.uniform_off_label_bce), optimizer, shardings)
  return step.lower(state, data, {})


def compile_into(folder: str, name: str, family: str, batch: int):
  """Compiles a step; XLA writes its optimised program to `folder` on the way."""
  options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
  lower_step(name, family, batch).compile(compiler_options=options)


def optimise(folder: pathlib.Path, name: str, family: str, batch: int):
  """Lets another process compile a step, and stops it where code generation begins.

  Raises:
    RuntimeError: The process ended without a program; its own message is on stderr.
  """
  arguments = (str(folder), name, family, batch)
  process = multiprocessing.get_context("spawn").Process(target=compile_into, args=arguments)
  process.start()
  size, since = 0, time.monotonic()
  try:
    while process.is_alive():
      written = sum(file.stat().st_size for file in folder.glob(BUFFERS))
      if written != size:
        size, since = written, time.monotonic()
      elif size and time.monotonic() - since > SETTLED:
        break
      time.sleep(POLL)
  finally:
    process.kill()
    process.join()
  if not size:
    size = sum(file.stat().st_size for file in folder.glob(BUFFERS))
  if not size:
    raise RuntimeError(f"XLA wrote no program of {name}, {family}.")


def analyse(folder: pathlib.Path) -> tuple[str, list[float]]:
  """Returns the optimised program in `folder`, and its FLOPs, bytes and temporary bytes."""
  (program,), (buffers,) = (list(folder.glob(pattern)) for pattern in (PROGRAM, BUFFERS))
  text = program.read_text()
  client = jax.devices("cpu")[0].client
  cost = _jax.hlo_module_cost_analysis(client, _hlo.hlo_module_from_text(text))
  # A buffer with a "color" lies in a memory on the chip, not in the main one.
  sizes = re.findall(
    r"^allocation \d+: size (\d+), page \d+, preallocated-temp", buffers.read_text(), re.MULTILINE
  )
  return text, [cost["flops"], cost["bytes accessed"], float(sum(map(int, sizes)))]


def measure(name: str, family: str, batch: int, full: bool) -> tuple[str, list[float]]:
  """Returns the optimised program of a step and the values of METRICS."""
  start = time.perf_counter()
  if full:
    compiled = lower_step(name, family, batch).compile()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    text = compiled.as_text()
    values = [cost["flops"], cost["bytes accessed"], memory.temp_size_in_bytes]
    return text, [*values, time.perf_counter() - start]
  folder = pathlib.Path(tempfile.mkdtemp(prefix="bcos_cost_"))
  try:
    optimise(folder, name, family, batch)
    seconds = time.perf_counter() - start
    text, values = analyse(folder)
    return text, [*values, seconds]
  finally:
    shutil.rmtree(folder)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--models", nargs="+", default=["resnet50", "simple_vit_b_patch16_224"])
  parser.add_argument("--batch", type=int, default=256)
  parser.add_argument("--hlo", help="folder for the optimised programs, as text")
  parser.add_argument("--full", action="store_true", help="compile to machine code (slow)")
  args = parser.parse_args()
  print(f"jax {jax.__version__}, TPU v5e, batch {args.batch}, bfloat16, AdamW")
  for name in args.models:
    rows = {}
    for family in FAMILIES:
      program, rows[family] = measure(name, family, args.batch, args.full)
      if args.hlo:
        os.makedirs(args.hlo, exist_ok=True)
        pathlib.Path(args.hlo, f"{name}.{family}.txt").write_text(program)
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

"""Run time of a B-cos network against the conventional one on this machine's CPU.

Inference and one training pass (forward and backward) in float32. The families take turns, so
that a busy moment of the machine hits both; the ratio of the minima is the number to read.

    python benchmarks/cpu.py
    XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= python benchmarks/cpu.py    # often faster
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import bcos_jax
from bcos_jax.train.objectives import losses

FAMILIES = {"conventional": bcos_jax.StandardOps(), "B-cos": bcos_jax.BcosOps()}


def inference(model, batch: int):
  """Returns a compiled forward pass and its arguments."""
  variables, images = start(model, batch)
  return jax.jit(lambda v, x: model.apply(v, model.ops.encoding(x))), (variables, images)


def training(model, batch: int):
  """Returns a compiled forward and backward pass with batch statistics, and its arguments."""
  variables, images = start(model, batch)
  rest = {k: v for k, v in variables.items() if k != "params"}

  def loss(params, x):
    logits, updates = model.apply(
      {"params": params, **rest}, model.ops.encoding(x), train=True, mutable=["batch_stats"]
    )
    labels = jnp.arange(batch) % logits.shape[-1]
    return jnp.mean(losses.uniform_off_label_bce(logits, labels)), updates

  return jax.jit(jax.value_and_grad(loss, has_aux=True)), (variables["params"], images)


def start(model, batch: int):
  """Returns random variables and images."""
  images = jax.random.uniform(jax.random.key(0), (batch, model.image_size, model.image_size, 3))
  return jax.jit(model.init)(jax.random.key(1), model.ops.encoding(images[:1])), images


def compare(task, name: str, batch: int, repeats: int) -> dict[str, np.ndarray]:
  """Returns the seconds of each repeat by family."""
  runs = {family: task(bcos_jax.create(name, ops=ops), batch) for family, ops in FAMILIES.items()}
  for run, args in runs.values():
    jax.block_until_ready(run(*args))
  seconds = {family: [] for family in runs}
  for _ in range(repeats):
    for family, (run, args) in runs.items():
      begin = time.perf_counter()
      jax.block_until_ready(run(*args))
      seconds[family].append(time.perf_counter() - begin)
  return {family: np.array(values) for family, values in seconds.items()}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="resnet50")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=10)
  args = parser.parse_args()
  print(
    f"jax {jax.__version__}, {os.cpu_count()} cores, {args.model}, batch {args.batch}, "
    f"float32, {args.repeats} repeats, XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}"
  )
  print(
    f"{'ms':<12}"
    + "".join(f"{family + ' ' + kind:>22}" for kind in ("min", "median") for family in FAMILIES)
    + f"{'ratio of minima':>18}"
  )
  for task in (inference, training):
    seconds = compare(task, args.model, args.batch, args.repeats)
    minima = [values.min() for values in seconds.values()]
    medians = [np.median(values) for values in seconds.values()]
    print(
      f"{task.__name__:<12}"
      + "".join(f"{1e3 * value:>22.0f}" for value in minima + medians)
      + f"{minima[1] / minima[0]:>18.3f}",
      flush=True,
    )


if __name__ == "__main__":
  main()

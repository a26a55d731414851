"""Rate of attribution by masking against batched inference, on this machine's CPU.

RISE and KernelSHAP of a few images, and the same network on as many images in batches of the same
size. They take turns, so that a busy moment of the machine hits all; read the ratio of the best
rates. Issue 4 asks for at least 0.85.

    python benchmarks/masking.py
    python benchmarks/masking.py --architecture=resnet50 --side=224 --masks=500
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import bcos_jax
from bcos_jax import attribution
from bcos_jax.batches import in_batches


def runs(options: argparse.Namespace):
  """Returns the functions to be timed by name; each runs the network on as many images."""
  fields = {"num_classes": 100, "image_size": options.side}
  model = bcos_jax.create(options.architecture, ops=bcos_jax.StandardOps(), **fields)
  random = np.random.RandomState(0)
  images = random.rand(options.images, options.side, options.side, 3).astype(np.float32)
  variables = model.init(jax.random.key(0), model.ops.encoding(images[:1]))
  predict = jax.jit(lambda variables, x: model.apply(variables, model.ops.encoding(x)))
  rows, size = np.repeat(np.arange(options.images), options.masks), options.batch_size
  targets = np.zeros(options.images, int)

  def inference():
    in_batches(lambda batch: predict(variables, images[batch]), rows, size)

  def rise():
    attribution.rise(model, variables, images, targets, masks=options.masks, batch_size=size)

  def kernel_shap():  # sees the images with all parts and with none as well
    attribution.kernel_shap(
      model,
      variables,
      images,
      targets,
      samples=options.masks - 2,
      segments=options.side // 8,
      batch_size=size,
    )

  return {f.__name__: f for f in (inference, rise, kernel_shap)}


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--architecture", default="resnet18")
  parser.add_argument("--side", type=int, default=64)
  parser.add_argument("--images", type=int, default=3)
  parser.add_argument("--masks", type=int, default=53)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--repeats", type=int, default=4)
  options = parser.parse_args()
  functions = runs(options)
  for function in functions.values():
    function()  # compiles
  best = dict.fromkeys(functions, float("inf"))
  for _ in range(options.repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      function()
      best[name] = min(best[name], time.perf_counter() - start)
  count = options.images * options.masks
  for name, seconds in best.items():
    rate = count / seconds
    print(f"{name:12s} {rate:8.1f} images/s   {best['inference'] / seconds:.2f} of inference")


if __name__ == "__main__":
  main()

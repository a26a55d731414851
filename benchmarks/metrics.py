"""Rates of the metrics against those of the passes they consist of, on this machine.

  python benchmarks/metrics.py
  python benchmarks/metrics.py --model=resnet18 --side=224 --classes=1000

* grids: 3 x 3 grids explained for nine classes each, as the grid pointing game does (one forward
  and nine backward passes), against explaining each grid and class by itself.
* deletion: perturbed pictures per second, against plain inference at the same batch size.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import bcos_jax
from bcos_jax import metrics


def seconds(function, repeats: int) -> float:
  """The least time of several calls, after one that compiles."""
  function()
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return min(times)


def grids_per_second(model, variables, images, batch: int, repeats: int) -> tuple[float, float]:
  """Grids per second, all classes at once and one by one."""
  targets = np.random.default_rng(0).integers(0, model.num_classes, (batch, 9))
  grids = metrics.make_grid(images[: batch * 9].reshape(batch, 9, *images.shape[1:]), 3)
  attribute = metrics.attribute_with(model, variables)
  together = seconds(lambda: attribute(grids, targets), repeats)
  single = seconds(lambda: [attribute(grids[:1], targets[:1, k]) for k in range(9)], repeats)
  return batch / together, 1 / single


def pictures_per_second(model, variables, images, batch: int, repeats: int) -> tuple[float, float]:
  """Perturbed pictures per second, and pictures per second of plain inference."""
  targets, fractions = np.zeros(len(images), int), np.linspace(0, 0.8, 11)
  maps = np.random.default_rng(0).standard_normal(images.shape[:3])
  how = metrics.Perturbation(block=images.shape[1] // 8, oracle=False, batch_size=batch)
  perturbed = seconds(
    lambda: (
      metrics.deletion(model, variables, images, targets, maps, how, fractions=fractions).scores
    ),
    repeats,
  )
  plain = seconds(lambda: metrics.logits_of(model, variables, images, batch), repeats)
  return len(images) * (1 + 2 * len(fractions)) / perturbed, len(images) / plain


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="resnet8")
  parser.add_argument("--side", type=int, default=32)
  parser.add_argument("--classes", type=int, default=10)
  parser.add_argument("--batch", type=int, default=32, help="pictures per forward pass")
  parser.add_argument("--grids", type=int, default=8, help="grids per batch")
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()
  model = bcos_jax.create(
    args.model, ops=bcos_jax.BcosOps(), num_classes=args.classes, image_size=args.side
  )
  variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros(model.input_spec.shape))
  count = max(4 * args.batch, 9 * args.grids)
  images = np.random.default_rng(0).random((count, args.side, args.side, 3), np.float32)
  together, single = grids_per_second(model, variables, images, args.grids, args.repeats)
  print(f"grids per second      {together:10.2f} at once {single:10.2f} one by one", end="")
  print(f" {together / single:6.2f} times")
  perturbed, plain = pictures_per_second(
    model, variables, images[: 4 * args.batch], args.batch, args.repeats
  )
  print(f"pictures per second   {perturbed:10.1f} deletion {plain:9.1f} inference", end="")
  print(f" {perturbed / plain:7.2f} of it")


if __name__ == "__main__":
  main()

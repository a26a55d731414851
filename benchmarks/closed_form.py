"""What B-cosification in closed form makes of a network: accuracy, localisation, time, memory.

    python benchmarks/closed_form.py runs/quickstart/conventional --dataset=digits
    python benchmarks/closed_form.py BUNDLE --dataset=fashion_mnist --head=logits --rounds=0
    python benchmarks/closed_form.py --architecture=resnet50 --pictures=1024

With a bundle, on a prepared data set: its training pictures without labels, measured on test ones.
With `--architecture`, a random network on random pictures: time and memory alone. Time is that of
the processor, of all its cores, so that other programs on the machine matter less.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import tqdm

import bcos_jax
from bcos_jax import BcosOps, StandardOps, calibration, metrics
from bcos_jax.inputs import of_pictures
from bcos_jax.train.data import open_dataset, pipeline


def pictures_of(net: bcos_jax.Network, dataset: str, split: str) -> tuple[np.ndarray, ...]:
  """Returns pictures [N, H, W, colors] in [0, 1] as the network reads them, and labels."""
  return pipeline.to_arrays(
    pipeline.Examples(open_dataset(dataset, split), of_pictures(net.preprocess))
  )


def measured(model, variables, images: np.ndarray, labels: np.ndarray, grids: int) -> str:
  """Returns accuracy and grid pointing score in words."""
  logits = metrics.logits_of(model, variables, images)
  said = f"accuracy {np.mean(logits.argmax(-1) == labels):.2%}"
  try:
    game = metrics.grid_pointing_game(
      metrics.attribute_with(model, variables),
      logits,
      images,
      labels,
      grid=2,
      num_grids=grids,
      smooth=5,
      batch_size=10,
    )
  except bcos_jax.InputError as few:
    return f"{said}, no grid pointing: {few.cause}"
  error = game.scores.mean(axis=1).std(ddof=1) / len(game.scores) ** 0.5
  return f"{said}, grid pointing {game.mean:.3f} ± {error:.3f} ({len(game.scores)} grids)"


def random_network(name: str, count: int):
  """Returns a random network, its variables and random pictures."""
  model = bcos_jax.create(name, ops=StandardOps())
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros(model.input_spec.shape, np.float32))
  shape = (count, *model.image_sides, model.ops.encoding.colors)
  return model, variables, np.random.default_rng(0).random(shape, np.float32)


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("bundle", nargs="?")
  parser.add_argument("--dataset")
  parser.add_argument("--architecture")
  parser.add_argument("--pictures", type=int, default=512)
  parser.add_argument("--b", type=float, default=2.0)
  parser.add_argument("--head", default="auto")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--grids", type=int, default=60)
  options = parser.parse_args()
  if options.architecture:
    model, variables, images = random_network(options.architecture, options.pictures)
  else:
    net = bcos_jax.load(options.bundle)
    model, variables = net.model, net.variables
    images, _ = pictures_of(net, options.dataset, "train")
    chosen = np.random.default_rng(options.seed).permutation(len(images))[: options.pictures]
    images = images[chosen]
  settings = calibration.Calibration(
    head=options.head,
    effort=calibration.Effort(rounds=options.rounds),
    batch_size=options.batch_size,
    seed=options.seed,
  )
  student, start = bcos_jax.bcosify(model, variables, ops=BcosOps(b=options.b))
  began, used = time.perf_counter(), time.process_time()
  made, report = calibration.calibrate(
    model, variables, student, start, images, settings, progress=tqdm.tqdm
  )
  used, began = time.process_time() - used, time.perf_counter() - began
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(report)
  print(f"{used:.0f} s of processor time, {began:.0f} s; at most {peak:.1f} GiB of memory")
  if options.bundle:
    test = pictures_of(net, options.dataset, "test")
    for name, network in (
      ("conventional", (model, variables)),
      ("B-cosified as published", (student, start)),
      ("B-cosified in closed form", (student, made)),
    ):
      print(f"{name}: {measured(*network, *test, options.grids)}")


if __name__ == "__main__":
  main()

"""What B-cosification in closed form makes of a network: accuracy, localisation, time, memory.

    python benchmarks/closed_form.py runs/quickstart/conventional --dataset=digits
    python benchmarks/closed_form.py BUNDLE --dataset=fashion_mnist --head=logits --rounds=0
    python benchmarks/closed_form.py --architecture=resnet50 --pictures=1024

With a bundle, on a prepared data set: its training pictures without labels, measured on test ones.
With `--architecture`, a random network on random pictures: time and memory alone. Time is that of
the processor, of all its cores, so that other programs on the machine matter less. Compilation does
not grow with the pictures, evaluation does; the places of most maps, and so the fits, do not.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import os
import resource
import tempfile
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


class Clock:
  """Processor time of each map, and seconds of compilation."""

  def __init__(self):
    self.maps: dict[str, float] = {}
    self.compilation = 0.0
    jax.monitoring.register_event_duration_secs_listener(self._add)

  def progress(self, parts: Sequence) -> Iterator:
    """Yields parts and takes their times."""
    for part in tqdm.tqdm(parts, unit="maps"):
      begin = time.process_time()
      yield part
      self.maps[part.path] = time.process_time() - begin

  def _add(self, event: str, duration_secs: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      self.compilation += duration_secs

  def __str__(self) -> str:
    slowest = sorted(self.maps, key=self.maps.__getitem__)[-5:][::-1]
    times = ", ".join(f"{path} {self.maps[path]:.0f} s" for path in slowest)
    return f"{self.compilation:.0f} s of compilation among it; slowest maps: {times}"


def random_network(name: str, count: int):
  """Returns a random network, its variables and random pictures of 8 bits."""
  model = bcos_jax.create(name, ops=StandardOps())
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros(model.input_spec.shape, np.float32))
  shape = (count, *model.image_sides, model.ops.encoding.colors)
  return model, variables, np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


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
  parser.add_argument("--blocks", type=int, default=0, help="rounds of the second sweep")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--batch_size", type=int, default=32)
  parser.add_argument("--memory", type=float, default=1.0, help="GiB of activations in memory")
  parser.add_argument("--cache", help="folder to go on from; default: a temporary one")
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
    effort=calibration.Effort(rounds=options.rounds, block_rounds=options.blocks),
    batch_size=options.batch_size,
    seed=options.seed,
    memory=options.memory,
  )
  student, start = bcos_jax.bcosify(model, variables, ops=BcosOps(b=options.b))
  began, used = time.perf_counter(), time.process_time()
  clock = Clock()
  with tempfile.TemporaryDirectory() as temporary:
    made, report = calibration.calibrate(
      model,
      variables,
      student,
      start,
      images,
      settings,
      cache=options.cache or temporary,
      progress=clock.progress,
    )
  used, began = time.process_time() - used, time.perf_counter() - began
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(report)
  print(f"{used:.0f} s of processor time, {began:.0f} s; at most {peak:.1f} GiB of memory")
  print(clock)
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

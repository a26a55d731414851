"""Throughput of `bcos-jax explain` on a folder of pictures, beside that of its compiled program.

    python benchmarks/explain_folder.py
    python benchmarks/explain_folder.py --pictures=200 --write none map map,picture figure,arrays

Made JPEG files of 500 x 375 pixels, explained by a random network. The program alone runs on a
batch that is already on the device, before and after each job. Memory is that of the process, when
a fifth of the pictures are explained and at the end. With --busy rates are of the processor's time:
how much reading and writing add to computing, but not whether they wait for each other.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
import threading
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from input import pictures  # the benchmark beside this one
import jax
import numpy as np

import bcos_jax
from bcos_jax.cli.explain_images import explain_pictures
from bcos_jax.inputs import Preprocess

DIFFERENT = 50  # pictures; the others are copies by other names


def program(network: bcos_jax.Network, batch: int):
  """Returns the compiled explanation of a batch on the device, ready to be called."""
  images = np.random.default_rng(0).random((batch, *network.preprocess.size, 3), np.float32)
  variables, images = jax.device_put((dict(network.variables), images))
  with jax.default_matmul_precision("highest"):
    run = jax.jit(lambda v, x: bcos_jax.dynamic_linear(network.model, v, x))
    compiled = run.lower(variables, images).compile()
  return lambda: jax.block_until_ready(compiled(variables, images))


def rate_of(run, batch: int, repeats: int, clock) -> float:
  """Returns pictures per second of a program that runs without a pause."""
  run()
  begin = clock()
  for _ in range(repeats):
    run()
  return batch * repeats / (clock() - begin)


def resident() -> float:
  """Returns the memory of this process, in MB."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Memory:
  """Samples the memory of this process while it works."""

  def __enter__(self) -> Memory:
    self.samples, self._done = [], threading.Event()
    self._thread = threading.Thread(target=self._sample)
    self._thread.start()
    return self

  def _sample(self) -> None:
    while not self._done.wait(0.2):
      self.samples.append(resident())

  def __exit__(self, *error) -> None:
    self._done.set()
    self._thread.join()

  def peaks(self) -> tuple[float, float]:
    """Returns the largest memory in the second and in the last fifth of the time."""
    fifth = max(len(self.samples) // 5, 1)
    return max(self.samples[fifth : 2 * fifth] or [0]), max(self.samples[-fifth:] or [0])


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="resnet50")
  parser.add_argument("--pictures", type=int, default=1000)
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--write", nargs="+", default=["map"], help="as of bcos-jax explain")
  parser.add_argument(
    "--busy", action="store_true", help="count the processor's time: beside other work"
  )
  args = parser.parse_args()
  clock = time.process_time if args.busy else time.perf_counter
  model = bcos_jax.create(args.model, ops=bcos_jax.BcosOps())
  variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 224, 224, 6), np.float32))
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place, "pictures")
    folder.mkdir()
    files = pictures(min(DIFFERENT, args.pictures))
    for i in range(args.pictures):
      (folder / f"{i:06}.jpg").write_bytes(files[i % len(files)])
    bcos_jax.save(pathlib.Path(place, "net"), model, variables, preprocess=Preprocess())
    network = bcos_jax.load(pathlib.Path(place, "net"))
    run = program(network, args.batch)
    quiet = {"batch_size": args.batch, "say": lambda line: None}
    first = sorted(folder.iterdir())[: args.batch]
    explain_pictures(network, first, output=pathlib.Path(place, "warm"), **quiet)
    print(
      f"{args.model}, {args.pictures} pictures, batch {args.batch}, "
      f"{'CPU' if args.busy else 'wall'} time, jax {jax.__version__}\n"
    )
    print("| written | pictures/s | program alone | ratio | again | MB early, at the end |")
    print("|---|---|---|---|---|---|", flush=True)
    for kinds in args.write:
      job = {"kinds": () if kinds == "none" else kinds.split(","), **quiet}
      job["output"] = pathlib.Path(place, kinds)
      before = rate_of(run, args.batch, 5, clock)
      begin = clock()
      with Memory() as memory:
        explain_pictures(network, [folder], **job)
      rate = args.pictures / (clock() - begin)
      begin = clock()
      explain_pictures(network, [folder], **job)
      again = clock() - begin
      alone = (before + rate_of(run, args.batch, 5, clock)) / 2
      early, late = memory.peaks()
      print(
        f"| {kinds} | {rate:.1f} | {alone:.1f} | {rate / alone:.2f} | {again:.1f} s "
        f"| {early:.0f}, {late:.0f} |",
        flush=True,
      )


if __name__ == "__main__":
  main()

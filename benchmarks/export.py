"""Exports of networks: how large, how long to write and to load, and how fast they explain.

    python benchmarks/export.py
    python benchmarks/export.py resnet50 --repeats=20 --output=export.md

Networks have random weights, as trained ones compute for as long. What explains one picture, the
network itself, the loaded StableHLO and onnxruntime, take turns, so that a busy moment of the
machine hits all; the ratio of the medians is the number to read, on a machine that does nothing
else. The last column is the largest difference of a contribution in onnxruntime, relative to the
largest contribution.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import tempfile
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

import bcos_jax
from bcos_jax import BcosOps, export
from bcos_jax.io.bundles import make_bundle
from bcos_jax.variables import abstract_variables

NETWORKS = ("resnet50", "simple_vit_s_patch16_224")
PAUSE = 0.05  # seconds between turns, in which the threads of the others fall asleep
HEAD = (
  "| network | file, MB (StableHLO, ONNX) | write, s | load, s "
  "| explain 1, ms (network, StableHLO, ONNX) | ONNX / network | difference |\n"
  "|---|---|---|---|---|---|---|"
)


def bundle(name: str) -> Any:
  """Returns a B-cosified network with random weights, none of which is trivial."""
  model = bcos_jax.create(name, ops=BcosOps(b=2.0), num_classes=1000)
  rng = np.random.default_rng(0)

  def leaf(path: Any, spec: jax.ShapeDtypeStruct) -> np.ndarray:
    if path[-1].key == "kernel":
      scale = (2 / np.prod(spec.shape[:-1])) ** 0.5
      return scale * rng.standard_normal(spec.shape, np.float32)
    return np.full(spec.shape, 0.03 if path[-1].key == "var" else 1.0, np.float32)

  return make_bundle(model, jax.tree_util.tree_map_with_path(leaf, abstract_variables(model)))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
  """Returns what a call returns, ready, and the seconds that it took."""
  start = time.perf_counter()
  result = jax.block_until_ready(call())
  return result, time.perf_counter() - start


def medians(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
  """Returns the median seconds of calls that take turns, the first turns left out."""
  times: list[list[float]] = [[] for _ in calls]
  for _ in range(repeats + 2):
    for call, taken in zip(calls, times, strict=True):
      taken.append(timed(call)[1])
      time.sleep(PAUSE)
  return [float(np.median(taken[2:])) for taken in times]


def measured(name: str, repeats: int) -> str:
  """Returns the row of a network."""
  net = bundle(name)
  program = export.program_of(bcos_jax.Network.of(net), ("logits", "map", "picture"))
  images = np.random.default_rng(1).random((1, *program.inputs["images"].shape[1:]), np.float32)
  inputs = (images, np.array([-1], np.int32))
  ours = jax.jit(program.function)
  expected = np.asarray(ours(*inputs)["contributions"])
  sizes, written, loaded, runs, gap = [], [], [], [ours], 0.0
  with tempfile.TemporaryDirectory() as root:
    for kind in ("stablehlo", "onnx"):
      folder, seconds = timed(
        lambda kind=kind: export.save(net, pathlib.Path(root) / kind, to=kind)
      )
      run, ready = timed(lambda folder=folder: _loaded(folder, inputs))
      written.append(seconds)
      loaded.append(ready)
      sizes.append(max(path.stat().st_size for path in folder.iterdir()) / 1e6)
      runs.append(run)
    found = runs[-1](*inputs)["contributions"]
    gap = float(np.abs(found - expected).max() / np.abs(expected).max())
  taken = medians([lambda run=run: run(*inputs) for run in runs], repeats)
  columns = (sizes, written, loaded, [1e3 * seconds for seconds in taken])
  cells = [", ".join(f"{number:,.1f}" for number in column) for column in columns]
  return f"| {name} | {' | '.join(cells)} | {taken[2] / taken[0]:.2f} | {gap:.0e} |"


def _loaded(folder: pathlib.Path, inputs: Sequence[np.ndarray]) -> Callable[..., Mapping[str, Any]]:
  """Returns what runs an export; it has run once, and is compiled."""
  run = export.load(folder).run
  jax.block_until_ready(run(*inputs))
  return run


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("networks", nargs="*", default=NETWORKS)
  parser.add_argument("--repeats", type=int, default=9)
  parser.add_argument("--output", type=pathlib.Path, help="file for the table, as Markdown")
  options = parser.parse_args()
  rows = [HEAD]
  print(HEAD)
  for name in options.networks:
    rows.append(measured(name, options.repeats))
    print(rows[-1], flush=True)
  if options.output is not None:
    options.output.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
  main()

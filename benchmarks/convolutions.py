"""Run time of convolutions and of their gradients on this machine's CPU, beside XLA's own.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --batch=1 --only=stem,depthwise

Both formulations of a shape take turns; the ratio of the minima is the number to read. Shapes are
those of ResNet-50, ResNeXt-50 and ConvNeXt-T at 224 pixels, in float32.
"""

from __future__ import annotations

import argparse
import functools
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from bcos_jax.layers.convolutions import DENSE, Geometry, cpu, plain


def _square(window: int, strides: int = 1, groups: int = 1) -> Geometry:
  pads = ((window // 2,) * 2,) * 2 if window % 2 else ((0, 0),) * 2
  return Geometry((window,) * 2, (strides,) * 2, pads, (1, 1), groups, "highest")


SHAPES = {
  "stem 7x7 / 2": (_square(7, 2), (224, 224), 6, 64),
  "1x1": (_square(1), (56, 56), 256, 64),
  "1x1 / 2": (_square(1, 2), (28, 28), 512, 1024),
  "3x3": (_square(3), (28, 28), 128, 128),
  "3x3 / 2": (_square(3, 2), (28, 28), 256, 256),
  "patches 16x16 / 16": (_square(16, 16), (224, 224), 6, 384),
  "grouped 3x3": (_square(3, groups=32), (28, 28), 256, 256),
  "depthwise 7x7": (_square(7, groups=96), (56, 56), 96, 96),
  "depthwise 3x3 / 2": (_square(3, 2, groups=96), (56, 56), 96, 96),
  "dense": (DENSE, (196,), 384, 1536),
}


def tasks(name: str, batch: int):
  """Yields what is computed, its formulations by name, and the arrays."""
  geometry, spatial, inputs, outputs = SHAPES[name]
  rng = np.random.default_rng(0)
  results = geometry.spatial_out(spatial) if geometry.rank else spatial
  x, kernel, cotangent = (
    jnp.float32(rng.standard_normal(shape))
    for shape in (
      (batch, *spatial, inputs),
      (*geometry.window, inputs // geometry.groups, outputs),
      (batch, *results, outputs),
    )
  )
  rooms = {"XLA": plain, "here": cpu}
  yield (
    "forward",
    {n: functools.partial(_forward, r, geometry) for n, r in rooms.items()},
    x,
    kernel,
  )
  of_input = spatial if geometry.rank else ()
  backward = {n: functools.partial(_backward, r, geometry, of_input) for n, r in rooms.items()}
  yield "input gradient", backward, cotangent, kernel
  yield (
    "kernel gradient",
    {n: functools.partial(_of_kernel, r, geometry) for n, r in rooms.items()},
    x,
    cotangent,
  )


def _forward(room, geometry, x, kernel):
  return room.convolved(x, kernel, geometry)


def _backward(room, geometry, spatial, cotangent, kernel):
  return room.input_gradient(cotangent, kernel, geometry, spatial)


def _of_kernel(room, geometry, x, cotangent):
  return room.kernel_gradient(x, cotangent, geometry)


def compared(formulations, arrays, repeats: int) -> dict[str, float]:
  """Returns the least milliseconds of each formulation."""
  runs = {name: jax.jit(function) for name, function in formulations.items()}
  expected, got = (np.asarray(run(*arrays)) for run in runs.values())
  assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)
  seconds = {name: [] for name in runs}
  for _ in range(repeats):
    for name, run in runs.items():
      begin = time.perf_counter()
      jax.block_until_ready(run(*arrays))
      seconds[name].append(time.perf_counter() - begin)
  return {name: 1e3 * min(values) for name, values in seconds.items()}


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=7)
  parser.add_argument("--only", default="", help="beginnings of names, by commas")
  options = parser.parse_args()
  chosen = tuple(options.only.split(","))
  print("| shape | inputs | forward | | input gradient | | kernel gradient | |")
  print("|---|---|---|---|---|---|---|---|")
  for name, (_, spatial, inputs, outputs) in SHAPES.items():
    if not name.startswith(chosen):
      continue
    cells = []
    for _, formulations, *arrays in tasks(name, options.batch):
      least = compared(formulations, arrays, options.repeats)
      cells.append(
        f"{least['XLA']:.1f} -> {least['here']:.1f} ms | {least['XLA'] / least['here']:.1f}"
      )
    size = " x ".join(map(str, (options.batch, *spatial)))
    print(f"| {name} | {size}, {inputs} -> {outputs} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()

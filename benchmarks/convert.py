"""Time and memory of converting a checkpoint, beside a plain read and write of the same file.

Makes a Hugging Face repository of random weights, by default of a ViT-L (1.2 GB); then converts it
and copies it, in turns, each in a process of its own. Times do not count imports, the memory does.

    python benchmarks/convert.py
    python benchmarks/convert.py --architecture=vit_base_patch16_224 --folder=/scratch --dtype=bfloat16
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import statistics
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

MEGABYTE = 1_000_000
MOST_TIMES, MOST_MEGABYTES = 3, 300
"""What a conversion may take: times the copy, and beside its output and the largest tensor."""
WEIGHTS = "model.safetensors"

# Imports are in the functions: a process starts with the memory of the one that starts it.


def make(architecture: str, folder: pathlib.Path) -> int:
  """Writes the repository and returns the bytes of its largest tensor."""
  import jax
  import numpy as np
  from transformers import ViTConfig

  import bcos_jax
  from bcos_jax import convert, pretrained
  from bcos_jax.tensor_files import write_safetensors

  model = bcos_jax.create(architecture, ops=bcos_jax.StandardOps())
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32), pretrained.abstract_variables(model)
  )
  state = convert.to_state_dict(pretrained.make_bundle(model, variables), "huggingface")
  config = ViTConfig(
    hidden_size=model.width,
    num_hidden_layers=model.depth,
    num_attention_heads=model.num_heads,
    intermediate_size=model.mlp_dim,
    image_size=model.image_size,
    patch_size=model.patch_size,
    layer_norm_eps=model.norm_eps,
    num_labels=model.num_classes,
    architectures=["ViTForImageClassification"],
  )
  folder.mkdir()
  write_safetensors(folder / WEIGHTS, state)
  (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
  return max(tensor.nbytes for tensor in state.values())


def copy(source: pathlib.Path, target: pathlib.Path) -> float:
  """Reads the weights' file and writes it again; returns the seconds."""
  target.mkdir()
  begin = time.perf_counter()
  with (source / WEIGHTS).open("rb") as read, (target / WEIGHTS).open("wb") as written:
    while chunk := read.read(16 * MEGABYTE):
      written.write(chunk)
  return time.perf_counter() - begin


def convert(source: pathlib.Path, target: pathlib.Path, dtype: str) -> float:
  """Converts the repository; returns the seconds."""
  # The libraries that the conversion loads when it first needs them.
  import transformers.models.auto.configuration_auto  # noqa: F401

  from bcos_jax.convert import commands

  begin = time.perf_counter()
  commands.convert(source, target, commands.Choices(dtype=dtype), say=lambda _: None)
  return time.perf_counter() - begin


def alone(function: Callable, *arguments) -> tuple[object, int]:
  """Calls a function in a new process; returns its result and the process's peak of memory."""
  spawn = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(1, spawn) as pool:
    result = pool.submit(function, *arguments).result()
    return result, pool.submit(peak).result()


def peak() -> int:
  """Returns the most bytes that this process held in memory."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--architecture", default="vit_large_patch16_224", help="a ViT")
  parser.add_argument("--dtype", default="float32", help="of the converted network")
  parser.add_argument("--turns", type=int, default=3)
  parser.add_argument("--folder", type=pathlib.Path, help="where; needs three times the file")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder, prefix="benchmark-") as temporary:
    measure(args, pathlib.Path(temporary))


def measure(args: argparse.Namespace, folder: pathlib.Path):
  """Makes the repository, converts and copies it in turns, and prints what was found."""
  source = folder / "source"
  largest, _ = alone(make, args.architecture, source)
  size = (source / WEIGHTS).stat().st_size
  print(
    f"{args.architecture}: {size / MEGABYTE:,.0f} MB, largest tensor {largest / MEGABYTE:,.0f} MB"
  )
  times: dict[str, list[float]] = {"copy": [], "convert": []}
  memory = output = 0
  for turn in range(args.turns):
    for name, function, extra in (("copy", copy, ()), ("convert", convert, (args.dtype,))):
      target = folder / f"{name}-{turn}"
      seconds, held = alone(function, source, target, *extra)
      times[name].append(seconds)
      if name == "convert":
        memory, output = max(memory, held), (target / WEIGHTS).stat().st_size
      shutil.rmtree(target)
    print(f"  copy {times['copy'][-1]:6.2f} s   convert {times['convert'][-1]:6.2f} s", flush=True)
  ratio = statistics.median(times["convert"]) / statistics.median(times["copy"])
  beside = (memory - output - largest) / MEGABYTE
  print(f"time: {ratio:.2f} times the copy (medians; at most {MOST_TIMES})")
  print(
    f"peak memory: {memory / MEGABYTE:,.0f} MB = output {output / MEGABYTE:,.0f} + largest tensor "
    f"{largest / MEGABYTE:,.0f} + {beside:,.0f} MB (at most {MOST_MEGABYTES})"
  )


if __name__ == "__main__":
  main()

"""Memory and time of converting a ViT-L-sized Hugging Face folder to a bundle, without PyTorch.

    python benchmarks/convert.py

Memory is the peak of a process that converts, less that of one that only imports the package; it
may be at most the output's size, the largest tensor and 300 MB. Time may be at most three times
that of reading and writing the same file whole, in a process of the same kind. Both are taken
inside the processes, after their imports, with the source in the page cache; the two kinds take
turns, and the fastest run of each counts. What converting imports on the way (transformers'
configurations) counts as its time. Exits with 1 if a bound is missed. The column of processor
time tells a slow conversion from a busy machine; the bound is on the time that passes.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# This process stays small and imports nothing large: Linux counts the memory of a parent at the
# moment of a start as the peak of its child.
ROOT = pathlib.Path(__file__).parents[1]
ALLOWANCE = 300e6
MOST_TIMES = 3.0

MAKE = """
import json, pathlib, sys
import numpy as np
from bcos_jax.tensor_files import LazyTensor, write_safetensors

folder, width, depth, classes = pathlib.Path(sys.argv[1]), 1024, 24, 1000
hidden, patch, side = 4 * width, 16, 224

def dense(name, outputs, inputs):
  return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

def norm(name):
  return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

shapes = {
  "vit.embeddings.cls_token": (1, 1, width),
  "vit.embeddings.position_embeddings": (1, 1 + (side // patch) ** 2, width),
  "vit.embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
  "vit.embeddings.patch_embeddings.projection.bias": (width,),
  **norm("vit.layernorm"),
  **dense("classifier", classes, width),
}
for i in range(depth):
  layer = f"vit.encoder.layer.{i}"
  for part in ("query", "key", "value"):
    shapes |= dense(f"{layer}.attention.attention.{part}", width, width)
  shapes |= dense(f"{layer}.attention.output.dense", width, width)
  shapes |= dense(f"{layer}.intermediate.dense", hidden, width)
  shapes |= dense(f"{layer}.output.dense", width, hidden)
  shapes |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")

rng = np.random.default_rng(0)

def random(shape):
  return LazyTensor(
    shape, np.dtype(np.float32), lambda: rng.standard_normal(shape, np.float32) * 0.02
  )

tensors = {key: random(shape) for key, shape in shapes.items()}
write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
config = {
  "architectures": ["ViTForImageClassification"],
  "model_type": "vit",
  "hidden_size": width,
  "num_hidden_layers": depth,
  "num_attention_heads": 16,
  "intermediate_size": hidden,
  "image_size": side,
  "patch_size": patch,
  "num_channels": 3,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-12,
  "qkv_bias": True,
  "id2label": {str(i): f"class {i}" for i in range(classes)},
  "label2id": {f"class {i}": i for i in range(classes)},
}
preprocessing = {
  "image_processor_type": "ViTImageProcessor",
  "do_resize": True,
  "size": {"height": side, "width": side},
  "resample": 2,
  "do_rescale": True,
  "rescale_factor": 1 / 255,
  "do_normalize": True,
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
}
(folder / "config.json").write_text(json.dumps(config))
(folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
print(json.dumps({"largest": max(tensor.nbytes for tensor in tensors.values())}))
"""

MEASURE = """
import json, pathlib, resource, sys, time
import bcos_jax
from bcos_jax.cli import conversion

source, target = map(pathlib.Path, sys.argv[1:])
start, start_cpu = time.perf_counter(), time.process_time()
{work}
seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
# Linux counts in KiB, macOS in bytes.
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
assert "torch" not in sys.modules
print(json.dumps({{"seconds": seconds, "cpu": cpu, "peak": peak}}))
"""
WORK = {
  "import only": "",
  "plain read and write": ("target.write_bytes((source / 'model.safetensors').read_bytes())"),
  "convert": "conversion.convert(source, target, conversion.Choices(), say=lambda line: None)",
}


def child(code: str, *paths: pathlib.Path) -> dict[str, float]:
  """Returns what a new Python process prints as JSON."""
  done = subprocess.run(
    [sys.executable, "-c", code, *map(str, paths)],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def size(path: pathlib.Path) -> int:
  """Returns the bytes of a file or of all files of a folder."""
  files = path.iterdir() if path.is_dir() else [path]
  return sum(file.stat().st_size for file in files)


def remove(path: pathlib.Path):
  """Removes a file or a folder of files."""
  if path.is_dir():
    for file in path.iterdir():
      file.unlink()
    path.rmdir()
  else:
    path.unlink(missing_ok=True)


def measure(folder: pathlib.Path, repeats: int) -> tuple[dict[str, dict[str, float]], int, int]:
  """Returns the least seconds and the highest peak of each kind, the output's size and the
  largest tensor's."""
  source, target = folder / "source", folder / "target"
  source.mkdir()
  largest = child(MAKE, source)["largest"]
  best: dict[str, dict[str, float]] = {}
  written = 0
  for repeat in range(repeats + 1):
    for kind, work in WORK.items():
      now = child(MEASURE.format(work=work), source, target)
      if kind == "convert":
        written = size(target)
      remove(target)
      if repeat:  # the first round warms the page cache
        old = best.get(kind, now)
        best[kind] = {
          "seconds": min(old["seconds"], now["seconds"]),
          "cpu": min(old["cpu"], now["cpu"]),
          "peak": max(old["peak"], now["peak"]),
        }
  return best, written, largest


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--folder", help="where to work, on the disk to measure; else a temporary")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    best, written, largest = measure(pathlib.Path(folder), args.repeats)
  memory = best["convert"]["peak"] - best["import only"]["peak"]
  most_memory = written + largest + ALLOWANCE
  seconds, plain = best["convert"]["seconds"], best["plain read and write"]["seconds"]
  print(f"{'process':<24}{'peak (MB)':>12}{'seconds':>10}{'CPU (s)':>10}")
  for kind, values in best.items():
    print(
      f"{kind:<24}{values['peak'] / 1e6:>12.0f}{values['seconds']:>10.2f}{values['cpu']:>10.2f}"
    )
  print()
  print(f"{'convert':<24}{'measured':>12}{'at most':>10}")
  print(f"{'memory (MB)':<24}{memory / 1e6:>12.0f}{most_memory / 1e6:>10.0f}")
  print(f"{'time / plain time':<24}{seconds / plain:>12.2f}{MOST_TIMES:>10.2f}")
  print(f"output {written / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB")
  return int(memory > most_memory or seconds > MOST_TIMES * plain)


if __name__ == "__main__":
  sys.exit(main())

"""What needs a GPU, checked and timed in one run of under eight minutes: a Markdown page.

    python benchmarks/gpu.py --output=gpu.md
    JAX_PLATFORMS=cpu python benchmarks/gpu.py --short      # the same parts, small, on any machine

Golden networks against the authors' numbers (with pytest); training and explanation beside the
authors' formulas in PyTorch, if that is installed with CUDA (see `peers.py`); rates, memory and
compile time by batch; flags of XLA. A part that fails says so and the others run; a part for which
no time is left is named. Exit code 1 if a check failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys
import time
import traceback

os.environ.setdefault("JAX_PLATFORMS", "")  # whatever there is; `peers` would choose the CPU
# PyTorch needs memory beside JAX, and the peak of a program shows only where none is taken ahead.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

import bcos_jax
from bcos_jax.train.objectives import losses

ROOT = pathlib.Path(__file__).parent.parent
LIMIT = 470.0  # seconds
FLAGS = (
  "--xla_gpu_enable_latency_hiding_scheduler=true",
  "--xla_gpu_enable_triton_gemm=false",
  "--xla_gpu_enable_command_buffer=",
  "--xla_gpu_autotune_level=0",
)


@dataclasses.dataclass(frozen=True)
class Scale:
  """How much of each part is run."""

  golden: str
  works: tuple[str, ...]
  batches: tuple[int, ...]
  networks: tuple[str, ...]
  repeats: int
  flags: tuple[str, ...]


FULL = Scale(
  golden="resnet18 or vit or densenet or convnext or resnext",
  works=(
    "resnet50:train:8",
    "resnet50:explain:8",
    "simple_vit_s:train:8",
    "simple_vit_s:explain:8",
  ),
  batches=(1, 8, 32, 128, 256),
  networks=("resnet50", "simple_vit_b_patch16_224"),
  repeats=10,
  flags=FLAGS,
)
SHORT = Scale(
  golden="v2 and simple_vit",
  works=("small_vit:train:256",),
  batches=(1, 2),
  networks=("resnet_tiny",),
  repeats=2,
  flags=("--xla_cpu_enable_fast_math=false",),
)
AT_ONCE = {"resnet50:train:8": 128, "simple_vit_s:train:8": 128}
"""Batches of the comparisons on a GPU, where they are not those of `peers`."""


def golden(scale: Scale) -> Iterator[str]:
  """Runs the golden tests on this device, with exact products."""
  if importlib.util.find_spec("pytest") is None:
    yield "Not run: pytest is not installed."
    return
  environment = {
    **os.environ,
    "BCOS_TEST_PLATFORM": jax.default_backend().replace("gpu", "cuda"),
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
  }
  command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "-m", ""]
  done = subprocess.run(
    [*command, "tests/models/test_networks_golden.py", "-k", scale.golden],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
    timeout=LIMIT / 2,
  )
  yield f"`{done.stdout.strip().splitlines()[-1].strip('= ')}`"
  if done.returncode:
    raise RuntimeError(done.stdout[-2000:])


def beside_pytorch(scale: Scale) -> Iterator[str]:
  """Times training and explanation beside the authors' formulas on the same device."""
  if importlib.util.find_spec("torch") is None:
    yield "Not run: PyTorch is not installed."
    return
  import peers
  import torch

  device = "cuda" if jax.default_backend() == "gpu" else "cpu"
  if device == "cuda" and not torch.cuda.is_available():
    yield f"Not run: PyTorch {torch.__version__} sees no GPU."
    return
  yield "| network | task | batch | PyTorch (ms) | here (ms) | ratio | of minima | goal | differ |"
  yield "|---|---|---|---|---|---|---|---|---|"
  for name in scale.works:
    (work,) = peers.chosen(name)
    batch = AT_ONCE.get(name, work.batch) if device == "cuda" else work.batch
    work = dataclasses.replace(work, batch=batch, goal=None)
    # TF32 in both for training; neither in explanations.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = work.task == "train"
    yield peers.row(work, *peers.measure(work, scale.repeats, device))


def programs(name: str, batch: int) -> Iterator[tuple[str, jax.stages.Compiled, tuple]]:
  """Yields the compiled explanation and training pass of a network, and their arguments."""
  model = bcos_jax.create(name, ops=bcos_jax.BcosOps())
  side = model.image_size
  images = jax.random.uniform(jax.random.key(0), (batch, side, side, 3))
  variables = jax.jit(model.init)(jax.random.key(1), model.ops.encoding(images[:1]))
  with jax.default_matmul_precision("highest"):
    explain = jax.jit(lambda v, x: bcos_jax.dynamic_linear(model, v, x))
    yield "explain, float32", explain.lower(variables, images).compile(), (variables, images)
  narrow = bcos_jax.create(name, ops=bcos_jax.BcosOps(dtype="bfloat16"))
  rest = {k: v for k, v in variables.items() if k != "params"}
  labels = jnp.arange(batch) % model.num_classes

  def loss(params, x):
    logits, updates = narrow.apply(
      {"params": params, **rest}, narrow.ops.encoding(x), train=True, mutable=["batch_stats"]
    )
    return jnp.mean(losses.uniform_off_label_bce(logits, labels)), updates

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  arguments = (variables["params"], images)
  yield "train, bfloat16", step.lower(*arguments).compile(), arguments


def seconds(compiled: jax.stages.Compiled, arguments: tuple, repeats: int) -> float:
  """Returns the median time of a program."""
  times = []
  for _ in range(repeats + 1):
    begin = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    times.append(time.perf_counter() - begin)
  return float(np.median(times[1:]))


def sweep(scale: Scale) -> Iterator[str]:
  """Rates, memory and compile time by batch."""
  yield "| network | task | batch | ms | pictures/s | temporaries (GiB) | compiled in (s) |"
  yield "|---|---|---|---|---|---|---|"
  for name in scale.networks:
    for batch in scale.batches:
      begin = time.perf_counter()
      for task, compiled, arguments in programs(name, batch):
        took = time.perf_counter() - begin
        median = seconds(compiled, arguments, scale.repeats)
        memory = compiled.memory_analysis().temp_size_in_bytes / 2**30
        yield (
          f"| {name} | {task} | {batch} | {1e3 * median:.1f} | {batch / median:.0f} "
          f"| {memory:.2f} | {took:.1f} |"
        )
        begin = time.perf_counter()


def flags(scale: Scale) -> Iterator[str]:
  """The same programs in processes with other flags of XLA."""
  yield "| flag | " + " | ".join(("explain, float32 (ms)", "train, bfloat16 (ms)")) + " |"
  yield "|---|---|---|"
  for flag in ("", *scale.flags):
    command = [sys.executable, __file__, "--measure", scale.networks[0], str(scale.batches[-2])]
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = done.stdout.split() if done.returncode == 0 else ["failed", "failed"]
    yield f"| {f'`{flag}`' if flag else 'none'} | {' | '.join(found)} |"


PARTS = {
  "Golden networks": golden,
  "Beside PyTorch": beside_pytorch,
  "By batch": sweep,
  "Flags of XLA": flags,
}


def page(scale: Scale, say) -> bool:
  """Runs all parts, and returns whether none failed."""
  start, well = time.perf_counter(), True
  device = jax.devices()[0]
  say(f"# {device.device_kind}\n\njax {jax.__version__}, XLA_FLAGS={os.environ.get('XLA_FLAGS')!r}")
  for title, part in PARTS.items():
    say(f"\n## {title}\n")
    try:
      for line in part(scale):
        say(line)
        if time.perf_counter() - start > LIMIT:
          say("\nCut short: no time is left.")
          break
    except Exception:
      well = False
      say(f"\nFailed:\n\n```\n{traceback.format_exc()[-2000:]}```")
    jax.clear_caches()
  say(f"\n{time.perf_counter() - start:.0f} s in all.")
  return well


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--short", action="store_true", help="small, for machines without a GPU")
  parser.add_argument("--output", type=pathlib.Path, help="file to write the page to as well")
  parser.add_argument("--measure", nargs=2, help="network and batch: print the two times (ms)")
  options = parser.parse_args()
  if options.measure:
    name, batch = options.measure
    found = [seconds(run, args, 5) for _, run, args in programs(name, int(batch))]
    print(*(f"{1e3 * each:.1f}" for each in found))
    return 0
  lines = []

  def say(line: str) -> None:
    print(line, flush=True)
    lines.append(line)
    if options.output:  # line by line: a run that is cut short leaves what it found
      options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")

  return 0 if page(SHORT if options.short else FULL, say) else 1


if __name__ == "__main__":
  sys.exit(main())

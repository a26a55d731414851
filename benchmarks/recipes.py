"""Training runs of the `runlocal` variant of every recipe, with the accuracies reached.

    python benchmarks/recipes.py

Tiny networks, handwritten digits and 100 steps: this shows that each recipe's optimiser, loss,
augmentation and schedule train a network, not what the recipe reaches on ImageNet.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from bcos_jax.train import main
from bcos_jax.train.monitor.writer import read_lines

RECIPES = (
  "baseline",
  "bcos_scratch",
  "bcosify_cnn",
  "bcosify_vit",
  "finetune",
  "digits",
  "shape_scenes",
)


def print_table() -> None:
  """Prints one recipe a row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("recipes", nargs="*", default=RECIPES)
  print("| recipe | steps | loss, first to last | test accuracy | seconds |\n|---|---|---|---|---|")
  for name in parser.parse_args().recipes:
    with tempfile.TemporaryDirectory() as folder:
      print(row(f"{name}:runlocal", pathlib.Path(folder)), flush=True)


def row(spec: str, workdir: pathlib.Path) -> str:
  """Trains a recipe and returns its row."""
  begin = time.perf_counter()
  main.main(spec, [], workdir, progress=False)
  seconds = time.perf_counter() - begin
  lines = read_lines(workdir / "metrics.jsonl")
  losses = [line["train/loss"] for line in lines if "train/loss" in line]
  accuracy = next(line["eval/accuracy"] for line in reversed(lines) if "eval/accuracy" in line)
  change = f"{losses[0]:.3f} to {losses[-1]:.3f}"
  return f"| `{spec}` | {lines[-1]['step']} | {change} | {accuracy:.1%} | {seconds:.0f} |"


if __name__ == "__main__":
  print_table()

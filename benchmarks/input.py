"""Rate of the input pipeline against bare decoding and resizing by the same library.

Made pictures of 500 x 375 pixels (JPEG, quality 92, about 100 kB: ImageNet's middle). The ways
take turns, so that a busy moment of the machine hits all; the ratio of the best rates is the number
to read.

    python benchmarks/input.py
    python benchmarks/input.py --policy=rand_augment
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import contextlib
import io
import time

import numpy as np
from PIL import Image

from bcos_jax.inputs import Preprocess
from bcos_jax.train.config import load_config
from bcos_jax.train.data import Dataset, augment, pipeline

SIDE = 224


def pictures(count: int) -> list[bytes]:
  """Returns JPEG files with detail at several scales, as photographs have."""
  rng = np.random.default_rng(0)
  files = []
  for _ in range(count):
    picture = np.zeros((375, 500, 3))
    for scale in (1, 4, 16, 64):
      small = rng.integers(0, 256, (375 // scale + 1, 500 // scale + 1, 3), np.uint8)
      large = Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC)
      picture += np.asarray(large) * (0.1 if scale == 1 else 0.3)
    buffer = io.BytesIO()
    Image.fromarray(np.uint8(picture.clip(0, 255))).save(buffer, format="jpeg", quality=92)
    files.append(buffer.getvalue())
  return files


def bare(files: list[bytes]) -> Callable[[], None]:
  """Decoding, and resizing of the whole picture, to 8-bit arrays."""

  def run() -> None:
    for file in files:
      picture = Image.open(io.BytesIO(file)).convert("RGB")
      np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

  return run


def prepared(examples: pipeline.Examples, way: augment.Augmentation) -> Callable[[], None]:
  """What the pipeline does with one example after another: decoding, augmentation, floats."""
  rng = np.random.default_rng(0)

  def run() -> None:
    for i in range(len(examples)):
      way(examples[i]["image"], rng)

  return run


def batches(examples: pipeline.Examples, way: augment.Augmentation) -> Callable[[], None]:
  """The whole pipeline: order, decoding in its threads, batches."""
  read = pipeline.train_batches(examples, way, batch_size=16, seed=0)
  count = len(examples) // 16

  def run() -> None:
    with contextlib.closing(iter(read)) as iterator:
      for _ in range(count):
        next(iterator)

  return run


def main() -> None:
  """Prints rates and ratios."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--pictures", type=int, default=128)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--policy", default="none", help="of config.data.augment")
  options = parser.parse_args()
  config = load_config("bcosify_cnn", [f"--config.data.augment.policy={options.policy}"])
  preprocess = Preprocess(size=(SIDE, SIDE), resize=256)
  way = augment.from_config(config.data.augment, preprocess)
  files = pictures(options.pictures)
  source = [{"image": file, "label": 0} for file in files]
  train, test = (
    pipeline.Examples(Dataset("made", source, ("",)), prepare)
    for prepare in (way.prepare, preprocess)
  )
  ways = {
    "bare decoding and resizing": bare(files),
    "decoding and augmentation": prepared(train, way),
    "decoding and evaluation's crop": lambda: [test[i] for i in range(len(test))],
    "training batches (2 threads)": batches(train, way),
  }
  seconds = {name: [] for name in ways}
  for _ in range(options.repeats):
    for name, run in ways.items():
      began = time.perf_counter()
      run()
      seconds[name].append(time.perf_counter() - began)
  size = np.mean([len(file) for file in files])
  print(f"{len(files)} pictures of {size / 1e3:.0f} kB, best of {options.repeats}")
  fastest = {name: min(times) for name, times in seconds.items()}
  base = fastest["bare decoding and resizing"]
  for name, best in fastest.items():
    print(f"{name:<32}{len(files) / best:8.0f} pictures/s   ratio {base / best:.2f}")


if __name__ == "__main__":
  main()

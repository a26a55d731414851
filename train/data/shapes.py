"""Draws a folder of pictures to try things with: coloured shapes on noisy ground.

python -m bcos_jax.train.data.shapes shapes
python -m bcos_jax.train.data.shapes several --several
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import csv
import math
import os
import pathlib

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
  "blue square": (40, 70, 220),
  "green triangle": (30, 160, 60),
  "red circle": (210, 40, 40),
  "yellow star": (230, 200, 30),
}
SHAPES = tuple(COLORS)
_CORNERS = {"square": 4, "star": 10, "triangle": 3}


def draw(
  names: Sequence[str], rng: np.random.Generator, side: int = 64, share: float = 0.3
) -> Image.Image:
  """Returns a picture with one shape of each name, at a random place, size, turn and brightness.

  Args:
    names: Of `SHAPES`.
    rng: Source of randomness.
    side: In pixels.
    share: Largest radius of a shape, as a share of the side.
  """
  ground = rng.integers(60, 180) + rng.integers(0, 56, (side, side, 3))
  picture = Image.fromarray(np.uint8(ground))
  pen = ImageDraw.Draw(picture)
  for name in names:
    radius = side * share * rng.uniform(0.6, 1.0)
    x, y = rng.uniform(radius, side - radius, 2)
    color = tuple(int(c) for c in np.array(COLORS[name]) * rng.uniform(0.7, 1.1))
    shape = name.split()[1]
    if shape == "circle":
      pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
      continue
    corners, turn = _CORNERS[shape], rng.uniform(0, 2 * math.pi)
    radii = [radius * (0.4 if shape == "star" and i % 2 else 1.0) for i in range(corners)]
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    points = zip(radii, angles, strict=True)
    pen.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for r, a in points], fill=color)
  return picture


def write(
  folder: str | os.PathLike,
  *,
  count: int = 50,
  several: bool = False,
  seed: int = 0,
  side: int = 64,
) -> pathlib.Path:
  """Fills a folder with pictures of shapes.

  Args:
    folder: Where to.
    count: Pictures per class.
    several: Whether to draw up to three shapes per picture and write labels.csv, rather than a
      folder per class.
    seed: Of everything.
    side: In pixels.

  Returns:
    The folder.
  """
  folder, rng = pathlib.Path(folder), np.random.default_rng(seed)
  rows = []
  for i in range(count * len(SHAPES)):
    label = SHAPES[i % len(SHAPES)]
    names = (
      sorted(rng.choice(SHAPES, rng.integers(1, 4), replace=False).tolist()) if several else [label]
    )
    file = f"{i:04}.png" if several else f"{label}/{i:04}.png"
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(names, rng, side, share=0.2 if several else 0.3).save(path)
    rows.append((file, "|".join(names)))
  if several:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as table:
      csv.writer(table).writerows([("file", "labels"), *rows])
  return folder


def main(arguments: Sequence[str] | None = None) -> None:
  """Parses a command line and fills a folder."""
  parser = argparse.ArgumentParser(description="Draws a folder of coloured shapes.")
  parser.add_argument("folder")
  parser.add_argument("--count", type=int, default=50, help="pictures per class")
  parser.add_argument("--several", action="store_true", help="several per picture, and labels.csv")
  options = parser.parse_args(arguments)
  print(f"Drew {write(options.folder, count=options.count, several=options.several)}")


if __name__ == "__main__":
  main()

"""Crops of five photographs that come with scikit-learn and scikit-image, a folder for each class.

  pip install scikit-image
  python docs/photographs.py photographs

writes `photographs/crops`, for training: what is on each photograph, and the ground around it as a
class of its own, so that colours of the ground are no evidence for anything else; and
`photographs/whole`, the middle square of each photograph, to explain.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageOps

SIDE = 160  # pixels of a crop
GROUND = "ground"
BOXES = {
  "cat": (40, 0, 440, 300),
  "coffee": (80, 10, 490, 390),
  "flower": (160, 85, 445, 365),
  "rocket": (290, 95, 345, 400),
  "temple": (80, 30, 350, 400),
}
"""Where the object is: left, top, right, bottom."""


def photographs() -> dict[str, Image.Image]:
  """Returns the photographs by what is on them."""
  from skimage import data
  from sklearn.datasets import load_sample_image

  pixels = {
    "cat": data.chelsea(),
    "coffee": data.coffee(),
    "flower": load_sample_image("flower.jpg"),
    "rocket": data.rocket(),
    "temple": load_sample_image("china.jpg"),
  }
  return {name: Image.fromarray(picture) for name, picture in pixels.items()}


def crop(picture: Image.Image, box: tuple[int, ...], of: str, chance: np.random.RandomState):
  """Returns a random square: of the object with its middle in the box, or of the ground beside it.

  Args:
    picture: The photograph.
    box: Of its object.
    of: Name of the object, or GROUND.
    chance: Where it is drawn from.
  """
  left, top, right, bottom = box
  while True:
    share = chance.uniform(0.12, 0.5) if of == GROUND else chance.uniform(0.3, 1.0)
    side = round(share * min(picture.size))
    x, y = chance.randint(picture.width - side + 1), chance.randint(picture.height - side + 1)
    apart = x >= right or y >= bottom or x + side <= left or y + side <= top
    middle = left <= x + side / 2 <= right and top <= y + side / 2 <= bottom
    if apart if of == GROUND else middle:
      area = (x, y, x + side, y + side)
      return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, area)


def main() -> None:
  """Parses the command line and writes the pictures."""
  parser = argparse.ArgumentParser(description="Writes crops of photographs.")
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--count", type=int, default=100, help="crops of each class")
  options = parser.parse_args()
  chance = np.random.RandomState(0)
  pictures = photographs()
  whole = options.folder / "whole"
  whole.mkdir(parents=True, exist_ok=True)
  with_ground = [name for name in pictures if name != "cat"]  # which fills its photograph
  for of in (*pictures, GROUND):
    folder = options.folder / "crops" / of
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(options.count):
      name = with_ground[i % len(with_ground)] if of == GROUND else of
      crop(pictures[name], BOXES[name], of, chance).save(folder / f"{i:03}.png")
  for name, picture in pictures.items():
    ImageOps.fit(picture, (320, 320)).save(whole / f"{name}.png")
  print(f"Wrote {options.folder}")


if __name__ == "__main__":
  main()

"""The lines of the README's "one line", for any source."""

import json
import pathlib

import numpy as np
from PIL import Image

import bcos_jax


def pictures(folder: pathlib.Path) -> pathlib.Path:
  """Writes a.jpg and b.png, of different sizes, and returns their folder."""
  folder.mkdir(parents=True, exist_ok=True)
  seeded = np.random.RandomState(0)
  for name, size in (("a.jpg", (90, 131)), ("b.png", (64, 48))):
    Image.fromarray(np.uint8(255 * seeded.random_sample((*size, 3)))).save(folder / name)
  return folder


def check(source: pathlib.Path, target: str, place: pathlib.Path) -> bcos_jax.Network:
  """Runs the lines and checks what they give."""
  photos = pictures(place / "photos")
  net = bcos_jax.load(source)
  ex = net.explain(photos / "a.jpg")
  ex.show()
  assert np.max(ex.completeness_error) < 1e-4 and ex._repr_png_()
  given = [photos / "a.jpg", photos / "b.png"]
  net.explain(given, target=target, batch_size=8).save(place / "out")
  written = {path.name for path in (place / "out").iterdir()}
  assert {"a.png", "a.npz", "b.png", "explanations.json", "report.html"} <= written
  rows = json.loads((place / "out" / "explanations.json").read_text())["explanations"]
  assert [row["label"] for row in rows] == [target] * 2
  best = net.predict(photos / "a.jpg", top=2)
  assert len(best) == 2 and best[0].number == int(np.argmax(ex.logits[0]))
  assert best[0].label == net.labels[best[0].number]
  return net

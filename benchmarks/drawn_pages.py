"""Pages of made-up text, drawn with fonts: whole pages, and pages whose text lies in known boxes.

    python benchmarks/drawn_pages.py fonts pages

`fonts` is a folder with the fonts of the Debian packages in `PACKAGES`, unpacked, at any depth.
Into `pages` go `fit` (256 whole pages) and `match` (480, half of them with boxes), PNG files of 224
pixels, and `tests.npz`: 128 other whole pages and, for each layout of `LAYOUTS`, pages with boxes.
Pages of a set depend on its seed and the fonts alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from bcos_jax.errors import InputError

SIDE = 224
PACKAGES = (
  "culmus fonts-adf-oldania fonts-blankenburg fonts-ebgaramond fonts-gamaliel fonts-gfs-artemisia "
  "fonts-gfs-baskerville fonts-gfs-didot fonts-gfs-neohellenic fonts-gfs-porson "
  "fonts-gotico-antiqua fonts-goudybookletter fonts-junicode fonts-lindenhill fonts-linuxlibertine "
  "fonts-oldstandard fonts-sil-ezra fonts-sil-galatia"
).split()
"""Of Debian, where the fonts are from."""

KINDS: dict[str, tuple[str, ...]] = {
  "antiqua": (
    "EBGaramond12-Regular.otf",
    "LindenHill.otf",
    "LinLibertine_R.otf",
    "OldStandard-Regular.ttf",
    "JunicodeTwoBeta-Regular.otf",
    "GoudyBookletter1911.otf",
    "GalSILR.ttf",
  ),
  "italic": (
    "EBGaramond12-Italic.otf",
    "LindenHill-Italic.otf",
    "LinLibertine_RI.otf",
    "OldStandard-Italic.ttf",
    "JunicodeTwoBeta-Italic.otf",
    "GFSDidotItalic.otf",
  ),
  "greek": (
    "GFSPorson.otf",
    "GFSDidot.otf",
    "GFSArtemisia.otf",
    "GFSBaskerville.otf",
    "GFSNeohellenic.otf",
    "GalSILR.ttf",
  ),
  "hebrew": (
    "FrankRuehlCLM-Medium.ttf",
    "SILEOT.ttf",
    "KeterYG-Medium.ttf",
    "StamAshkenazCLM.ttf",
    "DavidCLM-Medium.otf",
    "HadasimCLM-Regular.ttf",
  ),
  "gotico_antiqua": (
    "Fust*Durandus*.otf",
    "Rusch-GoticoAntiqua100G.otf",
    "Zainer-GoticoAntiqua96G.otf",
    "Rusch-R-*.otf",
    "Rot-ProtoRoman102R.otf",
    "Parix-Hybrid111R.otf",
  ),
  "blackletter": (
    "Blankenburg_UNZ1A.ttf",
    "Gamaliel.ttf",
    "Hamlet-Tertia18.otf",
    "Jessen-Mittel14.otf",
  ),
}
"""Patterns of the files of each kind of typeface, as the packages name them."""

CLEAR = ("antiqua", "italic", "greek", "hebrew")
"""Kinds that are classes of the network, which it tells apart."""

LAYOUTS = ("alone", "beside things", "two kinds")
"""One box of text on empty paper; with rules, ornaments and a photograph; two kinds of typeface."""

_LATIN = "abcdefghilmnopqrstuvaeiourntaeiounstermdcl"
_LETTERS = {
  "greek": "αβγδεζηθικλμνξοπρσςτυφχψωαειοντσ",
  "hebrew": "אבגדהוזחטיכלמנסעפצקרשתםןץךףויהלא",
}

Fonts = Mapping[str, Sequence[str]]
Box = tuple[int, int, int, int]


def find_fonts(folder: pathlib.Path) -> dict[str, list[str]]:
  """Returns the fonts of each kind below a folder; InputError names what is missing."""
  fonts: dict[str, list[str]] = {}
  for kind, patterns in KINDS.items():
    fonts[kind] = []
    for pattern in patterns:
      found = sorted(map(str, folder.rglob(pattern)))
      if not found:
        raise InputError(
          f"No font {pattern!r} below {str(folder)!r}.",
          f"Unpack there Debian's packages {', '.join(PACKAGES)}.",
        )
      fonts[kind] += found
  return fonts


def _word(random: np.random.Generator, letters: str) -> str:
  """Returns a word of 2 to 9 random letters, some with a capital or a stop."""
  picked = "".join(letters[i] for i in random.integers(len(letters), size=random.integers(2, 10)))
  if letters is _LETTERS["hebrew"]:
    picked = picked[::-1]
  elif random.random() < 0.1:
    picked = picked[0].upper() + picked[1:]
  return picked + (random.choice([",", ".", ":"]) if random.random() < 0.1 else "")


def _paper(random: np.random.Generator, picture: np.ndarray) -> np.ndarray:
  """Adds uneven light, soft texture and noise; returns uint8 [SIDE, SIDE]."""
  down, across = random.uniform(-25, 25, 2)
  rows, columns = np.mgrid[-0.5 : 0.5 : SIDE * 1j, -0.5 : 0.5 : SIDE * 1j]
  coarse = Image.fromarray(random.normal(0, 1, (SIDE // 4, SIDE // 4)).astype(np.float32))
  soft = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
  lit = picture + down * rows + across * columns + 3 * soft
  lit = lit + random.normal(0, random.uniform(1, 5), picture.shape)
  return np.clip(lit, 0, 255).round().astype(np.uint8)


def whole_page(random: np.random.Generator, kind: str, path: str) -> np.ndarray:
  """Returns a crop of a page full of text, a little skewed and blurred: uint8 [SIDE, SIDE]."""
  letters, size = _LETTERS.get(kind, _LATIN), int(random.integers(18, 48))
  font = ImageFont.truetype(path, size)
  larger, paper, ink = 400, random.uniform(190, 245), random.uniform(10, 70)
  picture = Image.new("L", (larger, larger), int(paper))
  draw, lead = ImageDraw.Draw(picture), size * random.uniform(1.0, 1.35)
  y = -random.uniform(0, lead)
  x = -random.uniform(0, 80) if random.random() < 0.8 else random.uniform(90, 150)
  while y < larger:
    line = ""
    while font.getlength(line) < larger + 120:
      line += _word(random, letters) + " "
    draw.text((x, y), line, fill=int(ink), font=font)
    y += lead
  turned = picture.rotate(
    random.uniform(-2, 2), resample=Image.Resampling.BILINEAR, fillcolor=int(paper)
  )
  blurred = turned.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.1)))
  edge = (larger - SIDE) // 2
  inside = np.asarray(blurred, np.float32)[edge : edge + SIDE, edge : edge + SIDE]
  return _paper(random, inside)


def whole_pages(fonts: Fonts, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns pages uint8 [N, SIDE, SIDE] of all kinds in turn, and the kinds [N]."""
  random, kinds = np.random.default_rng(seed), list(fonts)
  pages, drawn = [], [kinds[i % len(kinds)] for i in range(count)]
  for kind in drawn:
    path = fonts[kind][int(random.integers(len(fonts[kind])))]
    pages.append(whole_page(random, kind, path))
  return np.stack(pages), np.array(drawn)


@dataclasses.dataclass(frozen=True)
class BoxedPage:
  """A page whose text lies in boxes.

  Attributes:
    picture: uint8 [SIDE, SIDE].
    ink: float32 [SIDE, SIDE], by how many levels the text darkens the paper there.
    boxes: (top, left, bottom, right) of each text, the last two exclusive, apart from each other.
    kinds: The kind of typeface in each box.
  """

  picture: np.ndarray
  ink: np.ndarray
  boxes: tuple[Box, ...]
  kinds: tuple[str, ...]


def boxed_page(
  random: np.random.Generator, texts: Sequence[tuple[str, str]], things: bool = False
) -> BoxedPage:
  """Draws a page with a box of text for each (kind, path of a font), elsewhere the same paper.

  Args:
    random: What is drawn, and where.
    texts: One or two.
    things: Whether rules, ornaments and a piece of a photograph lie beside the boxes.
  """
  paper, dark = random.uniform(190, 245), random.uniform(10, 70)
  taken: list[Box] = []
  ink = np.zeros((SIDE, SIDE), np.float32)
  for kind, path in texts:
    box = _free_box(random, taken, (64, 104), (96, 150))
    taken.append(box)
    covered = _text(random, kind, path, box[2] - box[0], box[3] - box[1])
    ink[box[0] : box[2], box[1] : box[3]] = (paper - dark) * covered
  picture = paper - ink
  if things:
    picture = _with_things(random, picture, taken, dark)
  boxes, kinds = tuple(taken[: len(texts)]), tuple(kind for kind, _ in texts)
  return BoxedPage(_paper(random, picture), ink, boxes, kinds)


def _free_box(
  random: np.random.Generator, taken: Sequence[Box], heights: tuple[int, int], widths: tuple
) -> Box:
  """Returns a random box at least 6 pixels from others and from the page's edge."""
  for attempt in range(1000):
    smaller = 0.99 ** (attempt // 10)  # for where two large boxes leave no place
    height, width = (int(random.integers(*sides) * smaller) for sides in (heights, widths))
    top, left = (int(random.integers(6, SIDE - 6 - side)) for side in (height, width))
    box = (top, left, top + height, left + width)
    apart = (
      box[0] >= other[2] + 6
      or box[2] + 6 <= other[0]
      or box[1] >= other[3] + 6
      or box[3] + 6 <= other[1]
      for other in taken
    )
    if all(apart):
      return box
  raise InputError(f"No place for a box beside {list(taken)}.", "Draw fewer of them.")


def _text(random: np.random.Generator, kind: str, path: str, height: int, width: int) -> np.ndarray:
  """Returns how far ink covers a box, in [0, 1]: whole words, whole lines, nothing at its edge."""
  letters, size = _LETTERS.get(kind, _LATIN), int(random.integers(18, 34))
  font, edge = ImageFont.truetype(path, size), 4
  room = width - 2 * edge
  picture = Image.new("L", (width, height), 0)
  draw, lead, base = ImageDraw.Draw(picture), size * random.uniform(1.0, 1.35), 0.0
  while True:
    line = ""
    while not line or font.getlength(line) > room:
      line = _word(random, letters)
    while font.getlength(longer := f"{line} {_word(random, letters)}") < room:
      line = longer
    left, top, _, bottom = draw.textbbox((0, 0), line, font=font, anchor="ls")
    base = base + lead if base else float(edge - top)
    if base + bottom > height - edge:
      break
    draw.text((edge - left, base), line, fill=255, font=font, anchor="ls")
  inner = np.zeros((height, width), bool)
  inner[edge:-edge, edge:-edge] = True
  cut = Image.fromarray(np.where(inner, np.asarray(picture), 0).astype(np.uint8))
  blurred = cut.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.1)))
  return np.asarray(blurred, np.float32) / 255


def _with_things(
  random: np.random.Generator, picture: np.ndarray, taken: list[Box], dark: float
) -> np.ndarray:
  """Adds what is no text, beside the boxes: a photograph, then ornaments, then rules."""
  picture = picture.copy()
  top, left, bottom, right = box = _free_box(random, taken, (48, 72), (48, 72))
  taken.append(box)
  picture[top:bottom, left:right] = _photograph(random, bottom - top, right - left)
  for heights, widths, draw in (
    ((20, 30), (20, 30), _ornament),
    ((20, 30), (20, 30), _ornament),
    ((6, 10), (60, 120), _rules),
    ((50, 90), (6, 10), _rules),
  ):
    top, left, bottom, right = box = _free_box(random, taken, heights, widths)
    taken.append(box)
    thing = draw(random, bottom - top, right - left)
    piece = picture[top:bottom, left:right]
    picture[top:bottom, left:right] = piece + (dark - piece) * thing
  return picture


@functools.cache
def _photographs() -> tuple[Image.Image, ...]:
  from sklearn.datasets import load_sample_images

  return tuple(Image.fromarray(picture).convert("L") for picture in load_sample_images().images)


def _photograph(random: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns a piece of one of scikit-learn's two photographs, at a third of its size."""
  whole = _photographs()[int(random.integers(2))]
  left = int(random.integers(whole.width - 3 * width))
  top = int(random.integers(whole.height - 3 * height))
  area = (left, top, left + 3 * width, top + 3 * height)
  small = whole.resize((width, height), Image.Resampling.BICUBIC, area)
  return np.asarray(small, np.float32)


def _ornament(random: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns a ring, a diamond or a flower of discs, [height, width] in [0, 1]."""
  picture = Image.new("L", (width, height), 0)
  draw, box = ImageDraw.Draw(picture), (2, 2, width - 3, height - 3)
  shape = int(random.integers(3))
  if shape == 0:
    draw.ellipse(box, outline=255, width=3)
  elif shape == 1:
    x, y = width // 2, height // 2
    draw.polygon([(x, 2), (width - 3, y), (x, height - 3), (2, y)], fill=255)
  else:
    for angle in np.linspace(0, 2 * np.pi, 6)[:-1]:
      x, y = width / 2 + width / 4 * np.cos(angle), height / 2 + height / 4 * np.sin(angle)
      draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=255)
  return np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)), np.float32) / 255


def _rules(random: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns one line or two beside each other along a box, [height, width] in [0, 1]."""
  thing = np.zeros((height, width), np.float32)
  along = thing if width > height else thing.T
  for place in (2, 5)[: int(random.integers(1, 3))]:
    along[place : place + int(random.integers(1, 3)), 2:-2] = 1
  return thing


def boxed_pages(fonts: Fonts, layout: str, count: int, seed: int) -> list[BoxedPage]:
  """Returns pages of a layout; the kinds are those of `CLEAR`, each equally often."""
  random, pages = np.random.default_rng(seed), []
  for i in range(count):
    kinds = [CLEAR[i % 4]]
    if layout == "two kinds":
      kinds.append(CLEAR[(i + 1 + i // 4 % 3) % 4])
    texts = [(kind, fonts[kind][int(random.integers(len(fonts[kind])))]) for kind in kinds]
    pages.append(boxed_page(random, texts, things=layout == "beside things"))
  return pages


def main() -> None:
  """Parses the command line and writes the pages."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("fonts", type=pathlib.Path)
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--count", type=int, default=24, help="test pages of each layout")
  options = parser.parse_args()
  fonts = find_fonts(options.fonts)
  fit, _ = whole_pages(fonts, 256, seed=1)
  match = [*whole_pages(fonts, 240, seed=3)[0]]
  for i, layout in enumerate(LAYOUTS):
    match += [page.picture for page in boxed_pages(fonts, layout, 80, seed=10 + i)]
  for name, pages in (("fit", fit), ("match", match)):
    (options.folder / name).mkdir(parents=True, exist_ok=True)
    for i, page in enumerate(pages):
      Image.fromarray(page).save(options.folder / name / f"{i:03d}.png")
  whole, kinds = whole_pages(fonts, 128, seed=2)
  tests = {"whole": whole, "whole kinds": kinds}
  for i, layout in enumerate(LAYOUTS):
    pages = boxed_pages(fonts, layout, options.count, seed=20 + i)
    tests[layout] = np.stack([page.picture for page in pages])
    tests[f"{layout} boxes"] = np.array([page.boxes for page in pages])
    tests[f"{layout} kinds"] = np.array([page.kinds for page in pages])
  np.savez_compressed(options.folder / "tests.npz", **tests)
  print(f"{len(fit)} pages to fit, {len(match)} to match, {len(whole)} and boxes to test")


if __name__ == "__main__":
  main()

"""ShapeScenes: textured shapes and glyphs on textured ground, with boxes and masks.

A scene is a pure function of seed, number and side, drawn with NumPy alone. It shows one object
of a class (or several, of different classes) and distractors: objects of no class in the same
colours and textures, so that only the shape determines the class and only its shape is in its mask.

As a data set, see `shape_scenes`; as a folder of pictures to try things with:

python -m bcos_jax.train.data.draw shapes
python -m bcos_jax.train.data.draw several --several
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import colorsys
import csv
import dataclasses
import itertools
import os
import pathlib

import numpy as np
from PIL import Image

from bcos_jax.errors import InputError

_DISTANCE_BETWEEN_COLORS = 0.45


@dataclasses.dataclass(frozen=True)
class SceneObject:
  """One object of a scene.

  Attributes:
    name: Of its form.
    label: Number of its class, or -1 for a distractor.
    box: (top, left, bottom, right) of what can be seen, in pixels, the last two exclusive.
  """

  name: str
  label: int
  box: tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Scene:
  """A picture and what is in it.

  Attributes:
    image: uint8 [side, side, 3].
    objects: Of classes first, in the requested order, then distractors.
    mask: uint8 [side, side]: 0 for the ground, k for the visible pixels of the k-th object,
      counted from 1.
  """

  image: np.ndarray
  objects: tuple[SceneObject, ...]
  mask: np.ndarray


def scene(
  labels: Sequence[int],
  *,
  seed: int | Sequence[int] = 0,
  side: int = 64,
  distractors: int = 2,
  radius: float | None = None,
  colors: Sequence[tuple[float, float, float]] = (),
) -> Scene:
  """Draws a scene.

  Args:
    labels: Classes to show, one object each: numbers in `CLASSES`.
    seed: Of everything random in it; several numbers count as one seed.
    side: Of the picture, in pixels, at least 16.
    distractors: Most of them; there are fewer where there is no room.
    radius: Largest radius of an object as a share of the side; None for 0.33, less if several
      objects are requested.
    colors: Red, green and blue in [0, 1] of the first objects; others have colours at random.

  Raises:
    InputError: A class or size that cannot be drawn.
  """
  if side < 16 or not labels or not all(0 <= label < len(CLASSES) for label in labels):
    raise InputError(
      f"A scene of classes {list(labels)} and {side} pixels, expected classes in 0 to "
      f"{len(CLASSES) - 1} and at least 16 pixels.",
      "For example: labels=[0], side=64.",
    )
  rng = np.random.default_rng(seed)
  largest: float = radius or 0.33 / len(labels) ** 0.3
  names = [CLASSES[label] for label in labels] + rng.choice(DISTRACTORS, distractors).tolist()
  places = _places(rng, len(names), len(labels), largest)
  axis = (np.arange(side) + 0.5) / side
  image, tone = surface(rng, axis[:, None], axis[None])
  mask = np.zeros((side, side), np.uint8)
  for number, (name, place) in enumerate(zip(names, places, strict=False), start=1):
    down, across = (np.flatnonzero(np.abs(axis - at) < place[2] + 1 / side) for at in place[:2])
    near, rows, columns = np.ix_(down, across), axis[down][:, None], axis[across][None]
    cover = opacity(rng, name, place, rows, columns, side)
    given = np.array(colors[number - 1]) if number <= len(colors) else None
    paint, _ = surface(rng, rows, columns, unlike=tone, color=given)
    image[near] += cover[..., None] * (paint - image[near])
    mask[near] = np.where(cover >= cover.max() / 2, number, mask[near])
  objects = [
    SceneObject(name, labels[i] if i < len(labels) else -1, _box(mask == i + 1))
    for i, name in enumerate(names[: len(places)])
  ]
  image = image + rng.normal(0, 0.02, image.shape)
  return Scene((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), tuple(objects), mask)


def _places(rng, count: int, needed: int, radius: float) -> list[tuple[float, float, float]]:
  """Circles (y, x, radius) in the unit square that do not touch: the needed ones, then others."""
  for shrink in 0.95 ** np.arange(30):
    places: list[tuple[float, float, float]] = []
    for i in range(count):
      for _ in range(60):
        r = radius * rng.uniform(0.6, 1.0) * (shrink if i < needed else 0.75 * shrink)
        y, x = rng.uniform(min(r, 0.5), max(1 - r, 0.5), 2)
        if all(np.hypot(y - v, x - u) > r + s for v, u, s in places):
          places.append((y, x, r))
          break
      if len(places) <= i < needed:
        break
    if len(places) >= needed:
      return places
  raise InputError(
    f"{needed} objects do not fit into the scene.", "Request fewer, or a smaller radius."
  )


def opacity(rng, name: str, place, rows, columns, side: int) -> np.ndarray:
  """The opacity in [0, 1] of an object, turned a little, at rows [h, 1] and columns [1, w]."""
  y, x, radius = place
  turn = rng.uniform(-0.25, 0.25)
  u, v = (columns - x) / radius, (rows - y) / radius
  u, v = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
  # Distances are in radii, negative inside. An edge is one pixel wide.
  return np.clip(0.5 - FORMS[name](u, v) * radius * side, 0, 1)


def surface(rng, rows, columns, unlike=None, color=None) -> tuple[np.ndarray, np.ndarray]:
  """A textured surface [h, w, 3] of a colour, or any unlike another; and its mean colour."""
  while color is None:
    hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.2, 1), rng.uniform(0.25, 1)
    drawn = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    if unlike is None or np.linalg.norm(drawn - unlike) > _DISTANCE_BETWEEN_COLORS:
      color = drawn
  second = np.clip(color + rng.uniform(-0.22, 0.22, 3), 0, 1)
  pattern = _TEXTURES[rng.integers(len(_TEXTURES))](rng, rows, columns)
  return color + pattern[..., None] * (second - color), (color + second) / 2


def _waves(rng, rows, columns) -> tuple[np.ndarray, np.ndarray]:
  """Two crossing waves in [-1, 1], at a random angle and scale."""
  angle, length = rng.uniform(0, np.pi), rng.uniform(0.06, 0.2)
  phase = 2 * np.pi * rng.uniform(0, 1, 2)
  along = columns * np.cos(angle) + rows * np.sin(angle)
  across = rows * np.cos(angle) - columns * np.sin(angle)
  return tuple(
    np.sin(2 * np.pi * part / length + p) for part, p in zip((along, across), phase, strict=True)
  )


def _stripes(rng, rows, columns) -> np.ndarray:
  return (_waves(rng, rows, columns)[0] > 0).astype(np.float64)


def _checks(rng, rows, columns) -> np.ndarray:
  first, second = _waves(rng, rows, columns)
  return (first * second > 0).astype(np.float64)


def _dots(rng, rows, columns) -> np.ndarray:
  first, second = _waves(rng, rows, columns)
  return (first + second > 0.9).astype(np.float64)


def _clouds(rng, rows, columns) -> np.ndarray:
  """Random values on a coarse grid, interpolated."""
  cells = int(rng.integers(3, 9))
  values = rng.uniform(0, 1, (cells + 1, cells + 1))
  rows, columns = cells * rows, cells * columns
  top, left = rows.astype(int), columns.astype(int)
  upper, lower = (
    values[i, left] * (1 - columns % 1) + values[i, left + 1] * (columns % 1)
    for i in (top, top + 1)
  )
  return upper * (1 - rows % 1) + lower * (rows % 1)


def _plain(rng, rows, columns) -> np.ndarray:
  del rng
  return np.zeros((rows.size, columns.size))


_TEXTURES: tuple[Callable, ...] = (_stripes, _checks, _dots, _clouds, _plain)


def _box(inside: np.ndarray) -> tuple[int, int, int, int]:
  rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
  return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _polygon(*corners: tuple[float, float]) -> Callable:
  """The signed distance to a polygon; after Quilez, "2D distance functions"."""
  points = np.array(corners, np.float64)

  def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    nearest, sign = np.full(u.shape, np.inf), np.ones(u.shape)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, 1, axis=0), strict=True):
      nearest = np.minimum(nearest, _to_segment(u, v, ax, ay, bx, by))
      crosses = (v >= ay) != (v >= by)
      left = (u - ax) * (by - ay) < (bx - ax) * (v - ay)
      sign = np.where(crosses & (left == (by > ay)), -sign, sign)
    return sign * nearest

  return distance


def _strokes(width: float, *lines: Sequence[tuple[float, float]]) -> Callable:
  """The signed distance to lines of some width."""
  segments = [(*a, *b) for line in lines for a, b in itertools.pairwise(line)]

  def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.min([_to_segment(u, v, *segment) for segment in segments], axis=0) - width

  return distance


def _to_segment(u, v, ax, ay, bx, by) -> np.ndarray:
  x, y = bx - ax, by - ay
  share = np.clip(((u - ax) * x + (v - ay) * y) / (x * x + y * y), 0, 1)
  return np.hypot(u - ax - share * x, v - ay - share * y)


def _regular(corners: int, inner: float = 1.0) -> Callable:
  """A regular polygon, or a star whose inner corners are nearer."""
  count = corners if inner == 1.0 else 2 * corners
  radii = np.where(np.arange(count) % 2, inner, 1.0) if inner != 1.0 else np.ones(count)
  angles = 2 * np.pi * np.arange(count) / count - np.pi / 2
  return _polygon(*zip(radii * np.cos(angles), radii * np.sin(angles), strict=True))


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.hypot(u, v) - 0.9


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.abs(np.hypot(u, v) - 0.7) - 0.22


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  return np.maximum(np.hypot(u, v) - 0.95, 0.75 - np.hypot(u - 0.45, v))


def _dumbbell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  balls = np.minimum(np.hypot(u - 0.6, v), np.hypot(u + 0.6, v)) - 0.35
  return np.minimum(balls, _to_segment(u, v, -0.6, 0, 0.6, 0) - 0.12)


_SQUARE = ((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7))
_ARROW = (
  (-0.9, -0.25),
  (0.1, -0.25),
  (0.1, -0.7),
  (0.95, 0),
  (0.1, 0.7),
  (0.1, 0.25),
  (-0.9, 0.25),
)
FORMS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "arrow": _polygon(*_ARROW),
  "circle": _circle,
  "crescent": _crescent,
  "plus": _strokes(0.25, ((-0.7, 0), (0.7, 0)), ((0, -0.7), (0, 0.7))),
  "ring": _ring,
  "square": _polygon(*_SQUARE),
  "star": _regular(5, 0.45),
  "triangle": _regular(3),
  "letter A": _strokes(0.14, ((-0.5, 0.7), (0, -0.85), (0.5, 0.7)), ((-0.33, 0.2), (0.33, 0.2))),
  "letter E": _strokes(
    0.14, ((0.45, -0.7), (-0.45, -0.7), (-0.45, 0.7), (0.45, 0.7)), ((-0.45, 0), (0.3, 0))
  ),
  "letter K": _strokes(
    0.14, ((-0.45, -0.7), (-0.45, 0.7)), ((0.47, -0.7), (-0.35, 0.05), (0.48, 0.7))
  ),
  "letter Z": _strokes(0.14, ((-0.5, -0.68), (0.5, -0.68), (-0.5, 0.68), (0.5, 0.68))),
  "bar": _polygon((-0.95, -0.2), (0.95, -0.2), (0.95, 0.2), (-0.95, 0.2)),
  "corner": _strokes(0.2, ((-0.5, -0.6), (-0.5, 0.5), (0.6, 0.5))),
  "dumbbell": _dumbbell,
  "wave": _strokes(0.18, ((-0.76, -0.26), (-0.35, 0.4), (0.0, -0.4), (0.35, 0.4), (0.76, -0.26))),
}
"""Signed distance of a point (u, v) to each form within the unit circle, negative inside."""

DISTRACTORS = ("bar", "corner", "dumbbell", "wave")
CLASSES = tuple(name for name in FORMS if name not in DISTRACTORS)
COLORS = {
  "blue square": (0.16, 0.27, 0.86),
  "green triangle": (0.12, 0.63, 0.24),
  "red circle": (0.82, 0.16, 0.16),
  "yellow star": (0.9, 0.78, 0.12),
}
SHAPES = tuple(COLORS)
"""What a folder shows: fewer classes, which colour tells as well, for small sets to learn from."""


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
    names = [SHAPES[i % len(SHAPES)]]
    if several:
      names = sorted(rng.choice(SHAPES, rng.integers(1, 4), replace=False).tolist())
    file = f"{i:04}.png" if several else f"{names[0]}/{i:04}.png"
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = scene(
      [CLASSES.index(name.split()[1]) for name in names],
      seed=(seed, i),
      side=side,
      distractors=0,
      colors=[COLORS[name] for name in names],
    )
    Image.fromarray(drawn.image).save(path)
    rows.append((file, "|".join(names)))
  if several:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as table:
      csv.writer(table).writerows([("file", "labels"), *rows])
  return folder

"""The typeface network on pages whose text lies in known boxes: before, in closed form, matched.

    python benchmarks/pages.py fit bundles/typegroups pages/fit bundles/closed
    python benchmarks/pages.py measure bundles/typegroups pages/tests.npz \
      --closed=bundles/closed --matched=runs/pages/bundle --output=pages/boxes.json
    python benchmarks/pages.py play bundles/typegroups pages/tests.npz \
      --closed=bundles/closed --matched=runs/pages/bundle --output=pages/grids.json
    python benchmarks/pages.py figure bundles/typegroups pages/tests.npz \
      --closed=bundles/closed --matched=runs/pages/bundle --scan=page.png --output=pages.png

`typegroups.py` and `bcos-jax convert` make the network, `drawn_pages.py` the pages, and
`bcos-jax train --config=benchmarks/match_pages.py` matches what was fitted. Measured are agreement
with the conventional network, the share of positive contributions in the box of the text that is
explained, beside post-hoc methods on the conventional network, and the grid pointing game.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import os
import pathlib
import resource
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from drawn_pages import LAYOUTS
import jax
import numpy as np
from PIL import Image
import tqdm

import bcos_jax
from bcos_jax import BcosOps, attribution, calibration, metrics, render
from bcos_jax.errors import unknown_name
from bcos_jax.render.color import box_average

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]
CONVENTIONAL = {
  "input x gradient": attribution.InputXGradient(),
  "guided backprop": attribution.GuidedBackprop(),
  "Grad-CAM": attribution.GradCam(),
  "integrated gradients": attribution.IntegratedGradients(steps=8),
}
_BATCH = 8


def colors(pages: np.ndarray) -> np.ndarray:
  """Grey pages uint8 [N, H, W] -> float32 [N, H, W, 3] in [0, 1], as the network reads them."""
  return np.repeat(pages.astype(np.float32)[..., None] / 255, 3, axis=-1)


@dataclasses.dataclass(frozen=True)
class Boxed:
  """Explanations to make: one for each box of text.

  Attributes:
    pages: uint8 [M, H, W], a page again for each of its boxes.
    targets: int [M], the class of the text in the box.
    own: bool [M, H, W], the box.
    other: bool [M, H, W], the other box; empty where there is none.
    rows: int [M], the page's number: two explanations of a page are not independent.
  """

  pages: np.ndarray
  targets: np.ndarray
  own: np.ndarray
  other: np.ndarray
  rows: np.ndarray


def boxed(tests: Mapping[str, np.ndarray], layout: str, labels: tuple[str, ...]) -> Boxed:
  """Returns what is to be explained of the pages of a layout."""
  pages, boxes, kinds = (tests[f"{layout}{part}"] for part in ("", " boxes", " kinds"))
  count, each = boxes.shape[:2]
  rows, which = np.repeat(np.arange(count), each), np.tile(np.arange(each), count)
  side = pages.shape[1:]
  own = metrics.box_masks(boxes[rows, which], *side)
  targets = np.array([labels.index(kind) for kind in kinds[rows, which]])
  if each == 1:
    return Boxed(pages[rows], targets, own, np.zeros_like(own), rows)
  return Boxed(pages[rows], targets, own, metrics.box_masks(boxes[rows, 1 - which], *side), rows)


def error_of(values: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
  """Returns the mean of values [M], and its standard error over the pages `rows` [M]."""
  means = np.array([values[rows == row].mean() for row in np.unique(rows)])
  return float(values.mean()), float(means.std(ddof=1) / len(means) ** 0.5)


def in_boxes(maps: np.ndarray, given: Boxed, smooth: int = 0) -> dict[str, Any]:
  """Measures where the positive part of signed maps [M, H, W] lies.

  Args:
    maps: One for each explanation of `given`.
    given: What was explained.
    smooth: Odd width of an averaging window that comes before negative values are dropped.

  Returns:
    Mean and standard error of `own`, the share in the text's box, and with two boxes of `between`,
    the own box' share of both; `area`, the box' mean share of the page, which a uniform map gets;
    `empty`, the number of maps without a positive part, which are left out.
  """
  if smooth > 1:
    maps = np.asarray(box_average(np.asarray(maps, np.float32), smooth))
  positive = np.maximum(maps, 0).astype(np.float64)
  inside = (positive * given.own).sum((1, 2))
  total = positive.sum((1, 2))
  scored = total > 0
  found: dict[str, Any] = {"empty": int(np.sum(~scored)), "area": float(given.own.mean())}
  if scored.any():
    found["own"] = error_of(inside[scored] / total[scored], given.rows[scored])
  both = inside + (positive * given.other).sum((1, 2))
  scored = (both > 0) & given.other.any((1, 2))
  if scored.any():
    found["between"] = error_of(inside[scored] / both[scored], given.rows[scored])
  return found


def agreements(logits: np.ndarray, teacher: np.ndarray) -> dict[str, Any]:
  """Compares logits [N, C] with the teacher's: shares of pages with the same class, and how many.

  `sure` counts the pages where the teacher gives its class more than 0.9.
  """
  same = logits.argmax(-1) == teacher.argmax(-1)
  sure = np.asarray(jax.nn.softmax(teacher)).max(-1) > 0.9
  return {
    "all": float(same.mean()),
    "sure": float(same[sure].mean()) if sure.any() else None,
    "pages": [len(same), int(sure.sum())],
  }


def opened(options: argparse.Namespace) -> dict[str, bcos_jax.Network]:
  """Returns the networks that the command line names."""
  paths = {"conventional": options.teacher, "closed form": options.closed}
  paths["matched"] = options.matched
  return {name: bcos_jax.load(path) for name, path in paths.items() if path}


def methods_of(options: argparse.Namespace, networks: Mapping[str, bcos_jax.Network]):
  """Returns post-hoc methods on the conventional network and the contributions of the others.

  Those that `options.methods` names, if it names any: a dict of (images, targets) -> maps.
  """

  def post_hoc(method: attribution.Method) -> Method:
    net = networks["conventional"]
    return lambda images, targets: attribution.attribute(
      (net.model, net.variables), images, method, targets, batch_size=_BATCH
    )

  found = {name: post_hoc(method) for name, method in CONVENTIONAL.items()}
  for name, net in list(networks.items())[1:]:
    found[name] = metrics.attribute_with(net.model, net.variables)
  asked = options.methods.split(",") if options.methods else list(found)
  for name in asked:
    if name not in found:
      raise unknown_name("method", name, found)
  return {name: found[name] for name in asked}


def agreed(tests: Mapping[str, np.ndarray], networks: Mapping[str, bcos_jax.Network]):
  """Returns the agreement with the conventional network by layout and network; see `agreements`."""
  found: dict[str, dict[str, Any]] = {}
  for layout in ("whole", *LAYOUTS):
    images = colors(tests[layout])
    logits = {
      name: metrics.logits_of(net.model, net.variables, images, _BATCH)
      for name, net in networks.items()
    }
    found[layout] = {
      name: agreements(made, logits["conventional"]) for name, made in logits.items()
    }
    if layout != "whole":
      named = np.array(networks["conventional"].labels)
      for name, made in logits.items():
        right = (named[made.argmax(-1)][:, None] == tests[f"{layout} kinds"]).any(-1)
        found[layout][name]["named"] = float(right.mean())  # the text, or one of both
    print(f"agreement, {layout}: {found[layout]}", flush=True)
  return found


def located(tests: Mapping[str, np.ndarray], methods: Mapping[str, Method], labels: tuple):
  """Returns where methods point, by layout, method and window; see `in_boxes`."""
  found: dict[str, dict[str, Any]] = {}
  for layout in LAYOUTS:
    given = boxed(tests, layout, labels)
    found[layout] = {}
    for name, method in methods.items():
      began, maps = time.process_time(), []
      for i in tqdm.tqdm(range(0, len(given.rows), _BATCH), f"{layout}, {name}"):
        part = slice(i, i + _BATCH)
        maps.append(method(colors(given.pages[part]), given.targets[part]))
      whole = np.concatenate(maps)
      found[layout][name] = {str(window): in_boxes(whole, given, window) for window in (0, 15)}
      took = f"{time.process_time() - began:.0f} s of processor time"
      print(f"{layout}, {name}: {found[layout][name]}; {took}", flush=True)
  return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
  """Returns agreement, what lies in boxes, and the largest completeness errors."""
  tests, networks = np.load(options.tests), opened(options)
  methods, labels = methods_of(options, networks), networks["conventional"].labels
  found: dict[str, Any] = {"agreement": agreed(tests, networks), "completeness": {}}
  for name, net in list(networks.items())[1:]:
    ex = bcos_jax.explain(net.model, net.variables, colors(tests["whole"][:24]), batch_size=_BATCH)
    found["completeness"][name] = float(np.max(ex.completeness_error))
    print(f"largest completeness error, {name}: {found['completeness'][name]:.1e}", flush=True)
  return found | {"boxes": located(tests, methods, labels)}


def play(options: argparse.Namespace) -> dict[str, Any]:
  """Returns scores of the grid pointing game, and their standard errors over grids, by method.

  All methods get the same grids: of pages that the conventional network is sure of, for its class.
  """
  tests, networks = np.load(options.tests), opened(options)
  net, whole = networks["conventional"], colors(tests["whole"])
  logits = metrics.logits_of(net.model, net.variables, whole, _BATCH)
  found = {}
  for name, method in methods_of(options, networks).items():
    game = metrics.grid_pointing_game(
      method if name in networks else metrics.for_grids(method),
      logits,
      whole,
      logits.argmax(-1),
      grid=2,
      num_grids=options.grids,
      smooth=15,
      probability="softmax",
      batch_size=2,
    )
    found[name] = error_of(game.scores.mean(axis=1), np.arange(game.num_grids))
    print(f"grid pointing, {name}: {found[name][0]:.3f} ± {found[name][1]:.3f}", flush=True)
  return found


def written(options: argparse.Namespace, run: Callable[[argparse.Namespace], Any]) -> None:
  """Runs a measurement and writes what it returns as JSON."""
  found = run(options)
  options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(f"{time.process_time():.0f} s of processor time, at most {peak:.1f} GiB of memory")


def fit(options: argparse.Namespace) -> None:
  """Fits the B-cosified network to pages without labels and writes it as a bundle."""
  net = bcos_jax.load(options.teacher)
  pages = np.stack([np.asarray(Image.open(path)) for path in sorted(options.pages.glob("*.png"))])
  images = np.repeat(pages[..., None], 3, axis=-1)
  student, start = bcos_jax.bcosify(net.model, net.variables, ops=BcosOps(b=2.0))
  settings = calibration.Calibration(batch_size=16)
  made, report = calibration.calibrate(
    net.model,
    net.variables,
    student,
    start,
    images,
    settings,
    cache=options.closed.with_suffix(".calibration"),
    progress=lambda parts: tqdm.tqdm(parts, unit="maps"),
  )
  print(report)
  told = calibration.record(report, settings, "pictures", len(images))
  provenance = {"source": "bcosification", "calibrated": told}
  bcos_jax.save(
    options.closed,
    student,
    made,
    preprocess=net.preprocess,
    labels=net.labels,
    provenance=provenance,
  )


def crops(path: pathlib.Path, count: int = 1) -> np.ndarray:
  """Returns squares from left to right of a scan, of its full height: uint8 [count, 224, 224]."""
  scan = Image.open(path).convert("L")
  side = min(scan.size)
  lefts = np.linspace(0, scan.width - side, count).round().astype(int)
  areas = [(left, 0, left + side, side) for left in lefts.tolist()]
  return np.stack(
    [np.asarray(scan.resize((224, 224), Image.Resampling.BICUBIC, area)) for area in areas]
  )


def figure(options: argparse.Namespace) -> None:
  """Draws pages with boxes, and a crop of a scan, with the maps of some methods."""
  tests, networks = np.load(options.tests), opened(options)
  net, labels = networks["conventional"], networks["conventional"].labels
  pages, targets, titles, drawn = [], [], [], []
  for layout, chosen in (("alone", (3,)), ("beside things", (8, 9)), ("two kinds", (22, 23))):
    given = boxed(tests, layout, labels)
    for i in chosen:
      pages.append(given.pages[i])
      targets.append(given.targets[i])
      titles.append(labels[given.targets[i]])
      drawn.append((given.own[i], given.other[i]))
  for crop in crops(options.scan) if options.scan else ():
    target = int(metrics.logits_of(net.model, net.variables, colors(crop[None])).argmax())
    pages.append(crop)
    targets.append(target)
    titles.append(f"scan: {labels[target]}")
    drawn.append((np.zeros(crop.shape, bool),) * 2)
  images, classes = colors(np.stack(pages)), np.array(targets)
  maps = {name: method(images, classes) for name, method in methods_of(options, networks).items()}
  shown = np.stack([_outlined(*each) for each in zip(images, drawn, strict=True)])
  exact = [name for name in maps if name in networks]
  render.comparison(shown, maps, titles, options.output, columns=len(maps) + 1, exact=exact)


def _outlined(image: np.ndarray, boxes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
  """Draws the box that is explained in green and the other one in grey."""
  image = image.copy()
  for mask, color in zip(boxes, ((0.0, 0.6, 0.2), (0.5, 0.5, 0.5)), strict=True):
    inner = mask.copy()
    for axis in (0, 1):
      for shift in (-2, 2):
        inner &= np.roll(mask, shift, axis)
    image[mask & ~inner] = color
  return image


def main() -> None:
  """Parses the command line and runs what it names."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(dest="command", required=True)
  fitting = commands.add_parser("fit")
  for name in ("teacher", "pages", "closed"):
    fitting.add_argument(name, type=pathlib.Path)
  fitting.set_defaults(run=fit)
  for name, output in (("measure", "boxes.json"), ("play", "grids.json"), ("figure", "pages.png")):
    command = commands.add_parser(name)
    command.add_argument("teacher", type=pathlib.Path)
    command.add_argument("tests", type=pathlib.Path)
    command.add_argument("--closed", type=pathlib.Path)
    command.add_argument("--matched", type=pathlib.Path)
    command.add_argument("--methods", help="names with commas between; default: all")
    command.add_argument("--output", type=pathlib.Path, default=pathlib.Path(output))
  commands.choices["play"].add_argument("--grids", type=int, default=12)
  commands.choices["figure"].add_argument("--scan", type=pathlib.Path, help="picture of a page")
  commands.choices["measure"].set_defaults(run=functools.partial(written, run=measure))
  commands.choices["play"].set_defaults(run=functools.partial(written, run=play))
  commands.choices["figure"].set_defaults(run=figure)
  options = parser.parse_args()
  options.run(options)


if __name__ == "__main__":
  main()

"""Explanations of a user's pictures with a saved network: figures, a report, top classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib

import numpy as np

from .. import render
from ..errors import InputError, unknown_name
from ..explain.images import explain
from ..io import bundles


def explain_pictures(
  bundle: str | os.PathLike,
  pictures: Sequence[str | os.PathLike],
  *,
  output: str | os.PathLike = "explanations",
  target: str | None = None,
  batch_size: int = 16,
  say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes one figure per picture and a report of all.

  Args:
    bundle: Folder of a saved network.
    pictures: Files of any common kind and size.
    output: Folder for the results.
    target: Class to explain, by label or number; None explains the predicted class.
    batch_size: Pictures at a time.
    say: Function that prints one line of output.

  Returns:
    The figures' paths and, last, the report's.

  Raises:
    InputError: A network or picture that cannot be read, an unknown class, a folder that cannot be
      written.
  """
  output = bundles.check_writable(output)
  network = bundles.load(bundle)
  if not getattr(network.model, "num_classes", 0):
    raise InputError(
      f"{network.config['architecture']} returns features and has no classes to explain.",
      "Pass texts to compare with as --text, or use a network with classes.",
    )
  labels = network.labels or tuple(map(str, range(network.model.num_classes)))
  wanted = None if target is None else _class(target, labels)
  images = np.stack([network.preprocess(picture) for picture in pictures])
  ex = explain(network.model, network.variables, images, wanted, batch_size=batch_size)
  options = render.options_of(network)
  paths, entries = [], []
  for i, picture in enumerate(map(pathlib.Path, pictures)):
    path = output / f"{unique_name(picture.stem, paths)}.png"
    render.figure(ex, i, labels, path, options=options)
    paths.append(path)
    entries.append(render.Entry(ex, i, labels, title=picture.name))
    say(f"{picture.name}")
    shown = render.view(ex, i, labels, options)
    for _, label, probability in shown.classes:
      say(f"  {probability:7.2%}  {label}")
    say(f"  {shown.kind}")
    say(f"  figure: {path}")
  report = output / "report.html"
  render.report(
    report, f"Explanations by {network.config['architecture']}", entries, options=options
  )
  say(f"report: {report}")
  return [*paths, report]


def _class(target: str, labels: Sequence[str]) -> int:
  if target in labels:
    return labels.index(target)
  if not target.isdecimal():
    raise unknown_name("class", target, labels)
  if int(target) >= len(labels):
    raise InputError(
      f"Class {target} does not exist, expected 0 to {len(labels) - 1}.",
      "Give a class of this network, by name or number.",
    )
  return int(target)


def unique_name(stem: str, taken: Sequence[pathlib.Path]) -> str:
  """Returns a stem that no taken path has: the one given, or numbered."""
  used = {path.stem for path in taken}
  candidates = [stem, *(f"{stem}-{i}" for i in range(2, len(taken) + 3))]
  return next(name for name in candidates if name not in used)

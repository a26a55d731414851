"""The catalogue of networks: their layouts, and published accuracies."""

from __future__ import annotations

from collections.abc import Callable
import itertools
import textwrap

from .. import models
from ..convert.tables.keys import tables_of
from ..errors import unknown_name
from ..models.published import BCOSIFIED, ZOO
from ..ops import StandardOps
from ..variables import num_parameters

WIDTH = 80  # columns of a terminal
_ROW = "  {:<38}{:>7}{:>10}{:>12}{:>11}"
_NOTES = """input: pixels per side, or tokens. Accuracies: ImageNet top-1 in %, as published, of \
the B-cos v2 model zoo (arXiv 2306.10898) and of B-cosification (arXiv 2411.00715, tables 1 and 2; \
two numbers: from torchvision's first and second weights)."""


def show(
  pattern: str = "", *, parameters: bool = False, say: Callable[..., object] = print
) -> None:
  """Prints a line per network, below the layouts that it converts from.

  Args:
    pattern: Part of the names to list.
    parameters: Whether to count parameters, which traces every network.
    say: Function that prints one line of output; takes `flush`.

  Raises:
    InputError: No name has this part.
  """
  names = [name for name in models.names() if pattern in name]
  if not names:
    raise unknown_name("architecture", pattern, models.names())
  titles = ("architecture", "input", "B-cos v2", "B-cosified", "parameters" if parameters else "")
  say(_ROW.format(*titles).rstrip())
  for (module, known), group in itertools.groupby(names, key=_group):
    say()
    for line in textwrap.wrap(f"{module}, from {', '.join(known)}", WIDTH):
      say(line)
    for name in group:
      say(_row(name, parameters), flush=True)
  say()
  for line in textwrap.wrap(_NOTES, WIDTH):
    say(line)


def _group(name: str) -> tuple[str, tuple[str, ...]]:
  return models.architecture(name).module.__name__, tuple(layouts(name))


def _row(name: str, parameters: bool) -> str:
  model = models.create(name, ops=StandardOps())
  size = model.input_spec.shape[1:-1] or model.input_spec.shape[1:]
  return _ROW.format(
    name,
    "x".join(map(str, size if len(set(size)) > 1 else size[:1])),
    f"{ZOO[name].top1:.1f}" if name in ZOO else "",
    " / ".join(f"{top1:.1f}" for top1 in BCOSIFIED.get(name, ())),
    f"{num_parameters(model) / 1e6:.3f} M" if parameters else "",
  ).rstrip()


def layouts(name: str) -> list[str]:
  """Returns the layouts of checkpoints that an architecture converts from."""
  model = models.create(name, ops=StandardOps())
  tables = tables_of(models.architecture(name))
  return sorted({keys.layout for keys in tables if keys.fits(model)})

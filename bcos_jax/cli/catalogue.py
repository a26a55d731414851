"""The catalogue of networks: their layouts, and published accuracies."""

from __future__ import annotations

from collections.abc import Callable

from .. import models
from ..convert.tables.keys import tables_of
from ..errors import unknown_name
from ..models.published import BCOSIFIED, ZOO
from ..ops import StandardOps
from ..variables import num_parameters

_ROW = "{:<36}{:>7}{:>12}{:>9}{:>12}  {}"


def show(pattern: str = "", say: Callable[..., object] = print) -> None:
  """Prints a line per network, each as soon as it is known.

  Args:
    pattern: Part of the names to list.
    say: Function that prints one line of output; takes `flush`.

  Raises:
    InputError: No name has this part.
  """
  names = [name for name in models.names() if pattern in name]
  if not names:
    raise unknown_name("architecture", pattern, models.names())
  say(_ROW.format("architecture", "input", "parameters", "B-cos v2", "B-cosified", "converts from"))
  for name in names:
    say(_row(name), flush=True)
  say("input: pixels per side, or tokens; accuracies: ImageNet top-1 in %, as published")


def _row(name: str) -> str:
  model = models.create(name, ops=StandardOps())
  return _ROW.format(
    name,
    model.input_spec.shape[1],
    f"{num_parameters(model) / 1e6:.3f} M",
    f"{ZOO[name].top1:.1f}" if name in ZOO else "",
    " / ".join(f"{top1:.1f}" for top1 in BCOSIFIED.get(name, ())),
    ", ".join(layouts(name)),
  )


def layouts(name: str) -> list[str]:
  """Returns the layouts of checkpoints that an architecture converts from."""
  model = models.create(name, ops=StandardOps())
  tables = tables_of(models.architecture(name))
  return sorted({keys.layout for keys in tables if keys.fits(model)})

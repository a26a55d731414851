"""Explanations of a user's pictures with a saved network: what `bcos-jax explain` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import os
import pathlib

from .. import render
from ..explain import saving
from ..explain.conventions import as_published
from ..network import Network
from .command import bar

_LISTED = 20
"""Pictures whose classes are printed; those of more are in the table."""


def explain_pictures(
  network: Network,
  pictures: Sequence[str | os.PathLike],
  *,
  output: str | os.PathLike = "explanations",
  target: str | None = None,
  batch_size: int = 16,
  frame: int = 0,
  published: bool = False,
  say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes figures, arrays, tables and a report of pictures; see `saving.SavedPictures`.

  Args:
    network: The network.
    pictures: Files of any common kind and size, folders, patterns and lists.
    output: Folder for the results.
    target: Class to explain, by label or number; None explains the predicted class.
    batch_size: Pictures at a time.
    frame: Of animated pictures and files of several pages.
    published: Whether contributions are those of the authors' code, see `as_published`.
    say: Function that prints one line of output.

  Returns:
    The files, the report last.

  Raises:
    InputError: A picture that cannot be read, an unknown class, a folder that cannot be written.
  """
  found = network.pictures(pictures)
  listed = len(found) <= _LISTED
  batches = network.explanations(
    pictures,
    target,
    batch_size=batch_size,
    frame=frame,
    progress=bar("explaining", shown=not listed),
  )
  names = [picture.name for picture in found]
  with saving.SavedPictures(output, names, network=network.name) as saved:
    for ex in batches:
      if published:
        ex = as_published(ex, network.model.ops.encoding)
      figures = saved.add(ex)
      for index, figure in enumerate(figures if listed else ()):
        say(pathlib.PurePath(ex.names[index]).name)
        say(f"  {ex.readings[index]}")
        shown = render.view(ex, index, ex.labels, ex.options)
        for _, label, probability in shown.classes:
          say(f"  {probability:7.2%}  {label}")
        say(f"  {shown.kind}")
        say(f"  figure: {figure}")
  *_, numbers, table, report = saved.paths
  if not listed:
    say(f"{len(names)} pictures are explained in {str(saved.folder)!r}")
  say(f"arrays: beside the figures, NAME.npz; numbers: {numbers}, {table}")
  say(f"report: {report}")
  return saved.paths


def prepared(
  network: Network, pictures: Sequence[str | os.PathLike], output: str | os.PathLike
) -> tuple[pathlib.Path, list[str], list[str]]:
  """Returns a folder for figures, the pictures' files, and a name for the figure of each.

  Raises:
    InputError: Pictures that are not there, or a folder where one of them would be overwritten.
  """
  names = [picture.name for picture in network.pictures(pictures)]
  stems = saving.stems(names)
  written = ["report.html", *(f"{stem}.png" for stem in stems)]
  return saving.checked_output(output, names, written), names, stems

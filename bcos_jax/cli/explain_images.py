"""Explanations of a user's pictures with a saved network: what `bcos-jax explain` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import hashlib
import os
import pathlib
from typing import Any

import jax
import numpy as np

from .. import __version__, render
from ..explain import saving
from ..explain.conventions import as_published
from ..explain.images import Explanation
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
  kinds: Sequence[str] = saving.DEFAULT_KINDS,
  say: Callable[[str], None] = print,
) -> list[pathlib.Path]:
  """Writes figures, arrays, tables and a report of pictures; see `saving.SavedPictures`.

  What the same call has written before is not made again, as long as it is intact and its picture
  is the same.

  Args:
    network: The network.
    pictures: Files of any common kind and size, folders, patterns and lists.
    output: Folder for the results.
    target: Class to explain, by label or number; None explains the predicted class.
    batch_size: Pictures at a time.
    frame: Of animated pictures and files of several pages.
    published: Whether contributions are those of the authors' code, see `as_published`.
    kinds: What is written of each picture, of `saving.KINDS`.
    say: Function that prints one line of output.

  Returns:
    The files, the report last.

  Raises:
    InputError: A picture that cannot be read, an unknown class, a folder that cannot be written.
  """
  found = network.pictures(pictures)
  listed = len(found) <= _LISTED
  explained = functools.partial(
    network.explanations,
    target=target,
    batch_size=batch_size,
    frame=frame,
    progress=bar("explaining", shown=not listed),
  )
  batches = explained(pictures)  # every argument is checked before anything is written
  names = [picture.name for picture in found]
  settings = _settings(network, target=target, frame=frame, published=published)
  with saving.SavedPictures(
    output, names, network=network.name, kinds=kinds, settings=settings
  ) as saved:
    if kept := len(found) - len(saved.left):
      say(f"{kept} of {len(found)} pictures were explained before, and are kept")
      batches = explained([names[i] for i in saved.left]) if saved.left else ()
    for ex in batches:
      if published:
        ex = as_published(ex, network.model.ops.encoding)
      figures = saved.add(ex)
      if listed:
        _say_what(ex, figures, say)
  _say_where(saved, len(found), listed, say)
  return saved.paths


def _say_what(ex: Explanation, figures: list[pathlib.Path], say: Callable[[str], None]) -> None:
  for index in range(len(ex)):
    known = render.facts(ex, index, ex.labels, ex.options)
    say(pathlib.PurePath(ex.names[index]).name)
    say(f"  {ex.readings[index]}")
    for _, label, probability in known.classes:
      say(f"  {probability:7.2%}  {label}")
    say(f"  {known.kind}")
    for figure in figures[index : index + 1]:
      say(f"  figure: {figure}")


def _say_where(
  saved: saving.SavedPictures, count: int, listed: bool, say: Callable[[str], None]
) -> None:
  *_, numbers, table, report = saved.paths
  if not listed:
    say(f"{count} pictures are explained in {str(saved.folder)!r}")
  if saved.kinds:
    places = (f"{kind} {saving.place(kind, 'NAME')}" for kind in saved.kinds)
    say(f"of each picture: {', '.join(places)}")
  say(f"numbers: {numbers}, {table}")
  say(f"report: {report}")


def _settings(network: Network, **options: Any) -> dict[str, Any]:
  """Returns what explanations depend on beside the pictures: options, network, this package."""
  found = hashlib.sha256(repr((network.model, network.preprocess, network.labels)).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(network.variables):
    array = np.asarray(leaf)
    found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    found.update(array.tobytes())
  return {**options, "by": found.hexdigest(), "bcos_jax": __version__}


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

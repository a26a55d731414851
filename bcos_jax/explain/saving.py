"""Explanations in files: figures, arrays, tables and a report, which open without this package.

Pictures come in batches, so that any number of them fits into memory:

    with saving.SavedPictures("explanations", names, network="resnet50") as saved:
      for ex in batches:
        saved.add(ex)

writes for each picture `NAME.png`, a figure, and `NAME.npz`, its arrays; for all `report.html`,
`explanations.json` and `explanations.csv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import csv
import io
import json
import os
import pathlib
from typing import Any

import numpy as np

from .. import render
from ..errors import InputError
from ..io import bundles, files
from ..io.pictures import RESULTS
from ..text.influential_words import words_by_class
from . import display

MOST_IN_REPORT = 100
"""Explanations in a report; those of further pictures have figures of their own."""
_TABLE, _REPORT = "explanations.csv", "report.html"
_LINES, _ARRAYS = "explanations.jsonl", "explanations.npz"
WRITTEN = (RESULTS, _TABLE, _REPORT, _LINES, _ARRAYS)
"""Files of explanations of several pictures or texts; those of pictures have others beside them."""


class SavedPictures:
  """A folder of explanations that is being written.

  Attributes:
    paths: What was written so far.
  """

  def __init__(
    self, folder: str | os.PathLike, names: Sequence[str] | int, *, network: str = "the network"
  ):
    """Proves that the folder can be written, before any work.

    Args:
      folder: Where to; made if it is not there.
      names: Of all pictures, in the order in which they are added, or their number.
      network: Name of the network in the report.

    Raises:
      InputError: It cannot, it is a bundle, or a file would replace one of the pictures.
    """
    count = names if isinstance(names, int) else len(names)
    given = [f"picture-{i + 1}" for i in range(count)] if isinstance(names, int) else list(names)
    self._names, self._network = given, network
    self._stems = stems(given)
    self.folder = checked_output(folder, given, self._written())
    self.paths: list[pathlib.Path] = []
    self._done, self._rows = 0, []
    self._entries: list[render.Entry] = []
    self._options: render.Options | None = None

  def _written(self) -> Iterable[str]:
    yield from (RESULTS, _TABLE, _REPORT)
    for stem in self._stems:
      yield from (f"{stem}.png", f"{stem}.npz")

  def __enter__(self) -> SavedPictures:
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    if kind is None:
      self._finish()

  def add(self, ex: Any) -> list[pathlib.Path]:
    """Writes figures and arrays of an `Explanation`, and returns the figures' paths."""
    figures = []
    classes = getattr(ex.logits, "ndim", 0) == 2
    for index in range(len(ex)):
      stem = self._stems[self._done]
      figure = self.folder / f"{stem}.png"
      if classes:
        render.figure(ex, index, ex.labels, figure, options=ex.options)
        figures.append(figure)
        if len(self._entries) < MOST_IN_REPORT:
          reading = ex.readings[index] if ex.readings else ""
          title = pathlib.PurePath(self._names[self._done]).name
          self._entries.append(render.Entry(ex, index, ex.labels, title=title, note=reading))
      arrays = self.folder / f"{stem}.npz"
      files.write(arrays, _arrays(ex, index))
      self.paths += [*figures[-1:], arrays] if classes else [arrays]
      self._rows += _picture_rows(
        ex, index, self._names[self._done], figure.name if classes else ""
      )
      self._done += 1
    self._options = ex.options
    return figures

  def _finish(self) -> None:
    written = {"network": self._network, "explanations": self._rows}
    files.write(self.folder / RESULTS, (json.dumps(written, indent=1) + "\n").encode())
    flat = [{k: v for k, v in row.items() if k not in ("residuals", "top")} for row in self._rows]
    files.write(self.folder / _TABLE, table(flat))
    self.paths += [self.folder / RESULTS, self.folder / _TABLE]
    if not self._entries:
      return
    left = self._done - len(self._entries)
    intro = f"The first {len(self._entries)} of {self._done} pictures; " if left else ""
    intro += f"numbers of all pictures are in {_TABLE} and {RESULTS}, arrays beside the figures."
    render.report(
      self.folder / _REPORT,
      f"Explanations by {self._network}",
      self._entries,
      intro=intro[0].upper() + intro[1:],
      options=self._options,
    )
    self.paths.append(self.folder / _REPORT)


def checked_output(
  folder: str | os.PathLike, inputs: Iterable[str | os.PathLike], written: Iterable[str]
) -> pathlib.Path:
  """Returns a folder that can be written, none of whose new files replaces an input.

  Raises:
    InputError: It cannot, or one would; or the folder is a bundle, or in one.
  """
  folder = pathlib.Path(folder)
  if any(map(bundles.has_bundle_config, (folder, folder.absolute().parent))):
    raise InputError(
      f"The output {str(folder)!r} is a bundle, or in one.", "Choose another folder."
    )
  new = {os.path.normcase((folder / name).resolve()) for name in written}
  for path in inputs:
    if os.path.normcase(pathlib.Path(path).resolve()) in new:
      raise InputError(
        f"The output {str(folder)!r} would overwrite the input {str(path)!r}.",
        "Choose another folder, such as explanations.",
      )
  return bundles.check_writable(folder)


def stems(names: Sequence[str]) -> list[str]:
  """Returns a file name without suffix for each picture, numbered where two are alike."""
  taken: set[str] = {pathlib.PurePath(_REPORT).stem, pathlib.PurePath(RESULTS).stem}
  found, counts = [], {}
  for name in names:
    stem = pathlib.PurePath(name).stem[:100] or "picture"
    candidate = stem
    while candidate.lower() in taken:
      counts[stem] = counts.get(stem, 1) + 1
      candidate = f"{stem}-{counts[stem]}"
    taken.add(candidate.lower())
    found.append(candidate)
  return found


def _arrays(ex: Any, index: int) -> bytes:
  kept = ("images", "value", "contributions", "weights", "inputs", "residual")
  arrays = {name: np.asarray(getattr(ex, name)[index]) for name in kept}
  arrays |= {f"residuals/{name}": np.asarray(part[index]) for name, part in ex.residuals.items()}
  if ex.target is not None:
    arrays["target"] = np.asarray(ex.target[index])
  if hasattr(ex.logits, "shape"):
    arrays["logits"] = np.asarray(ex.logits[index])
  return archive(arrays)


def archive(arrays: dict[str, np.ndarray]) -> bytes:
  """Returns the content of an NPZ file."""
  buffer = io.BytesIO()
  # NumPy's stub fears that an array could be named after its one option.
  np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
  return buffer.getvalue()


def _picture_rows(ex: Any, index: int, name: str, figure: str) -> list[dict[str, Any]]:
  """Returns what is known of a picture, once for each target."""
  rows = []
  classes = getattr(ex.logits, "ndim", 0) == 2
  for where in np.ndindex(np.shape(ex.value)[1:]):
    place = (index, *where)
    target = None if ex.target is None else int(np.asarray(ex.target)[place])
    row = {
      "picture": name,
      "figure": figure,
      "reading": ex.readings[index] if ex.readings else "",
      "target": target,
      "label": ex.labels[target] if ex.labels and target is not None else "",
      "value": float(ex.value[place]),
      "probability": None,
      "kind": "",
      "contributions": float(np.sum(ex.contributions[place], dtype=np.float64)),
      "completeness_error": float(ex.completeness_error[place]),
      "residuals": {source: float(part[place]) for source, part in ex.residuals.items()},
    }
    if classes:
      shown = render.view(ex, place, ex.labels, ex.options)
      row |= {"probability": shown.probability, "kind": shown.kind}
      row["top"] = [[number, label, share] for number, label, share in shown.classes]
    rows.append(row)
  return rows


def table(rows: Sequence[dict[str, Any]]) -> bytes:
  """Returns rows of plain values as a CSV file, its heading first."""
  buffer = io.StringIO(newline="")
  writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return buffer.getvalue().encode("utf-8", "surrogateescape")


def texts(
  ex: Any, folder: str | os.PathLike, *, own_scales: bool = False, **fields: Any
) -> list[pathlib.Path]:
  """Writes a `TextExplanation`: report.html, explanations.jsonl, .csv (words) and .npz.

  Args:
    ex: The explanation.
    folder: Where to.
    own_scales: Whether each text has its own scale of colours, instead of one for all.
    **fields: Of each line of JSON, for all texts alike, such as the foil.

  Returns:
    The files, in this order.

  Raises:
    InputError: The folder cannot be written, or the explanation does not know the texts.
  """
  folder = checked_output(folder, (), ())
  several = np.ndim(ex.value) == 2
  words = [ex.words(i, 0 if several else None) for i in range(len(ex))]
  heats = [display.heat(ex, i) for i in range(len(ex))]
  explained = ex.explained or ("the output",) * len(ex)
  influential = words_by_class(words, explained) if len(ex) > 1 else None
  what = "a text" if len(ex) == 1 else f"{len(ex)} texts"
  paths = [folder / name for name in (_REPORT, _LINES, _TABLE, _ARRAYS)]
  title = f"Explanation of {what}"
  render.text_report(paths[0], title, heats, influential=influential, own_scales=own_scales)
  lines = [json.dumps({**_numbers(ex, i, words[i]), **fields}) for i in range(len(ex))]
  files.write(paths[1], ("\n".join(lines) + "\n").encode())
  rows = [
    {"text": i, "word": word.text, "contribution": word.contribution, "explained": explained[i]}
    for i, of_text in enumerate(words)
    for word in of_text
  ]
  files.write(paths[2], table(rows))
  arrays = {name: getattr(ex, name) for name in ("ids", "mask", "logits", "value", "contributions")}
  arrays |= {f"residuals/{name}": part for name, part in ex.residuals.items()}
  if ex.target is not None:
    arrays["target"] = ex.target
  files.write(paths[3], archive({name: np.asarray(array) for name, array in arrays.items()}))
  return paths


def _numbers(ex: Any, index: int, words: Sequence[Any]) -> dict[str, Any]:
  count, pick = int(ex.mask[index].sum()), (index, 0) if np.ndim(ex.value) == 2 else (index,)
  target = None if ex.target is None else int(np.asarray(ex.target)[pick])
  name = ex.labels[target] if ex.labels and target is not None else ""
  return {
    "text": ex.text_batch.texts[index],
    "target": target,
    "target_name": name or (ex.explained[index] if ex.explained else ""),
    "value": float(np.asarray(ex.value)[pick]),
    "residuals": {source: float(np.asarray(v)[pick]) for source, v in ex.residuals.items()},
    "parts": {part: float(np.asarray(v)[pick].sum()) for part, v in ex.parts.items()},
    "tokens": list(ex.text_batch.tokens[index]),
    "contributions": [float(c) for c in np.asarray(ex.contributions)[pick][:count]],
    "words": [[word.text, word.span, word.contribution] for word in words],
    "dropped_tokens": int(ex.text_batch.dropped[index]),
  }

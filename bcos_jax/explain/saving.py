"""Explanations in files: figures, arrays, tables and a report, which open without this package.

Pictures come in batches, so that any number of them fits into memory:

    with saving.SavedPictures("explanations", names, network="resnet50") as saved:
      for ex in batches:
        saved.add(ex)

writes for each picture `NAME.png`, a figure, and `NAME.npz`, its arrays; for all `report.html`,
`explanations.json` and `explanations.csv`. Threads write while the next batch is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import csv
import io
import itertools
import json
import os
import pathlib
import threading
from typing import Any, BinaryIO
import zipfile

import numpy as np

from .. import render
from ..batches import THREADS, ahead
from ..errors import InputError, unknown_name
from ..io import bundles, files
from ..io.pictures import JOURNAL, RESULTS
from ..render import canvas
from .journal import Journal, Line, checksum, digest, intact

MOST_IN_REPORT = 100
"""Explanations in a report; those of further pictures have figures of their own."""
TABLE, REPORT = "explanations.csv", "report.html"
LINES, ARRAYS = "explanations.jsonl", "explanations.npz"
WRITTEN = (RESULTS, TABLE, REPORT, LINES, ARRAYS, JOURNAL)
"""Files of explanations of several pictures or texts; those of pictures have others beside them."""
_DRAWING = threading.Lock()  # Matplotlib's style is one for the process

KINDS = ("figure", "arrays", "map", "picture")
"""What can be written of each picture: a figure with all that is known; all arrays (NPZ); the
contributions alone (NPY); what the network sees in it, in the network's resolution (PNG)."""
DEFAULT_KINDS = ("figure", "arrays")
_PLACES = {"figure": "{}.png", "arrays": "{}.npz", "map": "maps/{}.npy", "picture": "seen/{}.png"}


def place(kind: str, stem: str) -> str:
  """Returns where a kind of file of a picture lies in the folder of its explanation."""
  return _PLACES[kind].format(stem)


class SavedPictures:
  """A folder of explanations that is being written.

  Attributes:
    kinds: What is written of each picture.
    left: Numbers of the pictures whose explanations are to be added, in this order.
    paths: What was written so far, for each picture in order; at last, what is for all.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    names: Sequence[str] | int,
    *,
    network: str = "the network",
    kinds: Sequence[str] = DEFAULT_KINDS,
    settings: Mapping[str, Any] | None = None,
  ):
    """Proves that the folder can be written, before any work.

    Args:
      folder: Where to; made if it is not there.
      names: Of all pictures, in the order in which they are added, or their number.
      network: Name of the network in the report.
      kinds: What is written of each picture, of `KINDS`.
      settings: What the explanations depend on beside the pictures, to go on with a job of the
        same settings: pictures are files, and those that have not changed since, and whose
        explanations are intact, are not `left`. None to write everything.

    Raises:
      InputError: It cannot, it is a bundle, or a file would replace one of the pictures; or an
        unknown kind.
    """
    for kind in kinds:
      if kind not in KINDS:
        raise unknown_name("kind of file", kind, KINDS)
    count = names if isinstance(names, int) else len(names)
    given = [f"picture-{i + 1}" for i in range(count)] if isinstance(names, int) else list(names)
    self._names, self._network, self.kinds = given, network, kinds
    self._stems = stems(given)
    self.folder = checked_output(folder, given, self._written(settings is not None))
    for kind in kinds:
      (self.folder / place(kind, "")).parent.mkdir(exist_ok=True)
    self._of_files = settings is not None
    self._journal = Journal.temporary()
    if settings is not None:
      about = {"network": network, "kinds": list(kinds), **settings}
      self._journal = Journal.opened(self.folder / JOURNAL, about)
    kept = ahead(self._kept, range(count), depth=4 * THREADS)
    self.left = [i for i, known in enumerate(kept) if not known]
    self._next = iter(self.left)
    self._threads = ThreadPoolExecutor(THREADS)
    self._pending: deque[Future[Line]] = deque()
    self.paths: list[pathlib.Path] = []

  def _written(self, journal: bool) -> Iterable[str]:
    yield from (RESULTS, TABLE, REPORT, *([JOURNAL] if journal else []))
    for stem in self._stems:
      yield from (place(kind, stem) for kind in self.kinds)

  def _kept(self, number: int) -> bool:
    """Whether a picture was explained before, and neither it nor what was written has changed."""
    line = self._journal.get(self._stems[number])
    if line is None or line["picture"] != self._names[number]:
      return False
    return line["sha256"] == digest(line["picture"]) and intact(self.folder, line["files"])

  def __enter__(self) -> SavedPictures:
    return self

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    try:
      if kind is None:
        self._collect(0)
        self._finish()
    finally:
      self._threads.shutdown(cancel_futures=True)
      for one in self._pending:  # of a job that was interrupted
        if not one.cancelled() and one.exception() is None:
          self._journal.add(one.result())
      self._journal.close()

  def add(self, ex: Any) -> list[pathlib.Path]:
    """Lets threads write an `Explanation`; returns where its figures will be.

    Waits for files of former explanations, so that not more than two batches are in memory.
    """
    figures = []
    for index, number in zip(range(len(ex)), self._next, strict=False):
      self._pending.append(self._threads.submit(self._write, ex, index, number))
      if "figure" in self.kinds and _has_classes(ex):
        figures.append(self.folder / place("figure", self._stems[number]))
    self._collect(len(ex))
    return figures

  def _collect(self, most: int) -> None:
    """Waits until no more than so many pictures are being written."""
    while len(self._pending) > most:
      self._journal.add(self._pending.popleft().result())

  def _write(self, ex: Any, index: int, number: int) -> Line:
    """Writes the files of a picture, and returns its line of the journal."""
    name, stem, written = self._names[number], self._stems[number], {}
    for kind in self.kinds:
      content = _CONTENTS[kind](ex, index)
      if content is not None:
        files.write(self.folder / place(kind, stem), content)
        written[place(kind, stem)] = checksum(content)
    figure = place("figure", stem)
    line: Line = {"stem": stem, "picture": name, "files": written}
    line["sha256"] = digest(name) if self._of_files else ""
    line["rows"] = _picture_rows(ex, index, name, figure if figure in written else "")
    if number < MOST_IN_REPORT and _has_classes(ex):
      reading = ex.readings[index] if ex.readings else ""
      title = pathlib.PurePath(name).name
      entry = render.Entry(ex, index, ex.labels, title=title, note=reading)
      line["article"] = render.article(entry, ex.options)
    return line

  def _lines(self) -> Iterator[Line]:
    for stem in self._stems:
      line = self._journal.get(stem)
      if line is not None:
        yield line

  def _finish(self) -> None:
    rows = (row for line in self._lines() for row in line["rows"])
    with files.writing(self.folder / RESULTS) as file:
      file.write(f'{{\n "network": {json.dumps(self._network)},\n "explanations": ['.encode())
      for before, row in zip(itertools.chain(["\n"], itertools.repeat(",\n")), rows, strict=False):
        file.write(f"{before}  {json.dumps(row)}".encode())
      file.write(b"\n ]\n}\n")
    flat = (
      {k: v for k, v in row.items() if k not in ("residuals", "top")}
      for line in self._lines()
      for row in line["rows"]
    )
    with files.writing(self.folder / TABLE) as file:
      write_table(file, flat)
    for line in self._lines():
      self.paths += [self.folder / name for name in line["files"]]
    self.paths += [self.folder / RESULTS, self.folder / TABLE]
    articles = [line["article"] for line in self._lines() if "article" in line]
    if not articles:
      return
    count = len(self._stems)
    intro = f"The first {len(articles)} of {count} pictures; " if count > len(articles) else ""
    intro += f"numbers of all pictures are in {TABLE} and {RESULTS}"
    intro += ", arrays beside the figures." if "arrays" in self.kinds else "."
    title = f"Explanations by {self._network}"
    intro = intro[0].upper() + intro[1:]
    render.report(self.folder / REPORT, title, articles, intro=intro)
    self.paths.append(self.folder / REPORT)


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
  taken: set[str] = {pathlib.PurePath(REPORT).stem, pathlib.PurePath(RESULTS).stem}
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


def _has_classes(ex: Any) -> bool:
  return getattr(ex.logits, "ndim", 0) == 2


def _figure(ex: Any, index: int) -> bytes | None:
  if not _has_classes(ex):
    return None
  with _DRAWING:
    return canvas.encoded(render.figure(ex, index, ex.labels, options=ex.options))


def _arrays(ex: Any, index: int) -> bytes:
  kept = ("images", "value", "contributions", "weights", "inputs", "residual")
  arrays = {name: np.asarray(getattr(ex, name)[index]) for name in kept}
  arrays |= {f"residuals/{name}": np.asarray(part[index]) for name, part in ex.residuals.items()}
  if ex.target is not None:
    arrays["target"] = np.asarray(ex.target[index])
  if hasattr(ex.logits, "shape"):
    arrays["logits"] = np.asarray(ex.logits[index])
  return archive(arrays)


def _map(ex: Any, index: int) -> bytes:
  buffer = io.BytesIO()
  np.save(buffer, np.asarray(ex.contributions[index], np.float32))
  return buffer.getvalue()


def _picture(ex: Any, index: int) -> bytes | None:
  known = render.facts(ex, index, ex.labels, ex.options)
  where = (index,) + (0,) * (np.ndim(ex.value) - 1)
  seen = render.seen(ex, where, known.account, ex.options or render.Options())
  if seen is None:
    return None
  from PIL import Image

  buffer = io.BytesIO()
  # Weights are no photograph: stronger compression takes long and saves little.
  Image.fromarray(np.uint8(255 * seen + 0.5)).save(buffer, "PNG", compress_level=1)
  return buffer.getvalue()


_CONTENTS: dict[str, Callable[[Any, int], bytes | None]] = {
  "figure": _figure,
  "arrays": _arrays,
  "map": _map,
  "picture": _picture,
}


def archive(arrays: dict[str, np.ndarray]) -> bytes:
  """Returns the content of an NPZ file, compressed lightly: more takes long and saves little."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
    for name, array in arrays.items():
      with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
  return buffer.getvalue()


def _picture_rows(ex: Any, index: int, name: str, figure: str) -> list[dict[str, Any]]:
  """Returns what is known of a picture, once for each target."""
  rows = []
  classes = getattr(ex.logits, "ndim", 0) == 2
  for one in np.ndindex(np.shape(ex.value)[1:]):
    where = (index, *one)
    target = None if ex.target is None else int(np.asarray(ex.target)[where])
    row = {
      "picture": name,
      "figure": figure,
      "reading": ex.readings[index] if ex.readings else "",
      "target": target,
      "label": ex.labels[target] if ex.labels and target is not None else "",
      "value": float(ex.value[where]),
      "probability": None,
      "kind": "",
      "contributions": float(np.sum(ex.contributions[where], dtype=np.float64)),
      "completeness_error": float(ex.completeness_error[where]),
      "residuals": {source: float(part[where]) for source, part in ex.residuals.items()},
    }
    if classes:
      shown = render.facts(ex, where, ex.labels, ex.options)
      row |= {"probability": shown.probability, "kind": shown.kind}
      row["top"] = [[number, label, share] for number, label, share in shown.classes]
    rows.append(row)
  return rows


def table(rows: Iterable[dict[str, Any]]) -> bytes:
  """Returns rows of plain values as a CSV file, its heading first."""
  buffer = io.BytesIO()
  write_table(buffer, rows)
  return buffer.getvalue()


def write_table(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
  """Writes what `table` returns into a file, row by row."""
  rows = iter(rows)
  first = next(rows, {})
  text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
  writer = csv.DictWriter(text, list(first), lineterminator="\n")
  writer.writeheader()
  writer.writerows(itertools.chain([first] if first else [], rows))
  text.detach()  # the file is closed by whoever opened it

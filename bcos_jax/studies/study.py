"""The result of a study, and the files that hold it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from .. import render
from ..io import files
from ..render import canvas
from .tables import Table

if TYPE_CHECKING:
  from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
  """The result of a study.

  Attributes:
    title: Of table and report.
    question: The question and the method, in plain sentences.
    table: The measurements.
    answer: The answer, in sentences whose numbers come from the table.
    plots: File name (without suffix) to (caption, figure).
    more: Further tables: file name (without suffix) to (caption, table).
  """

  title: str
  question: str
  table: Table
  answer: tuple[str, ...]
  plots: Mapping[str, tuple[str, Figure]]
  more: Mapping[str, tuple[str, Table]] = dataclasses.field(default_factory=dict)

  def write(self, folder: pathlib.Path, command: str, seconds: float) -> None:
    """Writes study.md, table.csv, a PNG per plot, and report.html, which needs none of them.

    Further tables are in study.md, and in CSV files of their own.

    Args:
      folder: Where to; made if needed.
      command: What produced the findings.
      seconds: How long it took.
    """
    made = f"Made by `{command}` in {_duration(seconds)} on {_machine()}."
    pictures = [f"![{caption}]({name}.png)\n" for name, (caption, _) in self.plots.items()]
    parts = [f"# {self.title}\n", f"{self.question}\n", self.table.markdown()]
    for caption, table in self.more.values():
      parts += [f"{caption}\n", table.markdown()]
    parts += ["\n".join(f"- {line}" for line in self.answer) + "\n", *pictures, f"{made}\n"]
    for name, (_, figure) in self.plots.items():
      canvas.save(figure, folder / f"{name}.png")
    for name, table in {"table": self.table, **{k: t for k, (_, t) in self.more.items()}}.items():
      files.write(files.check_folder(folder / f"{name}.csv"), table.csv().encode())
    files.write(files.check_folder(folder / "study.md"), "\n".join(parts).encode())
    render.report(
      folder / "report.html",
      self.title,
      [],
      intro="\n\n".join([self.question, *self.answer, made.replace("`", "")]),
      summary=self.table.cells(),
      plots=dict(self.plots.values()),
    )


def _duration(seconds: float) -> str:
  return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _machine() -> str:
  import os

  import jax

  devices = jax.devices()
  if devices[0].platform == "cpu":
    return f"{os.cpu_count()} CPU cores"
  return f"{len(devices)} x {devices[0].device_kind}"

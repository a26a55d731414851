"""Tables of measurements: all columns in CSV, a readable selection in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import math

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of measurements.

  Attributes:
    columns: Heading to how its numbers are written for reading, a format such as ".1%".
    rows: One cell per column; None where there is nothing to measure.
  """

  columns: Mapping[str, str]
  rows: Sequence[Sequence[Cell]]

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(f"The row {row} has not the {len(self.columns)} cells of the header.")

  def cells(self) -> list[list[str]]:
    """Returns header and rows as text for reading."""
    forms = self.columns.values()
    body = [
      [_written(cell, form) for cell, form in zip(row, forms, strict=True)] for row in self.rows
    ]
    return [list(self.columns), *body]

  def markdown(self) -> str:
    """Returns a table in Markdown."""
    header, *body = ([cell.replace("|", "\\|") for cell in line] for line in self.cells())
    numeric = [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(header))]
    rule = ["--:" if right else "---" for right in numeric]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *body)) + "\n"

  def csv(self) -> str:
    """Returns every number in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(self.columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
    return text.getvalue()


def _written(cell: Cell, form: str) -> str:
  if cell is None or (isinstance(cell, float) and math.isnan(cell)):
    return "–"
  return cell if isinstance(cell, str) else format(cell, form)

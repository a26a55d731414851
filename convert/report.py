"""The table of a conversion: what happens to each key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .plan import ConversionPlan, Row

_COLUMNS = ("source", "target", "tensors", "shape", "parameters", "bytes")
_NUMBERS = (2, 4, 5)


def lines(plan: ConversionPlan, *, every_key: bool = False) -> Iterator[str]:
  """Yields the table of a conversion, line by line.

  Args:
    plan: The conversion.
    every_key: One line per tensor; otherwise tensors of one rule share a line.
  """
  groups: dict[tuple, list[Row]] = {}
  for row in plan.rows:
    key = (row.sources, row.targets) if every_key else (row.template, row.skipped)
    groups.setdefault(key, []).append(row)
  kept = [rows for rows in groups.values() if not rows[0].skipped]
  skipped = [rows for rows in groups.values() if rows[0].skipped]
  yield from _aligned([_COLUMNS, *(_cells(rows, every_key) for rows in kept)])
  if skipped:
    yield ""
    cells = [(_name(rows, every_key), str(len(rows)), rows[0].skipped) for rows in skipped]
    yield from _aligned([("skipped", "tensors", "reason"), *cells], numbers=(1,))
  yield ""
  for note in plan.notes:
    yield f"note: {note}"
  yield _summary(plan)


def _cells(rows: list[Row], every_key: bool) -> tuple[str, ...]:
  targets = " + ".join(rows[0].targets) if every_key else rows[0].template[1]
  shapes = list(dict.fromkeys(shape for row in rows for shape in row.shapes))
  shape = "x".join(map(str, shapes[0])) or "scalar"
  return (
    _name(rows, every_key),
    targets,
    str(sum(len(row.sources) for row in rows)),
    shape + (f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""),
    f"{sum(row.parameters for row in rows):,}",
    f"{sum(row.nbytes for row in rows):,}",
  )


def _name(rows: list[Row], every_key: bool) -> str:
  return " + ".join(rows[0].sources) if every_key else rows[0].template[0]


def _summary(plan: ConversionPlan) -> str:
  filled = [row for row in plan.rows if not row.skipped]
  used = sum(len(row.sources) for row in filled)
  left = sum(len(row.sources) for row in plan.rows) - used
  parts = [
    f"{used + left} keys of {plan.checkpoint.origin}: {used} used, {left} skipped, 0 unexplained",
    f"{sum(row.parameters for row in filled):,} parameters and statistics",
    f"{sum(row.nbytes for row in filled) / 1e6:,.1f} MB",
  ]
  if plan.new_head:
    parts.append(f"a new head of {plan.model.num_classes} classes")
  return "; ".join(parts)


def _aligned(rows: list[Sequence[str]], numbers: Sequence[int] = _NUMBERS) -> Iterator[str]:
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  for row in rows:
    cells = [
      cell.rjust(width) if i in numbers else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    yield "  ".join(cells).rstrip()

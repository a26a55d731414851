"""What a calibration did to each map, as values and as a table."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fitted:
  """One map. Fits are R² of the (gated) values behind it, in held-out pictures or texts.

  Attributes:
    path: The map.
    inputs: Channels that a response sees.
    outputs: Channels of the result, of all groups.
    rows: Places it was fitted at.
    gate: Kind of the gate behind it; '' for none.
    before: The fit of the kernel that B-cosification copied.
    fit: The fit in the end.
    ridge: Strength of the ridge, relative to the mean square of an input channel.
    condition: Condition of the regularised system, estimated from its factor.
    kept: Whether the kernel stayed as it was, the new one being worse.
  """

  path: str
  inputs: int
  outputs: int
  rows: int
  gate: str
  before: float
  fit: float
  ridge: float
  condition: float
  kept: bool


@dataclasses.dataclass(frozen=True)
class Report:
  """A calibration.

  Attributes:
    maps: In the order in which they were fitted.
    left: Paths of maps that have no counterpart in the teacher's network and stayed as they were.
  """

  maps: tuple[Fitted, ...]
  left: tuple[str, ...] = ()

  def __str__(self) -> str:
    width = max((len(m.path) for m in self.maps), default=4)
    lines = [f"{'map':{width}}  inputs  outputs   before      fit    ridge  condition"]
    for m in self.maps:
      lines.append(
        f"{m.path:{width}}  {m.inputs:6d}  {m.outputs:7d}  {max(m.before, -9.99):7.2f}  {m.fit:7.3f}"
        f"  {m.ridge:7.0e}  {m.condition:9.1e}{'  kept' if m.kept else ''}"
      )
    return "\n".join(lines)

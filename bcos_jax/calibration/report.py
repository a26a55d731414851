"""What a calibration did to each map, as values and as a table."""

from __future__ import annotations

import dataclasses
from typing import Any

LOW_AGREEMENT = 0.5
"""Agreement with the teacher below which a warning is given."""


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
    kept: Whether the kernel stayed as it was, the new one being no better, or for a problem.
    problem: Why nothing could be fitted; '' if something could. All figures are then 0.
  """

  path: str
  inputs: int
  outputs: int
  rows: int
  gate: str
  before: float = 0.0
  fit: float = 0.0
  ridge: float = 0.0
  condition: float = 0.0
  kept: bool = False
  problem: str = ""


@dataclasses.dataclass(frozen=True)
class Refined:
  """A block. Errors are weighed, relative to those before the second sweep, on held-out inputs.

  Attributes:
    paths: Its maps.
    after: Error that is left of the one before; 1.0 where nothing helped.
  """

  paths: tuple[str, ...]
  after: float


@dataclasses.dataclass(frozen=True)
class Report:
  """A calibration.

  Attributes:
    maps: In the order in which they were fitted.
    left: Paths of maps that stayed as they were: without a kernel of their own, which is tied, or
      without a counterpart in the teacher's network.
    agreement_before: Share of the held-out inputs for which the network as B-cosified predicts what
      its teacher does.
    agreement: The same in closed form.
    features: Whether the network has no classes, and agreements are mean cosines of its features.
    blocks: What the second sweep improved; () without it.
  """

  maps: tuple[Fitted, ...]
  left: tuple[str, ...]
  agreement_before: float
  agreement: float
  features: bool = False
  blocks: tuple[Refined, ...] = ()

  @property
  def warnings(self) -> tuple[str, ...]:
    """What a user should know, a sentence each."""
    found = []
    if self.agreement < LOW_AGREEMENT:
      how = f"predicts what its teacher does for {self.agreement:.0%} of the held-out inputs only"
      if self.features:
        how = f"has features whose mean cosine with its teacher's is {self.agreement:.2f} only"
      found.append(
        f"The network in closed form {how}. Are the inputs of the domain that it was trained on, "
        "and enough?"
      )
    narrow = [m for m in self.maps if m.rows < 2 * m.inputs and not m.problem]
    if narrow:
      worst = max(narrow, key=lambda m: m.inputs / m.rows)
      found.append(
        f"{len(narrow)} of {len(self.maps)} maps see more channels than half their places "
        f"({worst.path}: {worst.inputs} channels, {worst.rows} places), and lean on the ridge: "
        f"give about {2 * worst.inputs / worst.rows:.0f} times as many inputs."
      )
    kept = [m.path for m in self.maps if m.kept and not m.problem]
    if kept:
      found.append(f"Kept as they were, the new kernel being no better: {', '.join(kept)}.")
    for problem in dict.fromkeys(m.problem for m in self.maps if m.problem):
      paths = [m.path for m in self.maps if m.problem == problem]
      found.append(f"Kept as it was, since it {problem}: {', '.join(paths)}.")
    return tuple(found)

  @property
  def agreed(self) -> str:
    """How far the network agrees with its teacher, before and after, in words."""
    if self.features:
      said = "mean cosine with the teacher's features"
      return f"{said}, on held-out inputs: {self.agreement_before:.3f} -> {self.agreement:.3f}"
    said = "agreement with the teacher on held-out inputs"
    return f"{said}: {self.agreement_before:.1%} -> {self.agreement:.1%}"

  def __str__(self) -> str:
    width = max((len(m.path) for m in self.maps), default=4)
    lines = [f"{'map':{width}}  inputs  outputs   before      fit    ridge  condition"]
    for m in self.maps:
      lines.append(
        f"{m.path:{width}}  {m.inputs:6d}  {m.outputs:7d}  {max(m.before, -9.99):7.2f}  "
        f"{m.fit:7.3f}  {m.ridge:7.0e}  {m.condition:9.1e}{'  kept' if m.kept else ''}"
      )
    if self.blocks:
      lines.append("block, of its weighed error the second sweep leaves")
      lines += [f"{', '.join(block.paths)}: {block.after:.3f}" for block in self.blocks]
    return "\n".join(lines)


def record(report: Report, settings: Any, inputs: str, count: int) -> dict[str, Any]:
  """Returns how a network was calibrated as plain values, for the provenance of its bundle.

  Args:
    report: What came out.
    settings: The `Calibration`.
    inputs: What it was calibrated with, 'pictures' or 'texts'.
    count: How many of them.
  """
  return {
    "inputs": inputs,
    "count": count,
    "settings": dataclasses.asdict(settings),
    **dataclasses.asdict(report),
  }

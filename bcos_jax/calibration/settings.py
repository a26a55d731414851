"""Settings of a calibration, checked."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any

from ..errors import InputError, unknown_name
from .fit import Effort

HEADS = ("auto", "log_odds", "logits")
"""What heads may aim at, see `Calibration`."""


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How a network is calibrated.

  Attributes:
    rows: Places at which a map is fitted, at least; `rows_per_channel` times its inputs if more.
    rows_per_channel: See `rows`.
    held_out: Share of the pictures or texts that choose ridges and judge fits.
    head: What the head aims at: 'log_odds' of the teacher's probabilities, which binary
      cross-entropy would teach and which localises; 'logits'; or 'auto', log odds where the
      student adds a logit bias.
    clip: Largest log odds.
    effort: How long each kernel is improved.
    batch_size: Pictures or texts that are evaluated at a time.
    seed: Chooses the places.
    memory: GiB of activations that stay in memory, of both networks, where `calibrate` is given a
      folder for the rest; without one, all of them do. At the widest place those are a few times
      the activations of one layer for all inputs: for a ResNet-50 and 1,024 pictures of 224 pixels
      about 10 GiB.

  Raises:
    InputError: A value that is out of its range.
  """

  rows: int = 20_000
  rows_per_channel: int = 8
  held_out: float = 0.125
  head: str = "auto"
  clip: float = 6.0
  effort: Effort = dataclasses.field(default_factory=Effort)
  batch_size: int = 32
  seed: int = 0
  memory: float = 2.0

  def __post_init__(self):
    for name, least in {"rows": 1, "rows_per_channel": 0, "batch_size": 1, "seed": 0}.items():
      _check_integer(name, getattr(self, name), least)
    for field in dataclasses.fields(self.effort):
      _check_integer(f"effort.{field.name}", getattr(self.effort, field.name), 0)
    if not _between(self.held_out, 0, 1):
      raise InputError(
        f"held_out is {self.held_out!r}, expected a share between 0 and 1.",
        "For example 0.125, an eighth of the inputs.",
      )
    if self.head not in HEADS:
      raise unknown_name("head", self.head, HEADS)
    if not (self.memory == 0 or _between(self.memory, 0, math.inf)):
      raise InputError(
        f"memory is {self.memory!r}, expected a number of GiB of at least 0.", "For example 2.0."
      )
    if not _between(self.clip, 0, math.inf):
      raise InputError(
        f"clip is {self.clip!r}, expected a number above 0.", "For example 6.0, odds of 400 to 1."
      )

  def held(self, count: int) -> int:
    """Returns how many inputs of `count` are held out.

    Raises:
      InputError: None of them, or all.
    """
    held = round(count * self.held_out)
    if not 0 < held < count:
      which = "all" if held else "none"
      raise InputError(
        f"held_out={self.held_out} of {count} inputs holds {which} out, expected 1 to {count - 1}.",
        f"Choose a share between {1 / count:.2g} and {1 - 1 / count:.2g}, or give more inputs.",
      )
    return held


def _check_integer(name: str, value: Any, least: int) -> None:
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not whole or value < least:
    raise InputError(
      f"{name} is {value!r}, expected a whole number of at least {least}.",
      f"The default is a good start: omit {name}.",
    )


def _between(value: Any, low: float, high: float) -> bool:
  return isinstance(value, numbers.Real) and low < float(value) < high

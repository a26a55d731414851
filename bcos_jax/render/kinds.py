"""Kinds of explanations: one sentence on how far what a picture or text shows can be trusted.

Every figure, report and page takes its sentence from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import enum
from typing import Any

import numpy as np

_FAINT = 0.01  # of the output or its constants: the mass below which contributions are negligible
_ROUNDING = 1e-3

EXACT = "exact: contributions and named constants add up to the output"
NEGLIGIBLE = "contributions are negligible"
POST_HOC = "post hoc: not exact for this network"


class Origin(enum.Enum):
  """Where a network's weights come from, as far as its explanations depend on it; in words."""

  TRAINED = ""
  COPIED = "not fine-tuned"
  CLOSED_FORM = "B-cosified in closed form, not trained"


@dataclasses.dataclass(frozen=True)
class Account:
  """What adds up to an explained output.

  Attributes:
    value: The output.
    total: The sum of all contributions.
    mass: The sum of their sizes.
    constants: What the network adds by itself, by source.
    unexplained: The rest.
    conventional: Whether the network is a conventional one.
  """

  value: float
  total: float
  mass: float
  constants: Mapping[str, float]
  unexplained: float
  conventional: bool = False

  @property
  def complete(self) -> bool:
    """Whether the rest is no more than rounding."""
    return abs(self.unexplained) <= _ROUNDING * max(1.0, self.mass, abs(self.value))

  @property
  def strength(self) -> float:
    """In [0, 1]: 1, or less where contributions are negligible beside output or constants."""
    least = _FAINT * max(map(abs, (self.value, *self.constants.values())))
    return 1.0 if self.mass > least else self.mass / least if least else 0.0

  @property
  def share_of_constants(self) -> float:
    """Of constants in all that adds up to the output, signs aside."""
    constant = abs(sum(self.constants.values()))
    return constant / max(constant + abs(self.total), 1e-30)


def account(ex: Any, where: tuple[int, ...]) -> Account:
  """Returns what adds up to one value of an explanation of images or texts.

  Args:
    ex: An `Explanation` or `TextExplanation`.
    where: Place of the value: (row,), or (row, target) with several targets per row.
  """
  contributions = np.asarray(ex.contributions[where], np.float64)
  parts = {name: float(np.asarray(part)[where]) for name, part in ex.residuals.items()}
  value, total = float(np.asarray(ex.value)[where]), float(contributions.sum())
  parts.pop("unexplained", None)
  return Account(
    value=value,
    total=total,
    mass=float(np.abs(contributions).sum()),
    constants=parts,
    unexplained=value - total - sum(parts.values()),
    conventional=getattr(ex, "conventional", False),
  )


def origin_of(config: Mapping[str, Any]) -> Origin:
  """Returns where the weights of a bundle's network come from."""
  about = config.get("provenance", {})
  if "bcosified" not in about:
    return Origin.TRAINED
  return Origin.CLOSED_FORM if about.get("calibrated") else Origin.COPIED


def kind_of(ex: Any, where: tuple[int, ...], origin: Origin | None = None) -> str:
  """Returns `kind` of one value of an explanation; see `account`.

  Args:
    ex: The explanation; one of texts knows where its network comes from.
    where: Place of the value.
    origin: As for `kind`; None takes what the explanation knows.
  """
  known = origin or getattr(ex, "origin", Origin.TRAINED)
  return kind([account(ex, where)], known)


def is_sound(kind: str) -> bool:
  """Whether a kind is as it should be, so that nothing need warn of it."""
  return kind.startswith(EXACT)


def kind(accounts: Sequence[Account], origin: Origin = Origin.TRAINED) -> str:
  """Returns what kind of explanation is shown, in a few words.

  Args:
    accounts: Of one explanation, or of several that one sentence is to cover.
    origin: Where the network's weights come from, see `origin_of`.
  """
  if any(each.conventional for each in accounts):
    return f"{POST_HOC}, {_biases(accounts)}"
  faint = sum(each.strength < 1 for each in accounts)
  said = [origin.value] if origin.value else []
  if faint:
    some = "" if faint == len(accounts) else f"of {faint} of {len(accounts)} explanations "
    said.append(f"{some}{NEGLIGIBLE}")
    if origin is not Origin.COPIED:
      said.append("the output is its constants")
  if missing := [each for each in accounts if not each.complete]:
    worst = max(abs(each.unexplained) / max(each.mass, abs(each.value)) for each in missing)
    said.append(f"incomplete: up to {worst:.1%} is unexplained")
  elif not faint and origin is not Origin.COPIED:
    return "; ".join((EXACT, *said))
  elif not faint:
    said.append("exact, but no training has aligned its weights with pictures")
  return "; ".join(said)


def _biases(accounts: Sequence[Account]) -> str:
  """What share of the outputs of a conventional network no pixel or token accounts for."""
  shares = sorted(round(100 * each.share_of_constants) for each in accounts)
  span = f"{shares[0]}" if shares[0] == shares[-1] else f"{shares[0]} to {shares[-1]}"
  # Parts that cancel add up to less than either, so that a share of the sum would exceed 100 %.
  one_sign = all(sum(each.constants.values()) * each.total >= 0 for each in accounts)
  whole = "the output" if one_sign else "what adds up to the output"
  return f"{span} % of {whole} is biases"


def of_methods(exact: Sequence[str], count: int) -> str:
  """Returns of which kind the maps of several methods are.

  Args:
    exact: Names of those that are exact.
    count: Of all methods.
  """
  if not exact:
    return "post hoc: no map adds up to the output"
  said = EXACT.replace("exact", f"exact for {' and '.join(exact)}", 1)
  return said if len(exact) == count else f"{said}; other maps are post hoc and need not"

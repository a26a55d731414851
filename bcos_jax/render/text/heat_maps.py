"""Heat maps of texts: words with their contributions, independent of the output format.

Red words support the explained output, blue ones oppose it, white ones do not count, as on
contribution maps of pictures. The number at a legend is the contribution at full colour, that of
the text's strongest word unless a common scale is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any
import unicodedata

import numpy as np

from ...errors import InputError
from ...text.words import Word
from .. import color, kinds

_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextHeat:
  """A text with the contributions of its words.

  Attributes:
    pieces: The text, cut: words and what stands between them, in order.
    scores: Of each piece; None for what stands between words.
    title: Heading, such as the explained class.
    value: The explained output, if it is to be shown.
    parts: Contributions of what is not a word, by name: special tokens, positions, biases.
    note: A sentence below, such as the true class.
    unknown: Of each piece, whether the vocabulary lacks it; () for none.
    kind: What kind of explanation it is, see `render.kinds`.
  """

  pieces: tuple[str, ...]
  scores: tuple[float | None, ...]
  title: str = ""
  value: float | None = None
  parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
  note: str = ""
  unknown: tuple[bool, ...] = ()
  kind: str = ""

  def __post_init__(self):
    known = [score for score in self.scores if score is not None]
    if len(self.pieces) != len(self.scores) or not np.isfinite(known).all():
      raise InputError(
        f"{len(self.pieces)} pieces of text and {len(self.scores)} scores, expected one finite "
        "number, or None, per piece.",
        "Create heat maps with text_heat.",
      )
    if self.unknown and len(self.unknown) != len(self.pieces):
      raise InputError(
        f"{len(self.unknown)} marks of unknown words for {len(self.pieces)} pieces of text.",
        "Create heat maps with text_heat.",
      )

  @property
  def marked(self) -> list[tuple[str, float | None, bool]]:
    """Each piece, its score, and whether the vocabulary lacks it."""
    unknown = self.unknown or (False,) * len(self.pieces)
    return list(zip(self.pieces, self.scores, unknown, strict=True))

  @property
  def cutoff(self) -> float:
    """The strongest word's contribution, without sign."""
    return max((abs(score) for score in self.scores if score is not None), default=0.0)


def common_cutoff(heats: Iterable[TextHeat]) -> float:
  """Returns the contribution of the strongest word of several texts: one scale for all."""
  return max((heat.cutoff for heat in heats), default=0.0)


def text_heat(text: str, words: Iterable[Word], **fields: Any) -> TextHeat:
  """Returns the heat-map of a text.

  Args:
    text: The text.
    words: Its words with their contributions, in order, as `words.merged` makes them of any scores
      of tokens. The sum over special tokens becomes the part "special tokens".
    **fields: Of `TextHeat`: title, value, parts, note, kind.

  Raises:
    InputError: A contribution that is NaN or infinite.
  """
  pieces: list[str] = []
  scores: list[float | None] = []
  unknown: list[bool] = []
  last, rest = 0, 0.0
  for word in words:
    if word.span is None:
      rest += word.contribution
      continue
    begin, end = max(word.span[0], last), word.span[1]
    if last < begin:
      pieces.append(text[last:begin])
      scores.append(None)
      unknown.append(False)
    pieces.append(text[begin:end])
    scores.append(word.contribution)
    unknown.append(word.unknown)
    last = max(last, end)
  if last < len(text):
    pieces.append(text[last:])
    scores.append(None)
    unknown.append(False)
  parts = {**({"special tokens": rest} if rest else {}), **fields.pop("parts", {})}
  marks = tuple(unknown) if any(unknown) else ()
  return TextHeat(pieces=tuple(pieces), scores=tuple(scores), unknown=marks, parts=parts, **fields)


def explained_text(ex: Any, index: int, target: int | None = None, **fields: Any) -> TextHeat:
  """Returns the heat-map of an explained text, with its value and what no token accounts for.

  Args:
    ex: A `TextExplanation`, of `TextReader.explain`.
    index: Which text.
    target: Which of K targets; None where there is one.
    **fields: Of `TextHeat`: title, note.

  Raises:
    InputError: The explanation does not know the texts.
  """
  words = ex.words(index, target)
  place = (index,) if target is None else (index, target)
  residuals = {name: float(np.asarray(part)[place]) for name, part in ex.residuals.items()}
  unexplained = residuals.pop("unexplained", 0.0)  # rounding, shown where it is more
  if abs(unexplained) > 1e-3 * max(1.0, abs(float(np.asarray(ex.value)[place]))):
    residuals["unexplained"] = unexplained
  return text_heat(
    ex.text_batch.texts[index],
    words,
    value=float(np.asarray(ex.value)[place]),
    parts={name: part for name, part in residuals.items() if part},
    kind=kinds.kind_of(ex, place),
    **fields,
  )


def visible(text: str) -> str:
  """Returns a text with spaces in place of line breaks and tabs, and no other control characters.

  They could write on a terminal, or turn the order of what is read around.
  """
  return "".join(" " if sign in "\n\r\t" else "�" if _controls(sign) else sign for sign in text)


def _controls(sign: str) -> bool:
  return unicodedata.category(sign) in ("Cc", "Cs") or sign in _DIRECTIONS


def sum_in_words(heat: TextHeat) -> str:
  """What words and other parts add up to, in words."""
  words = sum(score for score in heat.scores if score is not None)
  named = {"words": words, **heat.parts}
  parts = [f"{name} {signed_number(value)}" for name, value in named.items()]
  if heat.parts:
    parts[-1] += f"; together {signed_number(sum(named.values()))}"
  if heat.value is not None:
    parts[-1] += f"; output {signed_number(heat.value)}"
  return ", ".join(parts)


def lines_below(heat: TextHeat) -> list[str]:
  """Returns what is said below a text: its sum, the kind of explanation, marks, a note."""
  marks = "underlined: not in the vocabulary of the network" if any(heat.unknown) else ""
  return [line for line in (sum_in_words(heat), heat.kind, marks, heat.note) if line]


def word_colors(score: float, full: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns (background, letters) as red, green and blue in [0, 1]."""
  back = color.diverging(score / full if full else 0.0)
  light = 0.2126 * back[0] ** 2.2 + 0.7152 * back[1] ** 2.2 + 0.0722 * back[2] ** 2.2
  return back, (0.0,) * 3 if light > 0.18 else (1.0,) * 3


def signed_number(value: float) -> str:
  """Returns a number with its sign, in three digits."""
  return f"{value:+.3g}".replace("-", "−") if value else "0"

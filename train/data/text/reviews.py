"""Generated film reviews with their deciding words: a task with ground truth.

A review is positive if more of its judgements of the film are positive than negative. A judgement
is a word of feeling about a part of the film, turned around where it is negated; it and its
negation are the rationale of the label that it supports. Everything else is a distractor:
judgements against the label, fewer than those for it; words of feeling about other things than the
film; intensifiers; sentences that say nothing; and spurious words, which have nothing to do with
feelings but go with a label more often than with the other.

A review depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from bcos_jax.errors import InputError

LABELS = ("negative", "positive")
ADJECTIVES = (
  "awful dull terrible clumsy boring weak tedious shallow dreadful flat".split(),
  "wonderful great superb moving clever charming funny brilliant gripping lovely".split(),
)
VERBS = ("hated disliked despised regretted".split(), "loved enjoyed admired adored".split())
NEGATIONS = "not never hardly".split()
INTENSIFIERS = "very really quite truly rather so".split()
PARTS = "plot acting script ending music camera cast dialogue story editing lead opening".split()
OTHERS = "seats parking coffee weather queue neighbour bus dinner hotel traffic".split()
SPURIOUS = ("rain basement sequel remake".split(), "sunshine balcony festival premiere".split())
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
PEOPLE = "sister brother friend cousin teacher aunt".split()
FILLERS = (
  "we saw it on a {day} evening",
  "my {person} bought the tickets",
  "my {person} came with me on {day}",
  "it runs for about two hours",
  "the {part} was made by the same team",
  "there is a second {part} after the credits",
  "i read about it on {day}",
)
SPURIOUS_SENTENCES = ("we talked about the {word}", "there was a {word}", "i remember the {word}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Style:
  """How hard reviews are to judge.

  Attributes:
    negated: Share of the judgements by adjective that say it with the opposite word, negated.
    opposed: Share of the reviews with two judgements or more that also have one against the label.
    asides: Share of the reviews with a word of feeling about something else than the film.
    spurious: Share of the reviews with a spurious word.
    agreeing: Share of these whose spurious word goes with the label; 0.5 says nothing.
    fillers: Maximum number of uninformative sentences; at least one.
  """

  negated: float = 0.3
  opposed: float = 0.4
  asides: float = 0.4
  spurious: float = 0.7
  agreeing: float = 0.8
  fillers: int = 3

  def __post_init__(self):
    for field in ("negated", "opposed", "asides", "spurious", "agreeing"):
      if not 0 <= getattr(self, field) <= 1:
        raise InputError(
          f"{field}={getattr(self, field)!r}, expected a share in [0, 1].", "Use 0 for none."
        )
    if self.fillers < 1:
      raise InputError(f"fillers={self.fillers}, expected at least 1.", "Raise fillers.")


STYLES = {"tricky": Style(), "plain": Style(negated=0.0, opposed=0.0, asides=0.0)}


@dataclasses.dataclass(frozen=True)
class Review:
  """A review.

  Attributes:
    words: Its words, full stops among them, in lower case.
    label: A number of `LABELS`.
    rationale: Which words decide the label.
  """

  words: tuple[str, ...]
  label: int
  rationale: tuple[bool, ...]

  @property
  def text(self) -> str:
    return " ".join(self.words)

  @property
  def spans(self) -> np.ndarray:
    """Where the words that decide are in the text: (begin, end) in characters, int32 [S, 2]."""
    ends = np.cumsum([len(word) + 1 for word in self.words]) - 1
    places = [
      (int(end) - len(word), int(end))
      for word, end, marked in zip(self.words, ends, self.rationale, strict=True)
      if marked
    ]
    return np.array(places, np.int32).reshape(-1, 2)


_Sentence = list[tuple[str, bool]]


def review(label: int, seed: int | Sequence[int], style: Style = STYLES["tricky"]) -> Review:
  """Generates a review.

  Args:
    label: A number of `LABELS`.
    seed: One number or several; the same ones give the same review.
    style: How hard it is.

  Raises:
    InputError: No such label.
  """
  if label not in range(len(LABELS)):
    raise InputError(f"label={label!r}, expected 0 or 1.", f"These are {LABELS}.")
  random = np.random.default_rng(seed)
  judgements = int(random.integers(1, 4))
  sentences = [_judgement(random, label, style, True) for _ in range(judgements)]
  if judgements > 1 and random.random() < style.opposed:
    sentences.append(_judgement(random, 1 - label, style, False))
  if random.random() < style.asides:
    sentences.append(_aside(random))
  if random.random() < style.spurious:
    side = label if random.random() < style.agreeing else 1 - label
    template = SPURIOUS_SENTENCES[random.integers(len(SPURIOUS_SENTENCES))]
    sentences.append(_plain(template.format(word=_pick(random, SPURIOUS[side]))))
  sentences += [_filler(random) for _ in range(random.integers(1, style.fillers + 1))]
  words, marks = [], []
  for i in random.permutation(len(sentences)):
    for word, marked in [*sentences[i], (".", False)]:
      words.append(word)
      marks.append(marked)
  return Review(tuple(words), label, tuple(marks))


def vocabulary() -> tuple[str, ...]:
  """Returns every word that a review may have, sorted."""
  words = {"."}
  for group in (*ADJECTIVES, *VERBS, *SPURIOUS):
    words.update(group)
  for group in (NEGATIONS, INTENSIFIERS, PARTS, OTHERS, DAYS, PEOPLE):
    words.update(group)
  for template in (*FILLERS, *SPURIOUS_SENTENCES, "the was i found a"):
    words.update(word for word in template.split() if "{" not in word)
  return tuple(sorted(words))


def stream(seed: int, start: int = 0, style: Style = STYLES["tricky"]) -> Iterator[str]:
  """Yields texts without end, for pretraining; the i-th depends on the seed and on i alone.

  Their spurious words are independent of the label.
  """
  fair = dataclasses.replace(style, agreeing=0.5)
  index = start
  while True:
    yield review(index % 2, (seed, index), fair).text
    index += 1


def _judgement(random: np.random.Generator, label: int, style: Style, marked: bool) -> _Sentence:
  """A sentence that supports a label; its deciding words are marked if requested."""
  part = _pick(random, PARTS)
  kind = random.integers(4)
  if kind == 0:
    return [("i", False), (_pick(random, VERBS[label]), marked), ("the", False), (part, False)]
  degree = [(_pick(random, INTENSIFIERS), False)] if random.random() < 0.5 else []
  if kind == 1:
    return [("a", False), *degree, (_pick(random, ADJECTIVES[label]), marked), (part, False)]
  negation: _Sentence = []
  if random.random() < style.negated:
    negation, label = [(_pick(random, NEGATIONS), marked)], 1 - label
  feeling = [*negation, *degree, (_pick(random, ADJECTIVES[label]), marked)]
  begin = ["the", part, "was"] if kind == 2 else ["i", "found", "the", part]
  return [*((word, False) for word in begin), *feeling]


def _aside(random: np.random.Generator) -> _Sentence:
  feeling = _pick(random, ADJECTIVES[random.integers(2)])
  return _plain(f"the {_pick(random, OTHERS)} was {feeling}")


def _filler(random: np.random.Generator) -> _Sentence:
  template = FILLERS[random.integers(len(FILLERS))]
  return _plain(
    template.format(
      day=_pick(random, DAYS), person=_pick(random, PEOPLE), part=_pick(random, PARTS)
    )
  )


def _plain(text: str) -> _Sentence:
  return [(word, False) for word in text.split()]


def _pick(random: np.random.Generator, words: Sequence[str]) -> str:
  return words[int(random.integers(len(words)))]

"""Words that a classifier decides by: found by its explanations, tested by taking them away.

A word that tells the label of a mail for no reason that lies in mail itself, such as the relay by
which all spam of a collection arrived, is a leak. The explanation finds such words in mails of
training; whether the classifier needs them is seen when they are hidden from test mails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
import dataclasses
import re

import numpy as np

from ...errors import InputError
from ...text.words import TextBatch, Word, word_spans, words_of_tokens

_ADDRESS = re.compile(r"([\w.+=&~'-]+)@[\w.-]+")
_LIST = re.compile(r"^(owner|admin|bounce)-|-(admin|request|owner|bounces?|outgoing)$")
_OF_LIST = re.compile(r"([\w.-]+)-(?:admin|request|owner)@")
_PEOPLE = re.compile(r"(?im)^((?:From|To|Cc|Reply-To|Sender): *)(.*)$")
_NUMBERS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")
_BLANKED = ("zzzz", "yyyy", "xxxx")  # what the corpus itself wrote in place of an address
_HOSTS_OF_PEOPLE = {"jmason"}
_NAME_SHARE = 0.3  # of a word's occurrences that are part of a name or an address
HIDDEN = "•"


@dataclasses.dataclass(frozen=True)
class WordTotal:
  """A word and what it contributed to all mails.

  Attributes:
    word: In lower case.
    total: The sum of its contributions.
    count: How often it occurs.
    mails: In how many mails.
    spam_share: Of the mails that it is in, the share that is labelled spam.
  """

  word: str
  total: float
  count: int
  mails: int
  spam_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hiding:
  """What a classifier does without the words that decide.

  Attributes:
    column: "text" or "mail", what it reads.
    totals: All words of training mails, see `word_totals`.
    chosen: The words that were hidden: those for spam, those against.
    words: How many were hidden in a mail, on average.
    whole: Which test mails are classified rightly, bool [N].
    without: The same without the words.
    random: The same without as many random ones.
    names: Words that are parts of names, not to be shown.
  """

  column: str
  totals: list[WordTotal]
  chosen: tuple[list[WordTotal], list[WordTotal]]
  words: float
  whole: np.ndarray
  without: np.ndarray
  random: np.ndarray
  names: set[str]

  def shown(self, word: str) -> str:
    """Returns a word for a page: of a name its first letter only."""
    return word[0] + HIDDEN * 3 if word in self.names else word


def counted_word(word: Word) -> str:
  """Returns the word as it is compared, in lower case; "" for punctuation and special tokens."""
  counts = word.span is not None and any(map(str.isalnum, word.text))
  return word.text.lower() if counts else ""


def word_totals(mails: Sequence[Iterable[Word]], spam: np.ndarray) -> list[WordTotal]:
  """Returns all words by the sum of their contributions, the largest first.

  The last ones are those that speak against. Words of one sum are in alphabetical order. A sum
  grows with how common a word is: it says what decides a collection, not a single mail.

  Args:
    mails: Of each mail its words with their contributions to one and the same output.
    spam: bool [N], whether each mail is labelled spam.

  Raises:
    InputError: Not one label per mail, or a contribution that is not finite.
  """
  if len(mails) != len(spam):
    raise InputError(
      f"{len(spam)} labels for {len(mails)} mails, expected one each.", "Give bool [N]."
    )
  found: dict[str, list[tuple[float, int]]] = {}
  for number, words in enumerate(mails):
    for word in words:
      if not (key := counted_word(word)):
        continue
      if not np.isfinite(word.contribution):
        raise InputError(
          f"Word {word.text!r} of mail {number} contributes {word.contribution}, expected a finite "
          "number.",
          "Look for NaN among the network's weights.",
        )
      found.setdefault(key, []).append((word.contribution, number))
  totals = []
  for key, seen in found.items():
    rows = sorted({number for _, number in seen})
    share = float(np.mean(np.asarray(spam, bool)[rows]))
    totals.append(WordTotal(key, sum(value for value, _ in seen), len(seen), len(rows), share))
  return sorted(totals, key=lambda one: (-one.total, one.word))


def deciding(totals: Sequence[WordTotal], most: int) -> tuple[list[WordTotal], list[WordTotal]]:
  """Returns the words that speak most for and most against, at most so many of each.

  Args:
    totals: As `word_totals` returns them.
    most: Of each side.

  Raises:
    InputError: `most` is below 1.
  """
  if most < 1:
    raise InputError(f"most={most}, expected at least 1.", "Ask for one word or more.")
  speaking_for = [one for one in totals[:most] if one.total > 0]
  against = [one for one in totals[::-1][:most] if one.total < 0]
  return speaking_for, against


def hidden(batch: TextBatch, words: Collection[str], mask_id: int) -> tuple[np.ndarray, np.ndarray]:
  """Puts the mask token in the place of some words.

  Args:
    batch: N texts.
    words: Which words, in lower case.
    mask_id: Id of the mask token.

  Returns:
    (ids int32 [N, L], how many words of each text were hidden, int [N]).
  """
  ids, counts = batch.ids.copy(), np.zeros(len(batch), int)
  for row, places in enumerate(_places(batch)):
    for word, tokens in places:
      if word in words:
        ids[row, tokens] = mask_id
        counts[row] += 1
  return ids, counts


def hidden_at_random(
  batch: TextBatch, counts: np.ndarray, words: Collection[str], mask_id: int, seed: int
) -> np.ndarray:
  """Puts the mask token in the place of as many other words of each text, drawn at random.

  Args:
    batch: N texts.
    counts: int [N], how many words of each; all that there are if there are fewer.
    words: Those that stay, in lower case.
    mask_id: Id of the mask token.
    seed: Of the draw.

  Returns:
    ids int32 [N, L].
  """
  ids, draw = batch.ids.copy(), np.random.default_rng(seed)
  for row, places in enumerate(_places(batch)):
    others = [tokens for word, tokens in places if word not in words]
    for place in draw.permutation(len(others))[: counts[row]]:
      ids[row, others[place]] = mask_id
  return ids


def _places(batch: TextBatch) -> Iterable[list[tuple[str, list[int]]]]:
  """Yields of each text its words, without punctuation, with the places of their tokens."""
  for text, spans, special in zip(batch.texts, batch.spans, batch.special, strict=True):
    words = word_spans(text)
    owners = words_of_tokens([tuple(span) for span in spans.tolist()], words)
    tokens: dict[int, list[int]] = {}
    for place, owner in enumerate(owners):
      if owner >= 0 and not special[place]:
        tokens.setdefault(owner, []).append(place)
    named = ((text[slice(*words[owner])].lower(), places) for owner, places in tokens.items())
    yield [(word, places) for word, places in named if any(map(str.isalnum, word))]


def discreet(text: str) -> str:
  """Returns a mail of the same length without who wrote it, for pages and pictures.

  Addresses (unless a mailing list's own, or what the corpus put in their place), what a header says
  of its people, and numbers of hosts become dots.
  """
  text = _PEOPLE.sub(lambda match: match[1] + _dotted(match[2]), text)
  text = _ADDRESS.sub(lambda match: match[0] if _known(match[1]) else _dotted(match[0]), text)
  return _NUMBERS.sub(lambda match: _dotted(match[0]), text)


def names_in(texts: Iterable[str]) -> set[str]:
  """Returns the words, in lower case, that often are what people are called, or their addresses.

  Hosts are not, nor mailing lists, which have an address of their own such as NAME-admin@HOST.
  """
  seen: dict[str, list[bool]] = {}
  lists: set[str] = set()
  for text in texts:
    covered = _PEOPLE.sub(lambda match: match[1] + _but_hosts(match[2]), text)
    covered = _ADDRESS.sub(lambda match: _but_hosts(match[0]), covered)
    lists |= {found.lower() for found in _OF_LIST.findall(text)}
    for begin, end in word_spans(text):
      seen.setdefault(text[begin:end].lower(), []).append(HIDDEN in covered[begin:end])
  names = {word for word, hides in seen.items() if np.mean(hides) > _NAME_SHARE}
  return {word for word in names - lists if not _known(word)} | _HOSTS_OF_PEOPLE


def _but_hosts(part: str) -> str:
  return re.sub(r"(@[\w.-]+)|\S", lambda match: match[1] or HIDDEN, part)


def _known(local: str) -> bool:
  return bool(_LIST.search(local.lower())) or local.lower() in _BLANKED


def _dotted(part: str) -> str:
  return re.sub(r"\S", HIDDEN, part)

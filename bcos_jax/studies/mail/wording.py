"""The tables and sentences of the study of mail, written from what was measured."""

from __future__ import annotations

import numpy as np

from ... import metrics
from ..tables import Table
from .lab import BATCH, B, MailLab
from .leaks import Hiding
from .measures import LEFT_OUT, OWN, SHARES, Verdicts

CONVENTIONAL, TUNED, CLOSED, BOTH, HEADED = (
  "conventional",
  "B-cos, fine-tuned",
  "B-cos, closed form",
  "B-cos, closed form, then tuned",
  "B-cos, closed form, then tuned with headers",
)
_FOLDERS = {
  CONVENTIONAL: "conventional",
  TUNED: "fine-tuned",
  CLOSED: "closed-form",
  BOTH: "closed-form-tuned",
  HEADED: "headed",
}
"""Of each network the name of its folder."""

Faithful = dict[tuple[str, str], dict[str, metrics.TextScores]]
"""By explanation and network: measure to its scores."""


def networks_table(lab: MailLab, found: dict[str, Verdicts]) -> Table:
  seconds, rows = lab.seconds(), []
  for name, one in found.items():
    minutes = seconds.get(_FOLDERS[name], float("nan")) / 60
    error = one.calibration_error
    rows.append((name, one.accuracy, one.accuracy_error, error, *one.brier, minutes))
  forms = {"network": "", "accuracy": ".1%", "±": ".1%", "calibration error": ".3f"}
  forms |= {"Brier score": ".3f", "± ": ".3f", "core minutes": ".1f"}
  return Table(forms, rows)


def explanations_table(faithful: Faithful) -> Table:
  rows: list[tuple] = []
  for (name, network), scores in faithful.items():
    cells = [(one.mean, one.standard_error) for one in scores.values()]
    rows.append((name, network, *cells[0], *cells[1]))
  for network in dict.fromkeys(network for _, network in faithful):
    scores = next(found for (_, other), found in faithful.items() if other == network)
    cells = [(one.random, _error(one.random_scores)) for one in scores.values()]
    rows.append(("random", network, *cells[0], *cells[1]))
  forms = {"explanation": "", "network": "", "comprehensiveness": ".3f", "±": ".3f"}
  return Table(forms | {"sufficiency": ".3f", "± ": ".3f"}, rows)


def _error(scores: np.ndarray) -> float:
  return float(scores.std(ddof=1) / len(scores) ** 0.5)


def words_table(hiding: list[Hiding]) -> Table:
  rows: list[tuple] = []
  for one in hiding:
    for side, words in zip(("spam", "ham"), one.chosen, strict=True):
      rows += [
        (_reads(one), side, one.shown(w.word), w.total, w.mails, w.spam_share) for w in words
      ]
  forms = {"mails read": "", "speaks for": "", "word": "", "sum": "+.1f", "mails": "d"}
  return Table(forms | {"of these spam": ".0%"}, rows)


def _reads(one: Hiding) -> str:
  return "with headers" if one.column == "mail" else "without"


def hiding_table(hiding: list[Hiding]) -> Table:
  rows = [
    (_reads(one), *(float(v.mean()) for v in (one.whole, one.without, one.random)), one.words)
    for one in hiding
  ]
  forms = {"mails read": "", "accuracy": ".1%", "without these words": ".1%"}
  return Table(forms | {"without random words": ".1%", "hidden per mail": ".1f"}, rows)


def hiding_answer(one: Hiding) -> str:
  """States how much accuracy the words are worth that decide most, beside random ones."""
  lost, by_chance = (one.whole.astype(float) - kept for kept in (one.without, one.random))
  return (
    f"Mails read {_reads(one)}{' headers' if one.column == 'text' else ''}: hiding the "
    f"{sum(map(len, one.chosen))} words that decide most ({one.words:.1f} per mail) costs "
    f"{100 * lost.mean():.1f} ± {100 * _error(lost):.1f} points of accuracy, hiding as many random "
    f"words of each mail {100 * by_chance.mean():.1f} ± {100 * _error(by_chance):.1f}."
  )


def accuracy_answer(found: dict[str, Verdicts]) -> list[str]:
  """States accuracies beside that of the conventional network, on the same mails."""
  plain, lines = found[CONVENTIONAL], []
  for name in (TUNED, CLOSED, BOTH):
    one = found[name]
    gap = one.right.astype(float) - plain.right
    lines.append(
      f"{name}: {one.accuracy:.1%}, {100 * gap.mean():+.1f} ± {100 * _error(gap):.1f} points from "
      f"the conventional network on the same mails; calibration error {one.calibration_error:.3f} "
      f"(conventional {plain.calibration_error:.3f})."
    )
  return lines


def faithful_answer(faithful: Faithful) -> list[str]:
  lines = []
  for measure, sign in (("comprehensiveness", 1), ("sufficiency", -1)):
    own = faithful[OWN, BOTH][measure]
    others = {
      name: scores[measure]
      for (name, network), scores in faithful.items()
      if network == BOTH and name != OWN
    }
    best = max(others, key=lambda name: sign * others[name].mean)
    gap = own.scores - others[best].scores
    lines.append(
      f"{measure}, {BOTH}: its own explanation {own.mean:.3f}, random "
      f"{own.random:.3f}, the best post-hoc one ({best}) {others[best].mean:.3f}; own less best "
      f"{gap.mean():+.3f} ± {_error(gap):.3f}."
    )
  return lines


def question(lab: MailLab, count: int) -> str:
  s = lab.setting
  source = f"the encoder {lab.init}" if lab.init else "a small encoder of random weights"
  mail = "made mails" if lab.short else "the SpamAssassin public corpus"
  return (
    f"Classifiers of {mail}, spam or ham, from {source}; {s.length} tokens of subject and body, "
    f"{count} test mails. Conventional: {s.steps} steps of {BATCH} mails at a rate of {s.rate:g}, "
    f"cross-entropy. B-cos, fine-tuned: the encoder B-cosified (published preset, B={B}), as many "
    "steps at the same rate, binary cross-entropy as published. Closed form: the conventional "
    f"classifier B-cosified and fitted to {s.calibrate} unlabelled training mails, head on log "
    f"odds; then tuned for {s.few} steps at the same rate, or for {s.headed} at {s.headed_rate:g} "
    "on mails that begin with their headers. Calibration error: 15 bins (Guo et al., 2017); "
    "probabilities are those of each network's loss, softmax or sigmoids divided by their sum. "
    "Brier score: summed over both classes. ±: standard errors over test mails, not over "
    "trainings. Core minutes: processor time to make a network, without those that it starts "
    "from; – if in several runs."
  )


def about_explanations(lab: MailLab) -> str:
  left_out = ", ".join(name.replace("_", " ") for name in LEFT_OUT)
  shares = ", ".join(f"{share:.0%}" for share in SHARES)
  return (
    f"**Explanations** of the predicted class, on {lab.setting.explained} test mails: loss of its "
    f"softmax probability without the first {shares} of the tokens (comprehensiveness, high is "
    "good) or with these alone (sufficiency, low is good), the mean. Rows of one network compare. "
    f"Integrated gradients take {lab.setting.path_steps} steps. Left out for time: {left_out}."
  )


def about_words(lab: MailLab) -> str:
  return (
    "**Words that decide.** Contributions to spam rather than ham, summed over "
    f"{lab.setting.summed} training mails; in how many of these mails the word is read, and how "
    "many of those are spam. Of names of people, the first letter."
  )


def about_hiding() -> str:
  return (
    "**Without them.** Accuracy on test mails in which the words of the table above are replaced "
    "by the mask token; and as many others of each mail, drawn at random."
  )

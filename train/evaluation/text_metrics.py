"""Metrics of text classifiers, by name, as printed by `bcos-jax evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os

import numpy as np

from bcos_jax import metrics, render
from bcos_jax.attribution import text as methods
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.explain.text_reader import TextReader
from bcos_jax.explain.texts import Contrast, TextExplanation
from bcos_jax.metrics import TextScores
from bcos_jax.render import kinds
from bcos_jax.text.influential_words import words_by_class
from bcos_jax.text.tokens import marked_tokens
from bcos_jax.text.words import TextBatch, Word

from ..data import TextDataset
from ..feeds.feed import check_classes
from .choices import check_read

_RATIONALES = {
  "rationale AUPRC": metrics.rationale_auprc,
  "rationale token F1": metrics.rationale_token_f1,
  "rationale IoU F1": metrics.rationale_iou_f1,
}
_CURVES = {
  "comprehensiveness": metrics.token_comprehensiveness,
  "sufficiency": metrics.token_sufficiency,
}
NAMES = ("accuracy", "rationales", "sequence_pointing", *_CURVES, "completeness")
_READERS = {
  "num_texts": ("rationales", *_CURVES, "completeness"),
  "num_pairs": ("sequence_pointing",),
  "length": ("sequence_pointing",),
  "published": (*_CURVES, "sequence_pointing"),
  "oracle": tuple(_CURVES),
}
MOST_SHOWN = 20
"""Texts in a report."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextChoices:
  """What to measure, and how.

  Attributes:
    names: Of `NAMES`.
    num_texts: Most texts to measure explanations on, evenly spread over the data set.
    num_pairs: Most pairs of the sequence pointing game, which chooses its texts from all.
    length: Tokens of each of its texts, which are cut there; 0 for as many as fit twice.
    batch_size: Texts at a time.
    published: Comprehensiveness and sufficiency as B-cos LM has them, see `TokenPerturbation`, and
      pairs of texts that fill the length only; else the textbook's mean, and texts of any length.
    oracle: Whether the oracle of comprehensiveness and sufficiency is measured, which takes a
      forward pass for each token.
  """

  names: tuple[str, ...]
  num_texts: int = 128
  num_pairs: int = 250
  length: int = 0
  batch_size: int = 32
  published: bool = False
  oracle: bool = True

  def __post_init__(self):
    for name in self.names:
      if name not in NAMES:
        raise unknown_name("metric of texts", name, NAMES)
    check_read(self, _READERS)


class MeasuredTexts:
  """A network on a data set: predictions are made once, explanations on demand.

  Attributes:
    reader: The network.
    dataset: The texts.
    choices: What to measure.
    logits: Of all texts, float32 [N, C].
    cut: Number of texts whose end was cut off.
  """

  def __init__(self, reader: TextReader, dataset: TextDataset, choices: TextChoices):
    """Predicts all texts.

    Raises:
      InputError: A network that classifies no texts, or other classes than those of the texts;
        texts that cannot be read; texts without rationales, if these are requested.
    """
    if reader.model.predicts_tokens:
      raise InputError(
        f"The {type(reader.model).__name__} predicts tokens, expected classes of texts.",
        "Evaluate a network that was fine-tuned to classify.",
      )
    if dataset.labels is None:
      raise InputError(f"{dataset.name} has no labels.", "Name another split or column.")
    check_classes(reader.model, dataset.label_names, dataset.name)
    if "rationales" in choices.names and dataset.spans is None:
      raise InputError(
        f"{dataset.name} does not mark the deciding words, which rationales needs.",
        "Use reviews, or JSON lines with spans, or omit rationales.",
      )
    self.reader, self.dataset, self.choices = reader, dataset, choices
    self.labels = dataset.labels
    batch = reader.read(dataset.texts)
    self.cut = int((batch.dropped > 0).sum())
    self._task = methods.reader_task(reader)
    self.logits = self._predicted(batch)

  @property
  def accuracy(self) -> float:
    """Share of all texts that are classified as they are labelled."""
    return float(np.mean(self.logits.argmax(axis=-1) == self.labels))

  def measure(self) -> Iterator[tuple[str, TextScores]]:
    """Measures explanations: of the labelled classes, or of those that the metric requires.

    Yields:
      Each name and what was measured; its `summary()` has it as plain numbers.

    Raises:
      InputError: See the metrics.
    """
    names = [name for name in self.choices.names if name != "accuracy"]
    if "sequence_pointing" in names:
      names.remove("sequence_pointing")
      yield "sequence pointing", self._play()
    if not names:
      return
    last = len(self.dataset) - 1
    rows = np.unique(np.linspace(0, last, self.choices.num_texts).astype(int))
    some = self.dataset.chosen(rows, self.dataset.name)
    ex = self._explained(some, some.labels)
    for name in names:
      if name == "rationales":
        assert some.spans is not None, "checked at the start"
        marked = marked_tokens(ex.text_batch, some.spans)
        for title, measure in _RATIONALES.items():
          yield title, measure(ex.contributions, marked, ~ex.text_batch.special)
      elif name == "completeness":
        yield name, metrics.token_completeness(ex)
      else:
        yield name, self._curve(name, self._explained(some, self.logits[rows].argmax(axis=-1)))

  def write(self, path: str | os.PathLike, found: dict[str, TextScores]) -> None:
    """Writes what was measured, and some explained texts, wrong ones first, as one HTML file.

    Raises:
      InputError: The file cannot be written.
    """
    wrong = self.logits.argmax(axis=-1) != self.labels
    rows = np.argsort(~wrong, kind="stable")[:MOST_SHOWN]
    heats, words, explained = [], [], []
    for chosen in (rows[wrong[rows]], rows[~wrong[rows]]):
      for heat, own, name in self._shown(chosen):
        heats.append(heat)
        words.append(own)
        explained.append(name)
    render.text_report(
      path,
      f"{type(self.reader.model).__name__} on {self.dataset.name}",
      heats,
      intro=f"Measured on {self.dataset.name}; accuracy {self.accuracy:.2%} on {len(wrong)} texts. "
      "Each metric stands beside what random scores and an oracle get on the same texts. Below: "
      f"{min(int(wrong.sum()), MOST_SHOWN)} of the predictions that are wrong, then right ones; "
      "of a wrong one, the predicted class is explained rather than the label, of a right one the "
      "class.",
      summary=_rows(found),
      influential=words_by_class(words, explained),
    )

  def _shown(self, rows: np.ndarray) -> Iterator[tuple[render.TextHeat, list[Word], str]]:
    """Explains texts, all predicted wrong or all right: (heat map, words, what is explained)."""
    if not len(rows):
      return
    shown = self.dataset.chosen(rows, self.dataset.name)
    predicted, labels = self.logits[rows].argmax(-1), self.labels[rows]
    wrong = bool((predicted != labels).any())
    ex = self._explained(shown, Contrast(predicted, labels) if wrong else predicted)
    for i, (target, label) in enumerate(zip(predicted, labels, strict=True)):
      names = self.reader.name_of(int(target)), self.reader.name_of(int(label))
      explained = f"{names[0]} rather than {names[1]}" if wrong else names[0]
      title = f"predicted {names[0]}, labelled {names[1]}"
      title += f": why {explained}" if wrong else ""
      kind = kinds.kind_of(ex, (i,))
      words = ex.words(i)
      yield render.text_heat(shown.texts[i], words, title=title, kind=kind), words, explained

  def _play(self) -> metrics.SequencePointingScores:
    reader, context = self.reader, self.reader.model.context_length
    length = self.choices.length or (context + 1) // 2
    if 2 * length - 1 > context:
      raise InputError(
        f"Pairs of texts of {length} tokens have {2 * length - 1}, expected at most {context}, the "
        "network's context.",
        f"Set --length={(context + 1) // 2} or less.",
      )
    batch = dataclasses.replace(reader, length=length, truncate=True).read(self.dataset.texts)
    pairs = metrics.text_pairs(
      self._task,
      batch.ids,
      batch.mask > 0,
      self._predicted(batch),
      self.labels,
      fill=self.choices.published,
      num_pairs=self.choices.num_pairs,
    )
    size = self.choices.batch_size
    explain = methods.explain_with(reader.model, reader.variables, batch_size=size)
    return metrics.sequence_pointing_game(explain, pairs)

  def _curve(self, name: str, ex: TextExplanation) -> metrics.TokenCurves:
    options = {"batch_size": self.choices.batch_size, "oracle": self.choices.oracle}
    how = metrics.TokenPerturbation(**options)
    if self.choices.published:
      how = metrics.TokenPerturbation.published(**options)
    ids, mask, found, classes = map(np.asarray, (ex.ids, ex.mask, ex.contributions, ex.target))
    return _CURVES[name](self._task, ids, mask > 0, found, classes, how)

  def _predicted(self, batch: TextBatch) -> np.ndarray:
    size = self.choices.batch_size
    return methods.logits_of(self._task, batch.ids, batch.mask > 0, size)

  def _explained(
    self, dataset: TextDataset, targets: np.ndarray | Contrast | None
  ) -> TextExplanation:
    return self.reader.explain(dataset.texts, targets, batch_size=self.choices.batch_size)


def _rows(found: dict[str, TextScores]) -> list[tuple[str, ...]]:
  rows = [("metric", "mean", "standard error", "random scores", "oracle", "scored")]
  for name, scores in found.items():
    oracle = "" if scores.oracle is None else f"{scores.oracle:.4g}"
    error = f"{scores.standard_error:.2g}" if len(scores.scores) > 1 else ""
    numbers = (f"{scores.mean:.4g}", error, f"{scores.random:.4g}")
    rows.append((name, *numbers, oracle, str(len(scores.scores))))
  return rows if found else []

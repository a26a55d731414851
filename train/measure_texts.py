"""The metrics of classified texts, by name: what `bcos-jax evaluate` prints of language models."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os

import numpy as np

from bcos_jax import metrics, render
from bcos_jax.attribution import texts as methods
from bcos_jax.errors import InputError, unknown_name
from bcos_jax.metrics import TextScores
from bcos_jax.models import TextDecoder
from bcos_jax.telling_words import telling_words
from bcos_jax.text_explanation import TextExplanation
from bcos_jax.text_reader import TextReader
from bcos_jax.tokens import marked_tokens

from .data import TextDataset
from .feeds.feed import check_classes

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
MOST_SHOWN = 20
"""Texts in a report."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextChoices:
  """What to measure, and how.

  Attributes:
    names: Of `NAMES`.
    num_texts: Most texts to measure explanations on, evenly spread over the data set.
    num_pairs: Most pairs of the sequence pointing game, which chooses its texts from all.
    batch_size: Texts at a time.
    published: Comprehensiveness and sufficiency as B-cos LM has them, see `TokenPerturbation`;
      else the textbook's mean.
  """

  names: tuple[str, ...]
  num_texts: int = 128
  num_pairs: int = 250
  batch_size: int = 32
  published: bool = False

  def __post_init__(self):
    for name in self.names:
      if name not in NAMES:
        raise unknown_name("metric of texts", name, NAMES)


class MeasuredTexts:
  """A network on a data set: predictions are made once, explanations when they are asked for.

  Attributes:
    reader: The network.
    dataset: The texts.
    choices: What to measure.
    logits: Of all texts, float32 [N, C].
  """

  def __init__(self, reader: TextReader, dataset: TextDataset, choices: TextChoices):
    """Predicts all texts.

    Raises:
      InputError: A network that classifies no texts, or other classes than those of the texts;
        texts that cannot be read; texts without rationales, if these are asked for.
    """
    if isinstance(reader.model, TextDecoder) or reader.model.task != "classify":
      raise InputError(
        f"The {type(reader.model).__name__} predicts tokens, expected classes of texts.",
        "Evaluate a network that was fine-tuned to classify.",
      )
    if dataset.labels is None:
      raise InputError(f"{dataset.name} has no labels.", "Name another split or column.")
    check_classes(reader.model, dataset.label_names, dataset.name)
    if "rationales" in choices.names and dataset.spans is None:
      raise InputError(
        f"{dataset.name} does not say which words decide, which rationales needs.",
        "Use reviews, or JSON lines with spans, or leave rationales out.",
      )
    self.reader, self.dataset, self.choices = reader, dataset, choices
    self._batch = reader.read(dataset.texts)
    self._task = methods.reader_task(reader)
    ids, mask = self._batch.ids, self._batch.mask > 0
    self.logits = methods.logits_of(self._task, ids, mask, choices.batch_size)

  @property
  def accuracy(self) -> float:
    """Share of all texts that are classified as they are labelled."""
    return float(np.mean(self.logits.argmax(axis=-1) == self.dataset.labels))

  def measure(self) -> Iterator[tuple[str, TextScores]]:
    """Measures explanations of the labelled classes.

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
    ex, marked = self._explained()
    targets, mask = np.asarray(ex.target), np.asarray(ex.mask) > 0
    for name in names:
      if name == "rationales":
        for title, measure in _RATIONALES.items():
          yield title, measure(ex.contributions, marked, ~ex.batch.special)
      elif name == "completeness":
        yield name, metrics.token_completeness(ex)
      else:
        size = self.choices.batch_size
        how = metrics.TokenPerturbation(batch_size=size)
        if self.choices.published:
          how = metrics.TokenPerturbation.published(batch_size=size)
        yield name, _CURVES[name](self._task, ex.ids, mask, ex.contributions, targets, how)

  def write(self, path: str | os.PathLike, found: dict[str, TextScores]) -> None:
    """Writes what was measured, and some explained texts, wrong ones first, as one HTML file.

    Raises:
      InputError: The file cannot be written.
    """
    wrong = self.logits.argmax(axis=-1) != self.dataset.labels
    rows = np.argsort(~wrong, kind="stable")[:MOST_SHOWN]
    texts = [self.dataset.texts[i] for i in rows]
    ex = self.reader.explain(texts, batch_size=self.choices.batch_size)
    words = [ex.words(i) for i in range(len(texts))]
    name = self.reader.name_of
    heats = [
      render.text_heat(
        text, own, title=f"predicted {name(target)}, labelled {name(self.dataset.labels[row])}"
      )
      for text, own, target, row in zip(texts, words, ex.target, rows, strict=True)
    ]
    telling = telling_words(words, least=2, order="for")
    render.text_report(
      path,
      f"{type(self.reader.model).__name__} on {self.dataset.name}",
      heats,
      intro=f"Measured on {self.dataset.name}; accuracy {self.accuracy:.2%} on {len(wrong)} texts. "
      "Each metric stands beside what random scores and an oracle get on the same texts. Below: "
      f"{min(int(wrong.sum()), MOST_SHOWN)} of the predictions that are wrong, then right ones; "
      "the class that was predicted is explained.",
      summary=_rows(found),
      telling={"Words for the predicted class": telling} if telling else {},
    )

  def _play(self) -> metrics.SequencePointingScores:
    pairs = metrics.text_pairs(
      self._task,
      self._batch.ids,
      self._batch.mask > 0,
      self.logits,
      self.dataset.labels,
      fill=False,
      num_pairs=self.choices.num_pairs,
    )
    explain = methods.explain_with(
      self.reader.model, self.reader.variables, batch_size=self.choices.batch_size
    )
    return metrics.sequence_pointing_game(explain, pairs)

  def _explained(self) -> tuple[TextExplanation, np.ndarray | None]:
    """Returns the explanations of some texts, and which of their tokens decide, bool [N, L]."""
    last = len(self.dataset) - 1
    rows = np.unique(np.linspace(0, last, self.choices.num_texts).astype(int))
    some = self.dataset.chosen(rows, self.dataset.name)
    ex = self.reader.explain(some.texts, some.labels, batch_size=self.choices.batch_size)
    return ex, None if some.spans is None else marked_tokens(ex.batch, some.spans)


def _rows(found: dict[str, TextScores]) -> list[tuple[str, ...]]:
  rows = [("metric", "mean", "standard error", "random scores", "oracle", "scored")]
  for name, scores in found.items():
    oracle = "" if scores.oracle is None else f"{scores.oracle:.4g}"
    numbers = (f"{scores.mean:.4g}", f"{scores.standard_error:.2g}", f"{scores.random:.4g}")
    rows.append((name, *numbers, oracle, str(len(scores.scores))))
  return rows if found else []

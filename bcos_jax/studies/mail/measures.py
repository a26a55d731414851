"""What the study of mail measures of a classifier: its predictions, and explanations of them."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools

import jax
import numpy as np

from ... import TextReader, metrics
from ...attribution import text as methods
from ...batches import in_batches
from ...ops import BcosOps
from ...text.words import TextBatch
from .mails import LABELS

OWN = "B-cos"
CHEAP = ("attention_mean", "saliency", "input_x_gradient", "integrated_gradients", "occlusion")
"""Post-hoc methods that are compared; the others take many more passes, or are variants."""
LEFT_OUT = tuple(name for name in methods.names() if name not in CHEAP)
SHARES = (0.1, 0.3, 0.5)
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Verdicts:
  """What a classifier predicts of mails.

  Attributes:
    probabilities: float64 [N, 2], by the loss that the network learned with.
    labels: int [N].
  """

  probabilities: np.ndarray
  labels: np.ndarray

  @property
  def right(self) -> np.ndarray:
    """bool [N]."""
    return self.probabilities.argmax(axis=1) == self.labels

  @property
  def accuracy(self) -> float:
    return float(self.right.mean())

  @property
  def accuracy_error(self) -> float:
    """The standard error of the accuracy."""
    return float((self.accuracy * (1 - self.accuracy) / len(self.labels)) ** 0.5)

  @property
  def calibration_error(self) -> float:
    return metrics.expected_calibration_error(self.probabilities, self.labels)

  @property
  def brier(self) -> tuple[float, float]:
    """The Brier score and its standard error."""
    scores = metrics.brier_scores(self.probabilities, self.labels)
    return float(scores.mean()), float(scores.std(ddof=1) / len(scores) ** 0.5)


def predicted(reader: TextReader, batch: TextBatch, labels: np.ndarray, ids=None) -> Verdicts:
  """Returns what a network predicts of texts, or of other token ids [N, L] in their place."""
  rows = (batch.ids if ids is None else ids), batch.mask > 0
  apply = _applied(reader.model)
  logits = in_batches(lambda b: apply(reader.variables, *b), rows, _BATCH, precision=None)
  return Verdicts(probabilities_of(logits, bcos=isinstance(reader.model.ops, BcosOps)), labels)


def probabilities_of(logits: np.ndarray, *, bcos: bool) -> np.ndarray:
  """Returns probabilities float64 [N, C] that sum to 1, as the loss of a network means them.

  Args:
    logits: [N, C].
    bcos: Whether each logit is a log odds (binary cross-entropy), whose sigmoids are divided by
      their sum; otherwise the softmax.
  """
  logits = np.asarray(logits, np.float64)
  # Sigmoids in logarithms: large logits neither overflow nor leave a sum of 0.
  logs = -np.logaddexp(0, -logits) if bcos else logits
  shares = np.exp(logs - logs.max(axis=1, keepdims=True))
  return shares / shares.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=8)
def _applied(model):
  return jax.jit(lambda variables, ids, mask: model.apply(variables, ids, mask=mask))


def explainers(reader: TextReader, *, post_hoc: bool, path_steps: int) -> dict[str, Callable]:
  """Returns explanations of a network by name, each (ids, mask, targets) -> scores [N, L].

  Args:
    reader: The network; of a B-cos network its own explanation comes first.
    post_hoc: Whether `CHEAP` follow.
    path_steps: Of integrated gradients.
  """
  found: dict[str, Callable] = {}
  if isinstance(reader.model.ops, BcosOps):
    found[OWN] = methods.explain_with(reader.model, reader.variables)
  task = methods.reader_task(reader)
  for name in CHEAP if post_hoc else ():
    settings = {"steps": path_steps} if name == "integrated_gradients" else {}
    found[name.replace("_", " ")] = methods.attribute_with(name, task, **settings)
  return found


def faithfulness(
  reader: TextReader, batch: TextBatch, explain: Callable
) -> dict[str, metrics.TextScores]:
  """Returns comprehensiveness and sufficiency of an explanation of the predicted classes."""
  task, mask = methods.reader_task(reader), batch.mask > 0
  how = metrics.TokenPerturbation(fractions=SHARES, oracle=False, batch_size=_BATCH)
  logits = methods.logits_of(task, batch.ids, mask)
  targets = np.asarray(logits).argmax(axis=1)
  scores = np.asarray(explain(batch.ids, mask, targets))
  taken = (task, batch.ids, mask, scores, targets, how)
  return {
    "comprehensiveness": metrics.token_comprehensiveness(*taken),
    "sufficiency": metrics.token_sufficiency(*taken),
  }


SPAM = LABELS.index("spam")

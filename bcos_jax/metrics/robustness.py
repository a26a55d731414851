"""Robustness of predictions and explanations to attacks and corruptions."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import numpy as np

from ..errors import InputError, unknown_name
from ..inputs import check_images
from .grid_pointing import attribute_with
from .scores import Explainer, Scores, check_targets, logits_of, maps_of
from .similarities import SIMILARITIES, compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessScores(Scores):
  """Similarities of explanations, and predictions, before and after a change; see `robustness`.

  What concerns predictions counts all N images, also those whose explanations have no score.

  Attributes:
    targets: int [N], the true classes.
    predictions: int [N], for the clean images.
    changed_predictions: int [N], for the changed ones.
    largest: float [N], the largest change of a colour value (the distance in "linf").
    lengths: float [N], the length of the change over the whole image (the distance in "l2").
  """

  targets: np.ndarray
  predictions: np.ndarray
  changed_predictions: np.ndarray
  largest: np.ndarray
  lengths: np.ndarray

  @property
  def num_correct(self) -> int:
    """Clean images that are classified rightly: those that an attack can succeed on."""
    return int((self.predictions == self.targets).sum())

  @property
  def num_changed_correct(self) -> int:
    """Changed images that are classified rightly."""
    return int((self.changed_predictions == self.targets).sum())

  @property
  def num_kept(self) -> int:
    """Images whose prediction stayed, right or wrong."""
    return int((self.predictions == self.changed_predictions).sum())

  @property
  def num_successes(self) -> int:
    """Images that were classified rightly before, and wrongly after the change."""
    before, after = (p == self.targets for p in (self.predictions, self.changed_predictions))
    return int((before & ~after).sum())

  @property
  def accuracy(self) -> float:
    return self.num_correct / self.num_images

  @property
  def changed_accuracy(self) -> float:
    return self.num_changed_correct / self.num_images

  @property
  def kept(self) -> float:
    """The share of all images whose prediction stayed."""
    return self.num_kept / self.num_images

  @property
  def success(self) -> float:
    """The share of rightly classified images that the change turned; NaN if there are none."""
    return self.num_successes / self.num_correct if self.num_correct else float("nan")

  @property
  def mean_kept(self) -> float:
    """Mean similarity where the prediction stayed; NaN if it never stayed."""
    return self._mean_of(self.predictions == self.changed_predictions)

  @property
  def mean_turned(self) -> float:
    """Mean similarity where the prediction changed; NaN if it never changed."""
    return self._mean_of(self.predictions != self.changed_predictions)

  def _mean_of(self, which: np.ndarray) -> float:
    scores = self.scores[which[self.images]]
    return float(scores.mean()) if len(scores) else float("nan")

  def summary(self) -> dict[str, float]:
    """As for all scores, and everything about the predictions."""
    return super().summary() | {
      "mean_kept": self.mean_kept,
      "mean_turned": self.mean_turned,
      "accuracy": self.accuracy,
      "changed_accuracy": self.changed_accuracy,
      "kept": self.kept,
      "success": self.success,
      "num_correct": self.num_correct,
      "num_changed_correct": self.num_changed_correct,
      "num_kept": self.num_kept,
      "num_successes": self.num_successes,
      "not attacked: classified wrongly before": self.num_images - self.num_correct,
      "largest_change": float(self.largest.max()),
      "mean_length": float(self.lengths.mean()),
    }


def robustness(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: np.ndarray,
  changed: np.ndarray,
  targets: np.ndarray,
  explainer: Explainer | None = None,
  *,
  similarity: str = "spearman",
  batch_size: int = 16,
  seed: int = 0,
) -> RobustnessScores:
  """Compares predictions and explanations of images with those of the same images, changed.

  A score is the similarity of an image's explanation before and after, both of its true class,
  whatever is predicted (arXiv 1710.10547 compares explanations so, by rank correlation). High
  is good if the change leaves the picture's meaning, as attacks and corruptions do. The oracle,
  an explanation that stays, scores 1; `random_scores` compare the explanation before with noise.
  Where a prediction was turned, an explanation that stays may also be blind to what turned it:
  `mean_kept` and `mean_turned` say how similarity differs between the two.

  Args:
    model, variables: The network.
    images: [N, H, W, colors] in [0, 1].
    changed: The same after a change, e.g. by `fgsm`, `pgd` or `corrupt`; in [0, 1].
    targets: int [N], the true classes.
    explainer: (images, targets) -> maps [N, H, W]; None for the network's own explanations.
    similarity: "spearman" of signed values, "cosine" or "ssim".
    batch_size: Images at once.
    seed: Of the random maps.

  Returns:
    Similarities. Excluded are images with a map, before or after, that the similarity is not
    defined for, such as a flat one. Wrongly classified images count in accuracies, but not for
    `success`.

  Raises:
    InputError: Inputs that cannot be used, an unknown similarity, or nothing that can be scored.
  """
  images, changed = _check_pairs(model, images, changed, similarity)
  targets = check_targets(targets, len(images))
  before, after = (logits_of(model, variables, x, batch_size) for x in (images, changed))
  check_targets(targets, len(images), before.shape[1])
  explainer = attribute_with(model, variables) if explainer is None else explainer
  first, second = (maps_of(explainer, x, targets, batch_size) for x in (images, changed))
  difference = (changed.astype(np.float64) - images).reshape(len(images), -1)
  return compared(
    RobustnessScores,
    similarity,
    first,
    second,
    oracle=1.0,
    seed=seed,
    higher_is_better=True,
    targets=targets,
    predictions=before.argmax(axis=1),
    changed_predictions=after.argmax(axis=1),
    largest=np.abs(difference).max(axis=1),
    lengths=np.linalg.norm(difference, axis=1),
  )


def _check_pairs(
  model: nn.Module, images: np.ndarray, changed: np.ndarray, similarity: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns images and the same images, changed, checked; raises InputError."""
  if similarity not in SIMILARITIES:
    raise unknown_name("similarity", similarity, SIMILARITIES)
  images, changed = (check_images(x, model.ops.encoding) for x in (images, changed))
  if images.shape != changed.shape:
    raise InputError(
      f"Images have shape {images.shape}, changed ones {changed.shape}, expected the same.",
      "Pass each image and its changed version at the same index.",
    )
  return images, changed

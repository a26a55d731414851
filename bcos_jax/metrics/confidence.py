"""Whether a classifier's probabilities can be believed: calibration error and Brier score."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .scores import check_count, check_targets

_SLACK = 1e-3  # by which float32 probabilities may miss a sum of 1


def expected_calibration_error(
  probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 15
) -> float:
  """Returns the mean gap between confidence and accuracy (Guo et al., arXiv 1706.04599, eq. 3).

  The confidence of an input is the probability of its predicted class. Inputs are sorted into bins
  of equal width by confidence, ((m-1)/M, m/M]; the gap of a bin is |accuracy - mean confidence|,
  and counts by its share of the inputs. It has no expectation of 0: a few inputs in a bin leave a
  gap by chance, even where probabilities are right.

  Args:
    probabilities: [N, C], rows that sum to 1.
    labels: int [N].
    bins: How many, M; 15 as published.

  Returns:
    A number in [0, 1], 0 is best.

  Raises:
    InputError: Rows that are no probabilities, labels that do not fit, or no bin.
  """
  check_count("bins", bins)
  probabilities, labels = _checked(probabilities, labels)
  confidence = probabilities.max(axis=1)
  right = probabilities.argmax(axis=1) == labels
  places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
  gaps = np.bincount(places, weights=right - confidence, minlength=bins)
  return float(np.abs(gaps).sum() / len(labels))


def brier_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns squared distances of probabilities to the labels; their mean is the Brier score.

  Brier (1950): the sum over classes of (p - y)^2, y being 1 for the class of the label and 0 for
  others. It is 0 at best and 2 at worst; with two classes, twice what is also called by that name.

  Args:
    probabilities: [N, C], rows that sum to 1.
    labels: int [N].

  Returns:
    float64 [N].

  Raises:
    InputError: Rows that are no probabilities, or labels that do not fit.
  """
  probabilities, labels = _checked(probabilities, labels)
  wanted = np.eye(probabilities.shape[1])[labels]
  return ((probabilities - wanted) ** 2).sum(axis=1)


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  probabilities = np.asarray(probabilities, np.float64)
  if probabilities.ndim != 2 or not probabilities.size:
    raise InputError(
      f"The probabilities have shape {probabilities.shape}, expected [N, C].",
      "Give one row per input, one column per class.",
    )
  sums = probabilities.sum(axis=1)
  wrong = ~(np.abs(sums - 1) <= _SLACK) | ~(probabilities >= 0).all(axis=1)
  if wrong.any():
    row = int(np.argmax(wrong))
    raise InputError(
      f"Row {row} of the probabilities is {probabilities[row]}, expected numbers of at least 0 "
      "that sum to 1.",
      "Pass logits through softmax, or sigmoids divided by their sum.",
    )
  return probabilities, check_targets(labels, len(probabilities), probabilities.shape[1])

"""Calibration error and Brier score, against cases worked out by hand."""

import numpy as np
import pytest

from bcos_jax import InputError, metrics

# Confidences 0.9, 0.8, 0.6, 0.7; the second and the last are wrong.
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
LABELS = np.array([0, 0, 1, 1])


def test_calibration_error_of_two_bins_by_hand():
  """All lie in (0.5, 1]: accuracy 1/2, mean confidence 3/4."""
  assert metrics.expected_calibration_error(PROBABILITIES, LABELS, bins=2) == pytest.approx(0.25)


def test_calibration_error_weighs_bins_by_their_inputs():
  """Of five bins (0.4, 0.6] has one right, (0.6, 0.8] two wrong, (0.8, 1] one right."""
  expected = (abs(1 - 0.6) + 2 * abs(0 - 0.75) + abs(1 - 0.9)) / 4
  found = metrics.expected_calibration_error(PROBABILITIES, LABELS, bins=5)
  assert found == pytest.approx(expected)


def test_calibration_error_is_zero_where_confidence_is_accuracy():
  labels = np.array([0, 0, 0, 1])
  assert metrics.expected_calibration_error(np.tile([0.75, 0.25], (4, 1)), labels) == 0
  assert metrics.expected_calibration_error(np.eye(2)[labels], labels) == 0


def test_brier_scores_by_hand():
  found = metrics.brier_scores(PROBABILITIES, LABELS)
  np.testing.assert_allclose(found, [2 * 0.01, 2 * 0.64, 2 * 0.16, 2 * 0.49])
  wrong = metrics.brier_scores(np.array([[0.0, 1.0, 0.0]]), np.array([2]))
  np.testing.assert_array_equal(wrong, [2])


@pytest.mark.parametrize("measure", [metrics.expected_calibration_error, metrics.brier_scores])
@pytest.mark.parametrize(
  ("probabilities", "labels", "said"),
  [
    (np.array([[2.0, -1.0]]), [0], "Row 0"),
    (np.array([[0.5, 0.5], [0.5, 0.4]]), [0, 1], "Row 1"),
    (np.array([[np.nan, 1.0]]), [0], "Row 0"),
    (np.zeros((0, 2)), [], r"\[N, C\]"),
    (np.array([0.5, 0.5]), [0, 1], r"\[N, C\]"),
    (np.array([[0.5, 0.5]]), [2], "targets span 2 to 2"),
    (np.array([[0.5, 0.5]]), [0, 1], r"expected integers \(1,\)"),
  ],
)
def test_what_is_no_probability_is_refused(measure, probabilities, labels, said):
  with pytest.raises(InputError, match=said):
    measure(probabilities, np.array(labels, int))


def test_a_bin_is_needed():
  with pytest.raises(InputError, match="bins=0"):
    metrics.expected_calibration_error(PROBABILITIES, LABELS, bins=0)

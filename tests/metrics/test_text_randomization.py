"""Sanity checks of explanations of texts: by hand, on a class-conditional toy, with bad input."""

import numpy as np
import pytest

from bcos_jax import metrics

from .test_metrics import refused


def test_similarities_by_hand():
  scores = np.array([[9.0, 1, 2, 3, 9], [9, 1, 2, 3, 9], [9, 1, 2, 9, 9], [9, 5, 5, 5, 9]])
  changed = np.array([[0.0, 2, 4, 8, 5], [0, 3, 2, 1, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 5]])
  counted = np.array([[0, 1, 1, 1, 0]] * 2 + [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
  found = metrics.token_randomization(scores, changed, counted)
  np.testing.assert_allclose(found.scores, [1, -1])
  assert found.texts.tolist() == [0, 1] and found.oracle == 0 and not found.higher_is_better
  assert found.excluded == {
    "fewer than 3 tokens that count": 1,
    "the same score on every token": 1,
  }


def test_an_explanation_of_the_class_is_told_from_one_of_the_text():
  random = np.random.default_rng(0)
  table = random.standard_normal((50, 4))  # what a token says for a class
  ids, targets = random.integers(0, 50, (40, 12)), random.integers(0, 4, 40)
  others = metrics.other_targets(targets, 4)
  counted = np.ones(ids.shape, bool)

  def of_class(classes):
    return table[ids, classes[:, None]]

  conditional = metrics.token_randomization(of_class(targets), of_class(others), counted)
  blind = np.abs(table).max(axis=1)[ids]
  same = metrics.token_randomization(blind, blind, counted)
  assert abs(conditional.mean) < 0.15 and abs(conditional.random) < 0.15
  assert same.mean == pytest.approx(1)
  # A head whose classes were permuted, as trained on permuted labels.
  permuted = table[:, [1, 2, 3, 0]][ids, targets[:, None]]
  assert abs(metrics.token_randomization(of_class(targets), permuted, counted).mean) < 0.15


def test_other_targets_are_others():
  targets = np.arange(300) % 3
  others = metrics.other_targets(targets, 3)
  assert (others != targets).all() and set(others) == {0, 1, 2}
  assert (metrics.other_targets(np.zeros(5, int), 2) == 1).all()
  assert (metrics.other_targets(targets, 3, seed=1) != others).any()


def test_bad_randomizations_are_refused():
  scores, counted = np.random.default_rng(0).random((2, 4)), np.ones((2, 4), bool)
  refused(lambda: metrics.token_randomization(scores, scores[:, :3], counted), "(2, 3)", "(2, 4)")
  refused(lambda: metrics.token_randomization(scores, scores * np.nan, counted), "NaN")
  refused(lambda: metrics.token_randomization(scores, scores, counted[:1]), "(1, 4)")
  refused(lambda: metrics.token_randomization(scores, scores, ~counted), "None of 2 texts")
  refused(lambda: metrics.other_targets(np.zeros(2, int), 1), "num_classes=1")
  refused(lambda: metrics.other_targets(np.array([3]), 3), "3")

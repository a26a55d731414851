"""Metrics of explanations of texts: by hand, at their maximum, at chance, and with bad input."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from bcos_jax import metrics
from bcos_jax.attribution import text as methods
from bcos_jax.errors import InputError
from bcos_jax.metrics import TokenPerturbation
from bcos_jax.metrics.text.perturbation import counts_of
from bcos_jax.metrics.text.rationales import spans_of

from .. import text_tasks as toys

IDS, MASK = toys.texts((14, 9, 5), seed=1)
SPECIAL = np.isin(IDS, toys.SPECIAL)
BOTH = (metrics.token_comprehensiveness, metrics.token_sufficiency)


def refused(call, *words):
  with pytest.raises(InputError) as caught:
    call()
  message = str(caught.value)
  assert all(word in message for word in words), message
  assert caught.value.fix


# Taking tokens away.


def by_hand(table, scores, target, fractions, *, keep, specials, delete=False):
  """Probabilities of the target, text by text and fraction by fraction."""
  curves = np.zeros((len(IDS), len(fractions)))
  for i, (ids, mask) in enumerate(zip(IDS, MASK, strict=True)):
    real = ids[mask]
    free = [j for j, token in enumerate(real) if token not in toys.SPECIAL]
    order = sorted(free, key=lambda j: -scores[i, j])
    for f, fraction in enumerate(fractions):
      first = set(order[: max(1, int(fraction * (len(real) - 2)))])
      gone = [
        j not in first and (specials or j in free) if keep else j in first for j in range(len(real))
      ]
      text = np.where(gone, toys.MASK, real)
      if delete:
        text = real[~np.array(gone)]
      curves[i, f] = special.softmax(table[text].sum(0))[target[i]]
  return curves


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("variant", ["published", "corrected", "deleting"])
def test_perturbation_by_hand(keep, variant):
  task, table = toys.linear()
  scores = np.random.default_rng(3).standard_normal(IDS.shape)
  how = TokenPerturbation.published(batch_size=16)
  if variant != "published":
    fractions = (0.25, 0.5, 0.75)
    removal = "delete" if variant == "deleting" else "mask"
    how = TokenPerturbation(fractions=fractions, removal=removal, batch_size=16)
  logits = (table[IDS] * MASK[..., None]).sum(1)
  target = logits.argmax(1)
  result = BOTH[keep](task, IDS, MASK, scores, None, how)
  expected = by_hand(
    table,
    scores,
    target,
    how.fractions,
    keep=keep,
    specials=variant == "published",
    delete=variant == "deleting",
  )
  np.testing.assert_allclose(result.curves, expected, atol=1e-6)
  whole = special.softmax(logits, axis=1)[np.arange(3), target]
  np.testing.assert_allclose(result.start, whole, atol=1e-6)
  losses = whole[:, None] - expected
  if variant == "published":
    np.testing.assert_allclose(result.scores, np.trapezoid(losses, dx=0.1), atol=1e-6)
  else:
    np.testing.assert_allclose(result.scores, losses.mean(1), atol=1e-6)
  assert result.higher_is_better is not keep


@pytest.mark.parametrize("measure", BOTH)
def test_perturbation_oracle_of_a_linear_network(measure):
  task, _ = toys.linear()
  how = TokenPerturbation(score="logit", fractions=(0.2, 0.4, 0.6))
  explain = methods.attribute_with("input_x_gradient", task)
  result = measure(task, IDS, MASK, explain, 1, how)
  np.testing.assert_allclose(result.scores, result.oracle_scores, atol=1e-5)
  sign = 1 if result.higher_is_better else -1
  assert (sign * result.scores >= sign * result.random_scores - 1e-6).all()
  without = measure(task, IDS, MASK, explain, 1, dataclasses.replace(how, oracle=False))
  assert without.oracle is None and np.array_equal(without.scores, result.scores)
  assert set(result.summary()) == {
    "mean", "standard_error", "random", "oracle", "num_scored", "num_texts"
  }  # fmt: skip


def test_perturbation_counts_and_excludes():
  tokens = np.array([1, 9, 10, 30])
  fractions = np.arange(1, 10) / 10
  whole = [[max(1, tenth * int(n) // 10) for tenth in range(1, 10)] for n in tokens]
  assert counts_of(fractions, tokens).tolist() == whole
  assert counts_of(np.linspace(0.1, 0.9, 9), tokens).tolist() == whole
  task, _ = toys.linear()
  ids = IDS.copy()
  ids[2, 1:4] = toys.SEP
  result = metrics.token_sufficiency(task, ids, MASK, np.zeros(IDS.shape), 0)
  assert result.texts.tolist() == [0, 1]
  assert result.summary()["excluded: no token that is not special"] == 1
  refused(
    lambda: metrics.token_sufficiency(task, ids[2:], MASK[2:], np.zeros((1, 16)), 0),
    "None of 1 texts",
  )


def test_perturbation_refuses():
  task, _ = toys.linear()
  nan = np.full(IDS.shape, np.nan)
  refused(lambda: metrics.token_sufficiency(task, IDS, MASK, nan, 0), "NaN")
  refused(lambda: metrics.token_sufficiency(task, IDS, MASK, nan[:, 1:], 0), "(3, 15)", "(3, 16)")
  refused(lambda: metrics.token_sufficiency(task, IDS, MASK, nan, [[0, 1]] * 3), "one class per")
  refused(lambda: TokenPerturbation(measure="mean"), "Unknown measure")
  refused(lambda: TokenPerturbation(removal="cut"), "Unknown removal")
  refused(lambda: TokenPerturbation(fractions=(0.5, 0.2)), "rising")


# The sequence pointing game.


def play(length=8, count=40, **settings):
  task, _ = toys.linear()
  random = np.random.default_rng(0)
  ids, mask = toys.texts((length,) * count, length=length)
  logits = np.asarray(task.predict(ids, mask))
  labels = np.where(random.random(count) < 0.8, logits.argmax(1), (logits.argmax(1) + 1) % 3)
  return task, ids, logits, labels, metrics.text_pairs(task, ids, mask, logits, labels, **settings)


def test_pairs_are_confident_texts_of_two_classes():
  _, ids, logits, labels, pairs = play(confidence=0.6)
  assert pairs.ids.shape == (len(pairs), 15) and pairs.mask.all()
  first, second = pairs.indices.T
  assert np.array_equal(pairs.ids[:, :8], ids[first])
  assert np.array_equal(pairs.ids[:, 8:], ids[second, 1:])
  line = [-1, *[0] * 6, -1, *[1] * 6, -1]
  assert (pairs.segments == line).all()
  assert (pairs.classes[:, 0] != pairs.classes[:, 1]).all()
  assert np.array_equal(pairs.classes, labels[pairs.indices])
  probabilities = np.asarray(jax.nn.softmax(logits))
  assert (probabilities[pairs.indices, pairs.classes] > 0.6).all()
  assert len(set(pairs.indices.ravel())) == pairs.indices.size
  # Of each class, the most confident come first.
  for label in range(3):
    used = pairs.indices[pairs.classes == label]
    assert (np.diff(probabilities[used, label]) <= 0).all()
  eligible = {label: len(texts) for label, texts in pairs.selection.images.items()}
  assert pairs.selection.num_eligible == sum(eligible.values()) >= pairs.indices.size


def test_pairs_of_different_lengths():
  task, _ = toys.linear()
  ids, mask = toys.texts((5, 7, 4), length=8)
  logits, labels = np.eye(3)[[0, 1, 0]] * 9, np.array([0, 1, 0])
  refused(lambda: metrics.text_pairs(task, ids, mask, logits, labels), "fills 8 tokens")
  pairs = metrics.text_pairs(task, ids, mask, logits, labels, fill=False)
  assert len(pairs) == 1 and set(pairs.indices[0]) == {0, 1}
  sizes = np.array([5, 7, 4])[pairs.indices[0]]
  assert pairs.mask.sum() == 11
  line = pairs.segments[0]
  assert [(line == side).sum() for side in (0, 1)] == (sizes - 2).tolist()
  assert line[sizes[0] - 1] == -1 and line[-1] == -1


def test_pointing_by_hand():
  _, _, _, _, pairs = play(num_pairs=2)
  assert len(pairs) == 2 and pairs.requested == 2
  scores = np.zeros((2, 2, 15))
  scores[0, 0, 1], scores[0, 0, 9], scores[0, 0, 0] = 3, 1, 50  # the last on [CLS]
  scores[0, 1, 2], scores[0, 1, 10] = -7, 2
  result = metrics.sequence_pointing_game(scores, pairs)
  assert result.by_class.tolist() == [[0.75, 1], [0, 0]] and result.num_empty == 2
  assert result.scores.tolist() == [0.875, 0]
  assert result.uniform_scores.tolist() == [0.5, 0.5] and result.oracle == 1
  assert result.summary()["num_pairs"] == 2
  own = (pairs.segments[:, None] == np.arange(2)[:, None]) * 1.0
  assert metrics.sequence_pointing_game(own, pairs).mean == 1
  refused(lambda: metrics.sequence_pointing_game(scores[:, 0], pairs), "(2, 15)", "(2, 2, 15)")


def test_pointing_with_an_explainer():
  task, _, _, _, pairs = play()
  explain = methods.attribute_with("input_x_gradient", task)
  result = metrics.sequence_pointing_game(explain, pairs)
  assert result.mean > result.random + 0.1
  assert abs(result.random - 0.5) < 4 * result.random_scores.std() / len(pairs) ** 0.5


def test_pairs_refuse():
  task, ids, logits, labels, _ = play()
  mask = np.ones(ids.shape, bool)
  refused(
    lambda: metrics.text_pairs(task, ids, mask, logits, labels * 0), "1 classes; 2 are needed"
  )
  refused(lambda: metrics.text_pairs(task, ids, mask, logits, labels[1:]), "targets are")
  refused(lambda: metrics.text_pairs(task, ids, mask, logits, labels, confidence=2), "confidence=2")


# Rationales.


def test_agreement_by_hand():
  marked = np.array([[0, 1, 1, 0, 0, 1, 0, 0]], bool)
  counted = np.array([[0, 1, 1, 1, 1, 1, 1, 0]], bool)
  scores = np.array([[99.0, 5, 1, 4, 0, 3, -1, 99]])
  f1 = metrics.rationale_token_f1(scores, marked, counted)
  assert f1.mean == pytest.approx(2 / 3)  # of the first three tokens, two are marked
  half = metrics.rationale_token_f1(scores, marked, counted, share=2 / 3)
  assert half.mean == pytest.approx(2 * 3 / (4 + 3)) and half.oracle == pytest.approx(6 / 7)
  # Chosen are tokens 1, 3 and 5; 1 covers half of its span and 5 is one.
  assert metrics.rationale_iou_f1(scores, marked, counted).mean == pytest.approx(0.8)
  strict = metrics.rationale_iou_f1(scores, marked, counted, threshold=0.6)
  assert strict.mean == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
  assert spans_of(np.array([1, 1, 0, 1], bool)) == [(0, 2), (3, 4)]


def test_area_is_scikit_learns():
  random = np.random.default_rng(0)
  scores = random.integers(0, 6, (20, 12)).astype(float)  # with ties
  marked = random.random((20, 12)) < 0.3
  counted = random.random((20, 12)) < 0.9
  result = metrics.rationale_auprc(scores, marked, counted)
  for i, found in zip(result.texts, result.scores, strict=True):
    own = counted[i]
    curve = sklearn_metrics.precision_recall_curve(marked[i, own], scores[i, own])
    assert found == pytest.approx(sklearn_metrics.auc(curve[1], curve[0]))
  assert result.excluded.get("no marked token", 0) == 20 - len(result.texts)
  assert metrics.rationale_auprc(marked * 1.0, marked, counted).mean == 1


@pytest.mark.parametrize(
  "measure", [metrics.rationale_auprc, metrics.rationale_token_f1, metrics.rationale_iou_f1]
)
def test_agreement_bounds_and_refusals(measure):
  random = np.random.default_rng(1)
  marked = random.random((60, 20)) < 0.2
  marked[:, 3] = True
  counted = np.ones_like(marked)
  noise = measure(random.standard_normal(marked.shape), marked, counted)
  spread = 4 * (noise.scores.std() + noise.random_scores.std()) / 60**0.5
  assert abs(noise.mean - noise.random) < spread
  assert measure(marked - 0.5, marked, counted).mean == noise.oracle == 1
  refused(lambda: measure(marked[0], marked, counted), "expected [N, L]")
  refused(lambda: measure(marked * np.nan, marked, counted), "NaN")
  refused(lambda: measure(marked * 1.0, marked[:, 1:], counted), "rationales are bool (60, 19)")
  refused(lambda: measure(marked * 1.0, marked * False, counted), "60 with no marked token")


# Next words.


def test_ranks_by_hand():
  scores = np.array([[9.0, 3, 2, 1], [9, 1, 1, 1], [9, 0, 5, 4], [0, 0, 0, 0]])
  evidence = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
  counted = np.array([[0, 1, 1, 1]] * 4, bool)
  result = metrics.contrastive_ranks(scores, evidence, counted)
  assert result.scores.tolist() == [1 / 2, 1 / 2, 1]  # the tie of three: rank 2 on average
  assert result.excluded == {"no evidence": 1} and result.oracle == 1
  many = np.repeat(evidence[:1], 4000, axis=0)
  random = metrics.contrastive_ranks(np.zeros(many.shape), many, np.repeat(counted[:1], 4000, 0))
  assert random.random == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=0.02)
  refused(lambda: metrics.contrastive_ranks(scores, evidence[1:], counted), "evidence tokens")


def test_probability_gap():
  logits = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
  gap = metrics.probability_gap(logits, np.array([0, 1]), np.array([1, 2]))
  np.testing.assert_allclose(gap, [0.2, -0.5])
  refused(
    lambda: metrics.probability_gap(logits, np.array([0, 3]), np.array([1, 2])), "span 0 to 3"
  )

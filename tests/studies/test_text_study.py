"""The study of texts: its wording of results, and its selection of texts."""

import numpy as np
import pytest

from bcos_jax import InputError, metrics, studies
from bcos_jax.studies import text, text_lab

OWN = (text.OWN, "B-cosified")


def scores(mean, higher=True):
  values = mean + np.array([-0.01, 0.0, 0.01])
  return metrics.TextScores(
    scores=values,
    random_scores=np.full(3, 0.2),
    oracle_scores=np.full(3, 0.9),
    higher_is_better=higher,
    excluded={},
    texts=np.arange(3),
    num_texts=3,
  )


def row(*means):
  return {name: scores(m) for name, m in zip(text.MEASURES, means, strict=True)}


SCORED = {
  OWN: row(0.8, 0.7, 0.6, 0.9, 0.5, 0.1),
  ("lime", "conventional"): row(0.7, 0.75, 0.5, 0.8, 0.9, 0.0),
  ("lime", "B-cosified"): row(0.6, 0.6, 0.5, 0.8, 0.6, 0.2),
}


def test_an_answer_names_what_is_ahead_and_by_how_much():
  """Of comprehensiveness and sufficiency, only methods on the same network count."""
  *measured, why = text.comparison(SCORED)
  said = dict(line.split(": ", 1) for line in measured)
  assert "mask token" in why
  assert "ahead of every post-hoc method; the best is lime, conventional (0.700)" in said["AUPRC"]
  assert "behind lime, conventional (0.750, by +0.050 ± 0.000)" in said["token F1"]
  assert "behind lime, B-cosified (0.600, by +0.100" in said["comprehensiveness"]
  assert "conventional" not in said["comprehensiveness"]
  assert "of those on the same network; the best is lime, B-cosified (0.200)" in said["sufficiency"]


def test_reasons_are_given_only_where_something_is_ahead():
  assert not list(text.reasons({("AUPRC", "lime", "conventional")}))
  (why,) = text.reasons({("pointing", "attn lrp", "B-cosified")})
  assert "AttnLRP" in why


def test_the_table_has_noise_and_oracle():
  table = text.results_table(SCORED)
  assert [line[:2] for line in table.rows[-2:]] == [
    ("random", "B-cosified"),
    ("oracle", "B-cosified"),
  ]
  assert len(table.rows) == len(SCORED) + 2 and table.rows[-2][2] == pytest.approx(0.2)


def test_padding_that_all_share_is_cut():
  mask = np.arange(8) < np.array([[3], [5]])
  marked = text_lab.Marked(np.ones((2, 8), np.int32), mask, mask, np.array([0, 1]), mask)
  cut = text.without_shared_padding(marked)
  assert cut.ids.shape == cut.mask.shape == cut.rationales.shape == (2, 5)
  np.testing.assert_array_equal(cut.labels, [0, 1])


def test_texts_have_a_laboratory_of_their_own(tmp_path):
  with pytest.raises(InputError, match="digits"):
    studies.run("texts", workdir=tmp_path, dataset="digits")
  with pytest.raises(InputError, match="expected none"):
    studies.run("texts", workdir=tmp_path, network="resnet18")

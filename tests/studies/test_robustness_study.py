"""What the study of robustness says of its numbers."""

import numpy as np
import pytest

from bcos_jax import metrics
from bcos_jax.studies.robustness import adapted, plain, summary
from bcos_jax.studies.robustness.rows import ChangeRow


def worst(withstood: dict[str, list[int]]) -> metrics.WorstCase:
  held = {name: np.array(values, bool) for name, values in withstood.items()}
  count = len(next(iter(held.values())))
  return metrics.WorstCase(
    images=np.zeros((count, 1, 1, 1)),
    targets=np.zeros(count, int),
    clean=np.ones(count, bool),
    withstood=held,
  )


def radius(first: float, second: float, epsilon: float = 2 / 255) -> adapted.Radius:
  """Shares of 100 pictures that each network withstands."""
  rows = ([1] * round(100 * share) + [0] * (100 - round(100 * share)) for share in (first, second))
  found = [worst(dict.fromkeys((*adapted._USUAL, "Square"), row)) for row in rows]
  return adapted.Radius(epsilon, (found[0], found[1]))


@pytest.mark.parametrize(
  ("radii", "words", "without"),
  [
    ([radius(0.2, 0.8), radius(0.1, 0.5)], "is supported: it does at every radius", "part"),
    ([radius(0.2, 0.8), radius(0.5, 0.1, 4 / 255)], "only in part", "differ by less"),
    ([radius(0.8, 0.2), radius(0.5, 0.49, 4 / 255)], "is not supported", "withstands more"),
  ],
)
def test_the_verdict_follows_the_worst_case(radii, words, without):
  said = summary.verdict(radii)
  assert words in said and without not in said


def test_a_mixed_verdict_names_the_radii():
  said = summary.verdict([radius(0.2, 0.8), radius(0.5, 0.1, 4 / 255), radius(0, 0, 8 / 255)])
  assert "it withstands more at 2/255, it withstands less at 4/255" in said
  assert "less than 2 standard errors at 8/255" in said


def test_leads_and_what_was_missed_by_hand():
  usual = {name: [1, 1, 1, 0] for name in adapted._USUAL}
  first = worst(usual | {"Square": [1, 1, 1, 1], "transfer from the other network": [1] * 4})
  second = worst(usual | {"APGD, B = 1": [0, 1, 1, 1], "Square": [0, 0, 1, 1]})
  found = adapted.Radius(0.1, (first, second))
  assert found.accuracies() == (0.75, 0.25)
  difference = np.array([-1, -1, 0, 0])
  assert found.lead() == (-0.5, pytest.approx(difference.std(ddof=1) / 2))
  assert found.missed() == (0, 2)
  assert found.found_without_gradient() == (0, 1)


def test_the_answer_has_every_part():
  rows = [
    ChangeRow("none", "", (1.0, 0.9), (1.0, 1.0)),
    *(ChangeRow(name, "1", (0.5, 0.4), (0.5, 0.6)) for name in plain.ATTACKS),
    ChangeRow(adapted.UNBOUNDED, "255/255", (0.0, 0.1)),
    ChangeRow(adapted.MANIPULATED, "2/255", (1.0, 0.9), (0.3, 0.5)),
    ChangeRow(adapted.RANDOM, "2/255", (1.0, 0.9), (0.8, 0.9)),
    ChangeRow("fog", "severity 1", (0.7, 0.6), (0.4, 0.5)),
  ]
  found = [radius(0.2, 0.8), radius(0.3, 0.5, 4 / 255)]
  said = summary.answer(rows, found, ("fog",))
  assert "60.0 ± 4.9 points" in said[1] and said[1].startswith(
    "Worst case at 2/255: accuracy 80.0%"
  )
  assert "unbounded, Auto-PGD leaves 10.0% and 0.0%" in said[3] and "RISES" in said[3]
  assert "2/255 0.50 and 0.30 (random signs 0.90 and 0.80)" in said[4]
  assert said[5].startswith("Mean over plain attacks: accuracy 40.0% B-cosified and 50.0%")
  assert said[6].startswith("Mean over corruptions: accuracy 60.0% B-cosified")
  assert summary.table(rows).markdown().count("\n") == len(rows) + 2


def test_grey_pictures_have_no_saturation():
  assert "saturate" in plain.corruptions(3) and "saturate" not in plain.corruptions(1)
  names = [name for name, *_ in plain.changes("digits", 1, 0)]
  assert names[0] == "none" and "saturate" not in names and "fog" in names
  assert plain.radii("digits") != plain.radii("shape_scenes")

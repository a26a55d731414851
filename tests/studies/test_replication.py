"""The study of B-cosification's claims: what it compares, and its files."""

import csv
import types

import numpy as np
import pytest

from bcos_jax import studies
from bcos_jax.studies.replication import claims, networks
from bcos_jax.studies.replication.networks import (
  BOTH,
  CLOSED,
  CONVENTIONAL,
  PUBLISHED,
  SCRATCH,
  NetworkScores,
)
from bcos_jax.studies.seeds import Mean, curve


def measured(
  accuracy: float, grids: dict[str, float], *history: tuple[int, float]
) -> NetworkScores:
  return NetworkScores(accuracy=accuracy, grids=grids, energy={}, incomplete=1e-7, history=history)


def seed(shift: float) -> dict[str, NetworkScores]:
  own = {"own": 0.9}
  return {
    CONVENTIONAL: measured(0.9, {"grad cam": 0.5, "guided backprop": 0.6}),
    CLOSED: measured(0.8, own),
    PUBLISHED: measured(0.88 + shift, own, (10, 0.7), (20, 0.88 + shift)),
    BOTH: measured(0.89, own, (10, 0.86), (20, 0.89)),
    SCRATCH: measured(0.85, {"own": 0.7}, (10, 0.3), (20, 0.85)),
  }


def test_a_mean_has_its_standard_error():
  mean = Mean.of([1.0, 3.0])
  assert (mean.value, mean.error) == (2.0, pytest.approx(1.0))
  assert Mean.of([1.0]).error is None and Mean.of([1.0]).written(".1f") == "1.0"
  assert curve([(5, mean), (6, Mean(4.0, 0.5))]) == ([5, 6], [2.0, 4.0], [mean.error, 0.5])
  assert curve([(5, mean), (6, Mean(4.0, None))]) == ([5, 6], [2.0, 4.0])


def test_steps_are_those_to_the_end_of_the_network_from_scratch():
  found = seed(0.0)
  assert found[PUBLISHED].first_step(0.85) == 20
  assert found[BOTH].first_step(0.85) == 10
  assert seed(-0.04)[PUBLISHED].first_step(0.85) is None


def test_differences_are_paired_by_seed_and_judged_by_their_error():
  said = claims.accuracies([seed(0.0), seed(0.02)])
  assert f"Accuracy, {BOTH}, less {SCRATCH}: 4.0 ± 0.0 points." in said
  assert f"Accuracy, {PUBLISHED}, less {SCRATCH}: 4.0 ± 1.0 points." in said
  none = "within 2 standard errors of none"
  assert f"Accuracy, {BOTH}, less {PUBLISHED}: 0.0 ± 1.0 points, {none}." in said
  assert none not in "".join(claims.accuracies([seed(0.0)]))  # One seed has no error.


def test_the_best_post_hoc_method_counts():
  said = claims.localisation([seed(0.0), seed(0.02)])
  assert f"Grid pointing, {BOTH}, less the best post-hoc method: 0.300 ± 0.000." in said
  assert f"Grid pointing, {CLOSED}, less from scratch: 0.200 ± 0.000." in said
  assert said[-1].endswith("grad cam 0.500 ± 0.000, guided backprop 0.600 ± 0.000.")


def test_networks_that_cannot_play_are_not_compared():
  lost = seed(0.0) | {SCRATCH: measured(0.1, {}, (10, 0.1), (20, 0.1))}
  said = "\n".join(claims.localisation([seed(0.0), lost]))
  assert "less from scratch" not in said and "less the best post-hoc" in said
  assert claims.mean_of([seed(0.0), lost], lambda found: found[SCRATCH].best_grids) is None


def test_transformers_explain_grids_through_windows():
  lab = types.SimpleNamespace(pictures=types.SimpleNamespace(images=np.zeros((1, 8, 8, 1))))
  ops = types.SimpleNamespace(encoding=types.SimpleNamespace(mean=(0.5,)))
  sides = []

  def explainer(images, targets):
    sides.append(images.shape[1])
    return np.ones((len(images), targets.shape[1], *images.shape[1:3]), np.float32)

  grids, targets = np.zeros((1, 16, 16, 1), np.float32), np.zeros((1, 1), int)
  for layout, expected, seen in ((None, 16, 1.0), ("tokens", 8, 4.0)):
    model = types.SimpleNamespace(token_layout=lambda side, at=layout: at, ops=ops)
    maps = networks.through_windows(lab, model, explainer)(grids, targets)
    assert set(sides) == {expected}
    np.testing.assert_array_equal(maps, np.full((1, 1, 16, 16), seen))  # Every pixel equally often.
    sides.clear()


@pytest.mark.slow
def test_every_network_has_a_row_and_a_map(tmp_path):
  said = []
  found = studies.run(
    "replication",
    workdir=tmp_path,
    dataset="digits",
    network="resnet_tiny",
    seeds=2,
    short=True,
    progress=False,
    say=said.append,
  )
  folder = tmp_path / "findings" / "digits-resnet_tiny-seeds0-1-short" / "replication"
  assert {path.name for path in folder.iterdir()} == {
    "replication.png",
    "replication-maps.png",
    "report.html",
    "study.md",
    "table.csv",
  }
  with open(folder / "table.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [(row["network"], row["steps"]) for row in rows] == [
    (CONVENTIONAL, "30"),
    (CLOSED, "0"),
    (PUBLISHED, "10"),
    (BOTH, "10"),
    (SCRATCH, "10"),
  ]
  assert all(float(row["completeness error"]) < 1e-5 for row in rows)
  assert any(line.startswith("Speed-up") for line in found.answer)

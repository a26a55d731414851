"""The study of short fine-tuning: its races, networks of Fashion-MNIST, and its files."""

import csv
import types

import numpy as np
import pytest

from bcos_jax import InputError, studies
from bcos_jax.studies import Lab
from bcos_jax.studies.closed_form import races, summary
from bcos_jax.studies.closed_form.settings import Variation, crops, variations
from bcos_jax.train import start


def entrant(steps: int, rate: float | None, validation: float | None) -> races.Entrant:
  return races.Entrant(start="s", steps=steps, rate=rate, validation=validation)


def test_rates_are_ranked_within_a_length_by_held_out_pictures():
  entrants = [
    entrant(0, None, None),
    entrant(10, 1e-2, 0.9),
    *(entrant(30, rate, a) for rate, a in ((1e-3, 0.5), (3e-3, 0.7), (1e-2, 0.6))),
  ]
  assert races.best_first(entrants, 30) == [3e-3, 1e-2, 1e-3]
  assert races.best_first(entrants, 10) == [1e-2]
  assert races.best_first(entrants, 0) == []


@pytest.mark.parametrize("recipe", ["conventional", "bcosify", "scratch"])
def test_a_variant_of_the_recipe_is_a_network(recipe, tmp_path):
  lab = Lab(workdir=tmp_path, dataset="fashion_mnist", network="vit", seed=3)
  assert (lab.setting.pretrain, lab.setting.finetune) == (3000, 600)
  config = lab._config(f"fashion_mnist:{recipe}", 7, "--config.optimizer.lr=0.5")
  assert (config.steps, config.seed, config.optimizer.lr) == (7, 3, 0.5)
  network, _ = start.network(config, weights=False)
  assert (network.width, network.depth, network.patch_size) == (96, 4, 7)
  assert network.ops.encoding.pairing == ("none" if recipe == "conventional" else "negated")


def test_networks_of_other_data_sets_are_unknown(tmp_path):
  with pytest.raises(InputError, match="'vit'"):
    Lab(workdir=tmp_path, dataset="digits", network="vit")
  assert Lab(workdir=tmp_path, dataset="fashion_mnist").setting.pretrain == 600


def chosen(start: str, steps: int, accuracy: float, pointing: float | None) -> races.Entrant:
  rate = 1e-3 if steps else None
  return races.Entrant(
    start=start,
    steps=steps,
    rate=rate,
    validation=None,
    accuracy=accuracy,
    pointing=pointing,
    pointing_error=None,
  )


def test_seeds_are_averaged_with_their_standard_error():
  first = [chosen("a", 0, 0.8, 0.5), entrant(10, 1e-2, 0.1), chosen("a", 10, 0.9, None)]
  second = [chosen("a", 0, 0.6, 0.7), chosen("a", 10, 0.9, 0.6)]
  before, after = summary.rows([first, second])
  assert (before.start, before.steps, before.rates) == ("a", 0, ())
  assert before.accuracy.value == pytest.approx(0.7)
  assert before.accuracy.error == pytest.approx(0.1)  # Half the difference of two.
  assert before.pointing.written(".2f") == "0.60 ± 0.10"
  assert after.rates == (1e-3, 1e-3) and after.pointing is None  # One of them could not play.
  assert summary.rows([first])[0].accuracy.error is None
  assert summary.reached([before, after], "a", 0.85) == 10
  assert summary.reached([before, after], "a", 0.95) is None


def test_only_studies_of_seeds_take_several(tmp_path):
  with pytest.raises(InputError, match="3 seeds, expected 1 for options"):
    studies.run("options", workdir=tmp_path, seeds=3)
  with pytest.raises(InputError, match="0 seeds"):
    studies.run("closed-form", workdir=tmp_path, seeds=0)


@pytest.mark.parametrize("colors", [1, 3])
def test_crops_of_photographs_are_pictures_of_the_network(colors):
  pytest.importorskip("sklearn")
  made = crops(5, (24, 20, colors), np.random.default_rng(0))
  assert made.shape == (5, 24, 20, colors) and made.dtype == np.float32
  assert made.min() >= 0 and made.max() <= 1
  assert np.mean([crop.std() for crop in made]) > 0.05  # Some are sky.
  assert np.abs(made[0] - made[1]).mean() > 0.01
  np.testing.assert_array_equal(crops(5, (24, 20, colors), np.random.default_rng(0)), made)


def test_one_setting_changes_at_a_time():
  found = variations(there=1000, short=False)
  usual = Variation()
  assert [one.count for one in found if one.kind == usual.kind and one.b == usual.b] == [
    *(32, 128, 512)  # and no more than there are
  ]
  for one in found:
    changes = [a != b for a, b in zip(vars(one).values(), vars(usual).values(), strict=True)]
    assert sum(changes) <= 1
  assert len(set(found)) == len(found) == 3 + 3 + 5


@pytest.mark.slow
def test_the_study_of_settings_tells_pictures_apart(tmp_path):
  found = studies.run(
    "calibration",
    workdir=tmp_path,
    dataset="digits",
    network="resnet_tiny",
    short=True,
    progress=False,
    say=lambda line: None,
  )
  rows = [dict(zip(found.table.columns, row, strict=True)) for row in found.table.rows]
  assert [(row["pictures"], row["number"], row["B"]) for row in rows] == [
    ("conventional", None, None),
    ("training pictures", 32, 2.0),
    ("training pictures", 64, 2.0),
    ("noise", 32, 2.0),
    ("training pictures", 32, 1.5),
  ]
  assert rows[3]["accuracy"] < rows[2]["accuracy"]


@pytest.mark.slow
def test_a_second_run_trains_nothing(tmp_path):
  def run():
    return studies.run(
      "closed-form",
      workdir=tmp_path,
      dataset="digits",
      network="resnet_tiny",
      seeds=2,
      short=True,
      progress=False,
      say=lambda line: None,
    )

  found = run()
  folder = tmp_path / "findings" / "digits-resnet_tiny-seeds0-1-short" / "closed-form"
  assert {path.name for path in folder.iterdir()} == {
    "closed-form.png",
    "report.html",
    "study.md",
    "table.csv",
  }
  assert "--seeds=2" in (folder / "study.md").read_text("utf-8")
  with open(folder / "table.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [(row["network"], row["steps"]) for row in rows] == [
    ("conventional", "0"),
    ("in closed form, head on logits", "0"),
    *(("in closed form", steps) for steps in ("0", "5", "10")),
    *(("in closed form, then without labels", steps) for steps in ("5", "10")),
    *(("as published", steps) for steps in ("0", "5", "10")),
    ("from scratch", "10"),
  ]
  networks = tmp_path / "networks"
  # With the speed of every run, so one that is trained again is told from one that is not.
  before = {path: path.read_text("utf-8") for path in networks.glob("*/*/metrics.jsonl")}
  assert len(before) == 2 * (1 + 4 + 2 + 4 + 2)
  assert run().table == found.table
  assert {path: path.read_text("utf-8") for path in networks.glob("*/*/metrics.jsonl")} == before


def test_the_best_rate_by_held_out_pictures_is_tested(monkeypatch, tmp_path):
  judged = {1e-3: 0.5, 3e-3: 0.8, 1e-2: 0.6}

  def trained(lab, start, steps, rate):
    return types.SimpleNamespace(
      metrics={"accuracy": 0.1, "agreement": judged[rate]}, model=rate, variables={}
    )

  monkeypatch.setattr(races, "_trained", trained)
  monkeypatch.setattr(races, "measured", lambda lab, name, model, v: chosen(name, 0, model, None))
  start = races.Start(
    name="s",
    recipe="match",
    network=None,
    lengths=(5,),
    rates=tuple(judged),
    teacher=tmp_path,
  )
  lab = Lab(workdir=tmp_path, dataset="digits", say=lambda line: None)
  entrants = races.race(lab, start)
  assert {e.rate: e.validation for e in entrants} == judged
  assert [e.rate for e in entrants if e.chosen] == [3e-3]  # Agreement judges, not accuracy.

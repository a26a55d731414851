"""The study of short fine-tuning: its races, networks of Fashion-MNIST, and its files."""

import csv
import itertools

import pytest

from bcos_jax import InputError, studies
from bcos_jax.studies import Lab
from bcos_jax.studies.closed_form import races
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
  assert lab.setting.pretrain == 3000
  config = lab._config(f"fashion_mnist:{recipe}", 7, "--config.optimizer.lr=0.5")
  assert (config.steps, config.seed, config.optimizer.lr) == (7, 3, 0.5)
  network, _ = start.network(config, weights=False)
  assert (network.width, network.depth, network.patch_size) == (64, 4, 4)
  assert network.ops.encoding.pairing == ("none" if recipe == "conventional" else "negated")


def test_networks_of_other_data_sets_are_unknown(tmp_path):
  with pytest.raises(InputError, match="'vit'"):
    Lab(workdir=tmp_path, dataset="digits", network="vit")
  assert Lab(workdir=tmp_path, dataset="fashion_mnist").setting.pretrain == 1200


@pytest.mark.slow
def test_the_chosen_rates_are_the_best_and_a_second_run_trains_nothing(tmp_path):
  def run():
    return studies.run(
      "closed-form",
      workdir=tmp_path,
      dataset="digits",
      network="resnet_tiny",
      short=True,
      progress=False,
      say=lambda line: None,
    )

  found = run()
  kind = "digits-resnet_tiny-seed0-short"
  folder = tmp_path / "findings" / kind / "closed-form"
  assert {path.name for path in folder.iterdir()} == {
    "closed-form.png",
    "report.html",
    "study.md",
    "table.csv",
  }
  with open(folder / "table.csv", encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["network"] for row in rows].count("as published") == 1 + 2 + 2
  raced = ("as published", "in closed form")
  for name, steps in (*itertools.product(raced, ("5", "10")), ("from scratch", "10")):
    runs = [row for row in rows if row["network"] == name and row["steps"] == steps]
    tested = [row for row in runs if row["accuracy"]]
    assert len(runs) == 2 and len(tested) == 1
    assert float(tested[0]["held-out accuracy"]) == max(float(r["held-out accuracy"]) for r in runs)
  logits = [row["steps"] for row in rows if row["network"] == "in closed form, head on logits"]
  assert logits == ["0"]
  networks = tmp_path / "networks" / kind
  # With the speed of every run, so one that is trained again is told from one that is not.
  before = {path: path.read_text("utf-8") for path in networks.glob("*/metrics.jsonl")}
  assert len(before) == 1 + 4 + 4 + 2
  assert run().table == found.table
  assert {path: path.read_text("utf-8") for path in networks.glob("*/metrics.jsonl")} == before

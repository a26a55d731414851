"""Studies: their comparisons and the files they write."""

import csv
import types

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, StandardOps, metrics, studies
from bcos_jax.cli import main
from bcos_jax.configs import digits
from bcos_jax.studies import alignment, equivalence, options, sanity, speedup
from bcos_jax.studies.lab import StudyPictures
from bcos_jax.studies.tables import Table
from bcos_jax.train import config as configs
from bcos_jax.train import start
from bcos_jax.train.loop import TrainResult

from ..common import filled, photos

STANDARD = StandardOps(encoding=Encoding(digits.MEAN, digits.STD))
KIND = "digits-resnet_tiny-seed0-short"


def _run(name: str, workdir, network: str = "resnet_tiny"):
  said = []
  found = studies.run(
    name,
    workdir=workdir,
    dataset="digits",
    network=network,
    short=True,
    progress=False,
    say=said.append,
  )
  kind = KIND if network else "digits-seed0-short"
  return found, workdir / "findings" / kind / name, "\n".join(said)


def _rows(folder) -> list[dict[str, str]]:
  with open(folder / "table.csv", encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file))


def test_equivalence_tells_the_same_function_from_another(tmp_path, monkeypatch):
  monkeypatch.setattr(equivalence, "networks", lambda: ("resnet_tiny", "simple_vit_tiny"))
  found, folder, _ = _run("equivalence", tmp_path, network="")
  rows = _rows(folder)
  assert [row["network"] for row in rows] == ["resnet_tiny", "simple_vit_tiny"]
  for row in rows:
    assert int(row["modules compared"]) > 10
    assert 0 < float(row["largest difference"]) < 1e-5
    assert float(row["outputs, B=2"]) > 0.1
  assert "2 networks" in found.answer[0]


def test_a_difference_is_relative():
  assert equivalence.difference(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.1)
  assert equivalence.difference(np.zeros(2), np.zeros(2)) == 0
  assert equivalence.difference(np.zeros(2), np.array([3.0, 4.0])) == 5


@pytest.mark.slow
def test_studies_share_the_pretrained_network_and_leave_files(tmp_path, monkeypatch):
  workdir = tmp_path
  found, folder, said = _run("speedup", workdir)
  assert {path.name for path in folder.iterdir()} == {
    "report.html",
    "speedup.png",
    "study.md",
    "table.csv",
  }
  text = (folder / "study.md").read_text(encoding="utf-8")
  command = "bcos-jax study speedup --dataset=digits --network=resnet_tiny --short"
  assert f"`{command}`" in text
  assert found.answer[0] in text and found.answer[0] in said
  page = (folder / "report.html").read_text(encoding="utf-8")
  assert "data:image/png;base64," in page and "http" not in page.split("</style>")[1]
  networks = workdir / "networks" / KIND
  trained = (networks / "conventional" / "metrics.jsonl").read_text(encoding="utf-8")
  _run("b-sweep", workdir)
  again = (networks / "conventional" / "metrics.jsonl").read_text(encoding="utf-8")
  assert trained == again  # It was taken as it is, and not trained anew.
  rows = _rows(workdir / "findings" / KIND / "b-sweep")
  assert [float(row["B"]) for row in rows] == [1.0, 2.0]
  assert rows[0]["energy pointing"] == ""  # Digits have no masks.
  few = {options.PUBLISHED: (), "biases kept": ("ops.use_bias=True",)}
  monkeypatch.setattr(options, "options", lambda steps, colors: few)
  _, folder, _ = _run("options", workdir)
  rows = {row["variant"]: row for row in _rows(folder)}
  # Without biases nothing but the logit bias is not a pixel's.
  assert float(rows[options.PUBLISHED]["bias share"]) < 1e-5
  assert float(rows["biases kept"]["bias share"]) > 1e-3
  assert 0 <= float(rows["biases kept"]["accuracy before"]) <= 1


def test_the_first_step_as_accurate():
  history = tuple({"step": 10 * i, "accuracy": a} for i, a in enumerate([0.2, 0.5, 0.4, 0.6]))
  result = TrainResult(None, None, history, (), None)
  assert speedup.first_step(result, 0.5) == 10
  assert speedup.first_step(result, 0.55) == 30
  assert speedup.first_step(result, 0.7) is None


def test_every_option_changes_the_network_it_starts_from(tmp_path):
  """All twelve are recipes that can be begun, and no two are the same."""
  model = bcos_jax.create("resnet_tiny", ops=STANDARD, num_classes=10)
  bcos_jax.save(tmp_path / "bundle", model, filled(model))
  families = {}
  for name, changes in options.options(40, 1).items():
    overrides = [f"--config.{change}" for change in changes]
    config = configs.load_config(
      "digits:bcosify",
      [f"--config.init={tmp_path / 'bundle'}", "--config.model.name=resnet_tiny", *overrides],
    )
    network, _ = start.network(config)
    families[name] = (network.ops, config.optimizer.to_json())
  assert len(families) == len(set(families.values())) == 12


def _scores(mean: float) -> metrics.Scores:
  values = np.full(4, mean)
  return metrics.Scores(
    scores=values,
    random_scores=np.full(4, 0.1),
    oracle_scores=np.ones(4),
    higher_is_better=True,
    images=np.arange(4),
    num_images=4,
    excluded={},
  )


def test_a_student_that_points_no_better_is_said_to():
  found = {alignment.BEGUN: _scores(0.9), alignment.STUDENT: _scores(0.3)}
  better = alignment.pointing(
    found | {"saliency": _scores(0.2)}, alignment.STUDENT, (alignment.BEGUN,)
  )
  assert "0.300, ahead of" in better and "saliency (0.200)" in better
  worse = alignment.pointing(
    found | {"saliency": _scores(0.4)}, alignment.STUDENT, (alignment.BEGUN,)
  )
  assert "not ahead of" in worse
  assert alignment.points(0.80, 0.835) == "3.5 points below"
  assert alignment.points(0.85, 0.84) == "1.0 points above"


@pytest.mark.parametrize("name", ["alignment", "clip"])
def test_studies_of_masks_refuse_data_without(name, tmp_path):
  with pytest.raises(bcos_jax.InputError, match="does not tell where objects are"):
    _run(name, tmp_path)


def test_a_table_is_written_in_full_and_readably():
  table = Table({"name": "", "share": ".1%", "count": "d"}, [("a|b", 1 / 3, 2), ("c", None, 4)])
  assert table.csv() == f"name,share,count\na|b,{1 / 3},2\nc,,4\n"
  assert table.markdown().splitlines() == [
    "| name | share | count |",
    "| --- | --: | --: |",
    "| a\\|b | 33.3% | 2 |",
    "| c | – | 4 |",
  ]


@pytest.mark.parametrize(
  ("arguments", "part"),
  [
    (["speedups"], "speedup"),
    (["speedup", "--dataset=digit"], "digits"),
    (["speedup", "--dataset=digits", "--network=resnet9"], "resnet8"),
  ],
)
def test_unknown_names_exit_with_2(arguments, part, tmp_path, capsys):
  assert main(["study", *arguments, f"--workdir={tmp_path}"]) == 2
  assert part in capsys.readouterr().err


def test_sanity_takes_the_methods_that_apply():
  """A transformer has no ReLUs for guided backpropagation."""
  model = bcos_jax.create("vitc_tiny", ops=BcosOps(), image_size=32, num_classes=4)
  result = types.SimpleNamespace(model=model, variables=filled(model))
  pictures = StudyPictures(
    images=photos(3, 32), labels=np.arange(3), names=tuple("abcd"), regions=None
  )
  said = []
  found = sanity._post_hoc(types.SimpleNamespace(pictures=pictures, say=said.append), result)
  assert set(found) == {"input x gradient"}
  assert len(said) == 1 and said[0].startswith("  guided_backprop does not apply")

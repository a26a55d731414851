"""A user's folders of pictures in `evaluate` and `probe`: what training reported, and more."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, cli
from bcos_jax.train.data import folders, measured, shapes

from ..common import ROOT, filled

QUICK = ("--config.steps=4", "--config.eval_every=2", "--config.mesh.data=1")


@pytest.fixture(autouse=True)
def _no_lasting_cache(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  return shapes.write(tmp_path_factory.mktemp("pictures"), count=6, side=20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures):
  """The run of a network that was fine-tuned on the folder, a third of it held out."""
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), image_size=16, num_classes=7)
  place = tmp_path_factory.mktemp("runs")
  bcos_jax.save(place / "start", model, filled(model))
  options = [f"--config.init={place / 'start'}", f"--config.data.folder={pictures}"]
  options += [f"--workdir={place / 'run'}", "--config.data.held_out=0.34", *QUICK]
  assert cli.main(["train", "--config=finetune", *options]) == 0
  return place / "run"


def run(*arguments, code=0):
  assert cli.main([str(argument) for argument in arguments]) == code


def test_evaluate_gives_what_training_reported(trained, pictures, tmp_path, capsys):
  reported = json.loads((trained / "evaluation.json").read_text())
  assert 0 < reported["count"] < 24
  out = tmp_path / "out"
  run("evaluate", trained / "bundle", f"--dataset={pictures.resolve()}", f"--output={out}")
  said = f"accuracy {reported['accuracy']:.2%} on {reported['count']:.0f} held-out images of 24"
  assert said in capsys.readouterr().out
  written = json.loads((out / "evaluation.json").read_text())
  assert written["measures"]["accuracy"] == pytest.approx(reported["accuracy"])
  with (out / "predictions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert {row["picture"] for row in rows} == set(
    folders.read_folder(pictures, held_out=0.34).held_out
  )
  assert np.mean([row["true"] == row["predicted"] for row in rows]) == reported["accuracy"]
  assert np.load(out / "predictions.npz")["probabilities"].shape == (len(rows), 4)
  run("evaluate", trained / "bundle", f"--dataset={pictures}", "--split=all")
  assert "on 24 images" in capsys.readouterr().out


def test_training_without_a_record_is_found_in_its_options(trained, pictures):
  config = bcos_jax.load(trained / "bundle").config
  found = measured.trained_on(config)
  assert found["data.held_out"] == 0.34 and found["data.folder"] == str(pictures)
  before = {**config, "provenance": {k: v for k, v in config["provenance"].items() if k != "data"}}
  older = measured.trained_on(before)
  assert float(older["data.held_out"]) == 0.34 and older["data.folder"] == str(pictures)
  assert measured.trained_on({"provenance": {"recipe": "digits", "overrides": []}}) == {}


def test_patterns_and_tables_name_pictures_to_measure(trained, pictures, tmp_path, capsys):
  accuracy = {}
  for dataset in (pictures, f"{pictures}/*", f"{pictures}/*/*.png"):
    run("evaluate", trained / "bundle", f"--dataset={dataset}", "--split=all")
    accuracy[str(dataset)] = capsys.readouterr().out
  assert len(set(accuracy.values())) == 1 and "on 24 images" in accuracy[str(pictures)]
  table = tmp_path / "flat" / "labels.csv"
  table.parent.mkdir()
  lines = ["file,label"]
  for i, file in enumerate(sorted(pictures.rglob("*.png"))):
    (table.parent / f"{i}.png").write_bytes(file.read_bytes())
    lines.append(f"{i}.png,{file.parent.name}")
  table.write_text("\n".join(lines), encoding="utf-8")
  run("evaluate", trained / "bundle", f"--dataset={table}", "--split=all")
  assert capsys.readouterr().out == accuracy[str(pictures)]
  given = [f"--dataset={table}", "--epochs=1", "--knn=2", "--rates=0.01", "--select=test"]
  run("probe", trained / "bundle", *given)
  assert "k-NN, k=2" in capsys.readouterr().out
  first = next(iter(sorted(pictures.iterdir())))
  few, _ = measured.open_measured(f"{pictures}/*/*{sorted(first.iterdir())[0].name[-5:]}", "all")
  assert 0 < len(few) < 24
  for dataset, words in (
    (f"{pictures}/*/z*", "No picture in"),
    (f"{tmp_path}/nowhere/*", "no file or folder"),
    ("mnist/x y", "not the name of a data set"),
  ):
    run("evaluate", trained / "bundle", f"--dataset={dataset}", code=2)
    assert words in capsys.readouterr().err


def test_warnings_are_a_line(trained, pictures, tmp_path, capfd):
  lone = tmp_path / "lone"
  for folder in pictures.iterdir():
    (lone / folder.name).mkdir(parents=True)
    for file in sorted(folder.iterdir())[: 1 if "star" in folder.name else 3]:
      (lone / folder.name / file.name).write_bytes(file.read_bytes())
  command = [sys.executable, "-m", "bcos_jax", "evaluate", trained / "bundle", f"--dataset={lone}"]
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
  said = [line for line in done.stderr.splitlines() if "star" in line]
  assert len(said) == 1 and said[0].startswith("warning: ") and "read_folder" not in done.stderr


def test_some_classes_in_another_order(trained, pictures, tmp_path, capsys):
  other = tmp_path / "other"
  for name in ("star", "circle"):
    found = next(folder for folder in pictures.iterdir() if name in folder.name)
    (other / found.name).mkdir(parents=True)
    for file in list(found.iterdir())[:2]:
      (other / found.name / file.name).write_bytes(file.read_bytes())
  labels = bcos_jax.load(trained / "bundle").labels
  dataset, what = measured.open_measured(str(other))
  assert what == "images" and len(dataset) == 4 and len(dataset.label_names) == 2
  dataset = measured.with_classes_of(dataset, labels, 4)
  for record in dataset.source:
    assert labels[record["label"]] == record["name"].split("/")[0]
  run("evaluate", trained / "bundle", f"--dataset={other}", "--split=all")
  assert "on 4 images" in capsys.readouterr().out
  (other / "hexagon").mkdir()
  (other / "hexagon" / "a.png").write_bytes(file.read_bytes())
  run("evaluate", trained / "bundle", f"--dataset={other}", "--split=all", code=2)
  assert "no classes 'hexagon'" in capsys.readouterr().err


@pytest.mark.parametrize(
  "given, words",
  [
    (["--held_out=5"], "--held_out=5, expected"),
    (["--split=half"], "expected train, test, all"),
    (["--labels=nowhere.csv"], "No table of labels"),
  ],
)
def test_bad_options_of_folders(given, words, trained, pictures, capsys):
  run("evaluate", trained / "bundle", f"--dataset={pictures}", *given, code=2)
  assert words in capsys.readouterr().err


def test_options_of_folders_for_other_data(trained, tmp_path, capsys):
  run("evaluate", trained / "bundle", "--dataset=digits", "--held_out=0.5", code=2)
  assert "--held_out=0.5 does nothing" in capsys.readouterr().err
  with pytest.raises(InputError, match="no file or folder"):
    measured.open_measured(str(tmp_path / "nowhere"))


def test_probe_on_a_folder(trained, pictures, tmp_path, capsys):
  given = [
    "--epochs=2",
    "--knn=3",
    "--rates=0.01",
    "--held_out=0.3",
    f"--results={tmp_path / 'results'}",
  ]
  run("probe", trained / "bundle", f"--dataset={pictures}", *given)
  assert "k-NN, k=3" in capsys.readouterr().out
  found = json.loads((tmp_path / "results" / "probe.json").read_text())
  assert 0 <= found["accuracy"] <= 1 and 0 <= found["knn"]["accuracy"] <= 1
  assert (tmp_path / "results" / "rates.csv").read_text().startswith("rate,")


def test_download_without_a_repository_is_refused(trained, tmp_path, capsys):
  given = [
    "--config=finetune",
    f"--workdir={tmp_path / 'w'}",
    f"--config.init={trained / 'bundle'}",
  ]
  run("train", *given, "--download", code=2)
  assert "--download would do nothing" in capsys.readouterr().err

"""`bcos-jax bcosify` in closed form: from a folder of pictures or a file of texts."""

import dataclasses
import json

import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, calibration, cli
from bcos_jax.bcosify import bcosify
from bcos_jax.calibration import closed_form
from bcos_jax.render import kinds

from .. import tokenizers
from ..common import filled, flat, photos

SIDE = 16
FAST = calibration.Calibration(
  rows=200, rows_per_channel=1, effort=calibration.Effort(one_sided=1, rounds=1, inner=3)
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setattr(calibration, "Calibration", lambda: FAST)


def run(*arguments, code=0):
  assert cli.main([str(argument) for argument in arguments]) == code


def _save_pictures(folder, images):
  folder.mkdir(exist_ok=True)
  for i, image in enumerate(images):
    Image.fromarray(np.uint8(255 * image)).save(folder / f"{i:02}.png")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), image_size=SIDE, num_classes=3)
  folder = tmp_path_factory.mktemp("teacher") / "plain"
  return bcos_jax.save(folder, model, filled(model), labels=("cat", "dog", "fly"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pictures") / "photos"
  _save_pictures(folder, photos(30, SIDE))
  return folder


def test_a_folder_of_pictures_makes_a_network_that_says_how_it_was_made(
  teacher, pictures, tmp_path, capsys
):
  given = ("--pictures", pictures, "--count=24", "--ops", "b=1.5", "--blocks=1")
  run("bcosify", teacher, tmp_path / "made", *given)
  out, err = capsys.readouterr()
  for said in ("layer2_0/conv2", "condition", "agreement with the teacher on held-out inputs: "):
    assert said in out
  assert "completeness error, of 16 explanations" in out and "warning: " in err
  assert Image.open(tmp_path / "made" / "closed_form.png").width > 500
  net, start = bcos_jax.load(tmp_path / "made"), bcos_jax.load(teacher)
  about = net.config["provenance"]["calibrated"]
  assert (about["inputs"], about["count"]) == ("pictures", 24)
  assert [m["path"] for m in about["maps"]][:2] == ["conv1", "layer1_0/conv1"]
  assert about["settings"]["effort"]["rounds"] == 1
  assert about["blocks"][0]["paths"] == ["layer1_0/conv1", "layer1_0/conv2"]
  assert f"{about['agreement_before']:.1%} -> {about['agreement']:.1%}" in out
  # The same as in Python, from the same pictures.
  model, before = bcosify(start.model, start.variables, ops=BcosOps(b=1.5))
  found = [start.preprocess(path) for path in sorted(pictures.iterdir())]
  images = np.stack([found[i] for i in calibration.chosen(30, 24)])
  settings = dataclasses.replace(FAST, effort=dataclasses.replace(FAST.effort, block_rounds=1))
  made, _ = calibration.calibrate(start.model, start.variables, model, before, images, settings)
  mine = flat(net.variables)
  for path, leaf in flat(made).items():
    np.testing.assert_array_equal(mine[path], leaf)
  # Its explanations are what they should be, and say that nothing trained it.
  assert kinds.origin_of(net.config) is kinds.Origin.CLOSED_FORM
  assert net.explain(found[0]).options.origin is kinds.Origin.CLOSED_FORM
  run("bcosify", teacher, tmp_path / "made")  # a bundle with a figure is a bundle
  assert not (tmp_path / "made" / "closed_form.png").exists()
  assert kinds.origin_of(bcos_jax.load(tmp_path / "made").config) is kinds.Origin.COPIED


def test_an_interrupted_command_goes_on(teacher, pictures, tmp_path, monkeypatch):
  class Stopping(closed_form._Fitter):
    def fit(self, number, part):
      if number == 2:
        raise KeyboardInterrupt
      return super().fit(number, part)

  command = ("bcosify", teacher, tmp_path / "made", "--pictures", pictures)
  with monkeypatch.context() as stopping:
    stopping.setattr(closed_form, "_Fitter", Stopping)
    run(*command, code=130)
  work = tmp_path / "made.calibration"
  assert len(list(work.glob("*/*.npz"))) == 2 and not (tmp_path / "made").exists()
  fits = []
  fitted = closed_form.fitted_kernel
  monkeypatch.setattr(closed_form, "fitted_kernel", lambda *a: fits.append(0) or fitted(*a))
  run(*command)
  maps = bcos_jax.load(tmp_path / "made").config["provenance"]["calibrated"]["maps"]
  assert len(fits) == len(maps) - 2 and not work.exists()


def test_a_card_says_from_what_a_network_was_calibrated(teacher, pictures, tmp_path):
  figure = tmp_path / "figures" / "three.pdf"
  run("bcosify", teacher, tmp_path / "made", "--pictures", pictures, f"--output={figure}")
  assert figure.exists() and not (tmp_path / "made" / "closed_form.png").exists()
  card = bcos_jax.load(tmp_path / "made").save_pretrained(tmp_path / "shared") / "README.md"
  text = card.read_text(encoding="utf-8")
  assert "| calibrated | in closed form, from 30 pictures without labels |" in text
  assert kinds.Origin.CLOSED_FORM.value in text and "not to be used as it is" not in text


def test_texts_make_a_language_model(tmp_path, capsys):
  tokens = tokenizers.words(tmp_path / "words", 40)
  model = bcos_jax.create("bert_tiny", ops=StandardOps(), vocab_size=60, num_classes=3)
  files = {path.name: path.read_bytes() for path in tokens.iterdir()}
  plain = bcos_jax.save(tmp_path / "plain", model, filled(model), tokenizer=files)
  rng = np.random.default_rng(0)
  lines = [" ".join(f"w{i}" for i in rng.integers(0, 30, rng.integers(3, 9))) for _ in range(24)]
  (tmp_path / "texts.txt").write_text("\n".join(lines))
  family = ("--ops", "family=bcos_lm")
  run("bcosify", plain, tmp_path / "made", "--texts", tmp_path / "texts.txt", *family)
  assert "explanations before and after" in capsys.readouterr().out
  page = (tmp_path / "made" / "closed_form.html").read_text(encoding="utf-8")
  assert page.count("in closed form: ") == page.count("before, weights copied: ") == 3
  net = bcos_jax.load(tmp_path / "made")
  assert net.config["provenance"]["calibrated"]["inputs"] == "texts"
  assert kinds.Origin.CLOSED_FORM.value in net.explain("w1 w2").heat(0).kind
  run("bcosify", plain, tmp_path / "other", "--pictures", tmp_path, *family, code=2)
  err = capsys.readouterr().err
  assert "--pictures is given, but 'bert_tiny' reads texts" in err and "Give --texts" in err
  assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
  ("options", "word"),
  [
    (["--texts", "PICTURES"], "--texts is given, but 'resnet_tiny' reads pictures."),
    (["--pictures", "EMPTY"], "holds no pictures"),
    (["--pictures", "FEW"], "--pictures gives 3 pictures, expected at least 8"),
    (["--pictures", "GREY"], "are of one colour each: nothing can be fitted"),
    (["--pictures", "SAME"], "are all the same: nothing can be fitted"),
    (["--pictures", "PICTURES", "--count=0"], "--count=0, expected at least 8"),
    (["--pictures", "PICTURES", "--count=-3"], "--count=-3, expected"),
    (["--pictures", "PICTURES", "--truncate"], "--truncate is for texts"),
    (["--pictures", "PICTURES", "--output=x.jpg"], "expected a name that ends in .png or .pdf"),
    (["--pictures", "PICTURES", "--blocks=-1"], "--blocks=-1, expected"),
    (["--blocks=2"], "--blocks is given without --pictures or --texts"),
    (["--count=100"], "--count is given without --pictures or --texts"),
    (["--output=x.png"], "--output is given without --pictures or --texts"),
  ],
)
def test_refuses_what_nothing_can_be_fitted_to(options, word, teacher, pictures, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  _save_pictures(tmp_path / "few", photos(3, SIDE))
  greys = np.linspace(0, 1, 9)[:, None, None, None]
  _save_pictures(tmp_path / "grey", np.broadcast_to(greys, (9, SIDE, SIDE, 3)))
  _save_pictures(tmp_path / "same", np.repeat(photos(1, SIDE), 9, axis=0))
  known = {name.upper(): tmp_path / name for name in ("empty", "few", "grey", "same")}
  known["PICTURES"] = pictures
  run("bcosify", teacher, tmp_path / "made", *(known.get(o, o) for o in options), code=2)
  err = capsys.readouterr().err
  assert word in err and "\n  fix: " in err and len(err.strip().splitlines()) == 2
  assert not (tmp_path / "made").exists()


def test_refuses_the_source_and_what_is_a_bcos_network_already(teacher, pictures, tmp_path, capsys):
  run("bcosify", teacher, teacher, "--pictures", pictures, code=2)
  assert "is the source, which would be replaced" in capsys.readouterr().err
  run("bcosify", teacher, tmp_path / "bcos")
  run("bcosify", tmp_path / "bcos", tmp_path / "again", "--pictures", pictures, code=2)
  assert "already a B-cos network" in capsys.readouterr().err
  assert json.loads((teacher / "config.json").read_text())["ops"]["family"] == "standard"

"""`--config.calibrate`: runs that begin in closed form, from training inputs without labels."""

import json
import re

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps, calibration, cli
from bcos_jax.bcosify import bcosify
from bcos_jax.render import kinds
from bcos_jax.train import loop, main
from bcos_jax.train.config import load_config
from bcos_jax.train.data import open_splits, pipeline, shapes
from bcos_jax.train.data.text import reviews, vocabularies
from bcos_jax.train.start import calibration_of

from ..common import filled, flat, stop_at

FAST = calibration.Calibration(
  rows=100, rows_per_channel=1, effort=calibration.Effort(one_sided=1, rounds=1, inner=3)
)
QUICK = ("--config.steps=2", "--config.eval_every=0", "--config.mesh.data=1")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  monkeypatch.setattr(calibration, "Calibration", lambda seed=0: FAST)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), num_classes=10, image_size=16)
  folder = tmp_path_factory.mktemp("teacher") / "plain"
  return bcos_jax.save(folder, model, filled(model))


def _recipe(teacher, *more):
  options = [f"--config.init={teacher}", "--config.data.image_size=16", *QUICK, *more]
  options += ["--config.data.batch_size=8", "--config.data.train_split=train[:64]"]
  options += ["--config.data.test_split=test[:16]", "--config.model.image_size=16"]
  return "bcosify_cnn:runlocal", options


def test_a_run_begins_in_closed_form_once(teacher, tmp_path, capsys, monkeypatch):
  spec, options = _recipe(teacher, "--config.calibrate=24", "--config.checkpoint_every=1")
  # A run that stops after its first step, and its beginning with the same bits in another folder.
  config, first = load_config(spec, options), []
  for folder in (tmp_path / "run", tmp_path / "again"):
    with pytest.raises(KeyboardInterrupt):
      loop.train(
        config,
        workdir=folder,
        progress=False,
        hooks=[lambda step, state: first.append(jax.device_get(state.params)), stop_at(1)],
      )
  assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, first), strict=True))
  assert "calibrated with 24 pictures: agreement with the teacher on" in capsys.readouterr().out
  report = calibration_of(tmp_path / "run")
  assert (report["inputs"], report["count"]) == ("pictures", 24)
  assert [m["path"] for m in report["maps"]][-1] == "head"
  text = (tmp_path / "run" / "metrics.jsonl").read_text()
  assert json.loads(text.splitlines()[0]) == {
    "step": 0,
    "calibration/agreement_before": report["agreement_before"],
    "calibration/agreement": report["agreement"],
  }

  # What continues does not calibrate again, and its bundle says how the run began.
  def again(*arguments, **options):
    raise AssertionError("it is calibrated already")

  monkeypatch.setattr(calibration, "calibrate", again)
  net = bcos_jax.load(main.main(spec, options, tmp_path / "run", progress=False))
  assert net.config["provenance"]["calibrated"]["maps"] == report["maps"]
  assert kinds.origin_of(net.config) is kinds.Origin.TRAINED


def test_the_start_is_that_of_the_library(teacher, tmp_path):
  """At no learning rate what a run ends with is what it began with, but for batch statistics."""
  spec, options = _recipe(teacher, "--config.calibrate=24", "--config.optimizer.lr=0.0")
  config = load_config(spec, [*options, "--config.steps=1"])
  result = loop.train(config, workdir=tmp_path, progress=False)
  plain_ = bcos_jax.load(teacher)
  model, before = bcosify(plain_.model, plain_.variables, ops=result.model.ops)
  digits = pipeline.Examples(open_splits(config.data)[0], result.preprocess)
  images = np.stack([digits[int(i)]["image"] for i in calibration.chosen(64, 24)])
  made, _ = calibration.calibrate(plain_.model, plain_.variables, model, before, images, FAST)
  mine = flat(result.variables["params"])
  for path, leaf in flat(made["params"]).items():
    np.testing.assert_allclose(mine[path], leaf, rtol=1e-6, atol=1e-7)


def test_texts_begin_in_closed_form(tmp_path):
  vocabularies.save_words(tmp_path / "words", reviews.vocabulary())
  files = {path.name: path.read_bytes() for path in (tmp_path / "words").iterdir()}
  size = len(reviews.vocabulary()) + 10
  fields = {"vocab_size": size, "width": 16, "mlp_dim": 16, "depth": 1, "context_length": 64}
  model = bcos_jax.create("bert_tiny", ops=StandardOps(), num_classes=2, **fields)
  plain_ = bcos_jax.save(tmp_path / "plain", model, filled(model), tokenizer=files)
  options = [f"--config.init={plain_}", "--config.calibrate=16", *QUICK, "--config.steps=1"]
  options += [f"--config.model.{name}={value}" for name, value in fields.items()]
  options += ["--config.data.test_split=test[:8]", "--config.data.train_split=train[:32]"]
  options += ["--config.data.batch_size=8"]
  folder = main.main("bcosify_lm:runlocal", options, tmp_path / "run", progress=False)
  report = bcos_jax.load(folder).config["provenance"]["calibrated"]
  assert (report["inputs"], report["count"]) == ("texts", 16)
  assert {m["path"] for m in report["maps"]} >= {"pooler", "classifier"}


@pytest.mark.parametrize(
  ("options", "word"),
  [
    (["--config.calibrate=-1"], "config.calibrate=-1; expected at least 0"),
    (["--config.calibrate=5"], "config.calibrate=5, expected at least 8"),
    (["--config.calibrate=65"], "expected at most the 64 of digits"),
    (["--config.calibrate=9.5"], "expected a whole number"),
    (["--config.calibrate=24", "--config.init="], "It is read with (init set, or"),
    (["--config.calibrate=24", "--config.init=BCOS"], "is a B-cos network already"),
    (["--config.calibrate=24", "--config.ops.family=standard"], "an ops.family of B-cos"),
  ],
)
def test_refuses_what_does_nothing_or_cannot_be_before_any_work(options, word, teacher, tmp_path):
  model = bcos_jax.create("resnet_tiny", ops=BcosOps(), num_classes=10, image_size=16)
  made = bcos_jax.save(tmp_path / "bcos", model, filled(model))
  spec, usual = _recipe(teacher)
  options = [option.replace("BCOS", str(made)) for option in options]
  with pytest.raises(InputError, match=re.escape(word)):
    loop.train(load_config(spec, [*usual, *options]), workdir=tmp_path / "run", progress=False)
  assert not (tmp_path / "run").exists()


def test_a_fine_tuning_is_calibrated_to_its_new_head(teacher, tmp_path):
  folder = shapes.write(tmp_path / "pictures", count=6, side=20)
  options = [f"--config.init={teacher}", f"--config.data.folder={folder}", *QUICK]
  options += ["--config.calibrate=12", "--config.steps=1", "--config.data.held_out=0.34"]
  net = bcos_jax.load(main.main("finetune", options, tmp_path / "run", progress=False))
  assert net.config["provenance"]["calibrated"]["maps"][-1]["outputs"] == 4
  assert not (tmp_path / "run" / "bundle" / "calibration.json").exists()

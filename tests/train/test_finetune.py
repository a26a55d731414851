"""Fine-tuning end to end: from a bundle and a folder to a network, metrics and a report."""

import json

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, InputError, StandardOps, cli
from bcos_jax.train import config as configs
from bcos_jax.train import finetune, start
from bcos_jax.train.data import folders, shapes
from bcos_jax.variables import abstract_variables

from ..common import TINY, flat, tiny

QUICK = ("--config.mesh.data=1", "--config.steps=4", "--config.eval_every=2")

CLASSIFIERS = [name for name in TINY if "num_classes" not in TINY[name]]


@pytest.fixture(scope="module")
def conventional(tmp_path_factory):
  """A bundle of a conventional network with random weights."""
  model = bcos_jax.create("resnet_tiny", ops=StandardOps(), image_size=16, num_classes=7)
  variables = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3)))
  folder = tmp_path_factory.mktemp("networks") / "conventional"
  return str(bcos_jax.save(folder, model, variables))


@pytest.fixture(scope="module")
def one_label(tmp_path_factory):
  return shapes.write(tmp_path_factory.mktemp("one"), count=6, side=20)


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory):
  return shapes.write(tmp_path_factory.mktemp("several"), count=6, side=20, several=True)


@pytest.mark.parametrize(
  "name, ops, classes",
  [(name, BcosOps(), 3) for name in CLASSIFIERS] + [("resnet_tiny", StandardOps(), 5)],
  ids=[*CLASSIFIERS, "conventional"],
)
def test_only_the_head_is_new(name, ops, classes):
  model = tiny(name, ops)
  variables = abstract_variables(model)
  variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), variables)
  new, made = start.new_head(model, variables, classes, jax.random.key(1))
  assert new == model.clone(num_classes=classes)
  before, after = flat(variables), flat(made)
  assert {k: v.shape for k, v in after.items()} == {
    k: v.shape for k, v in flat(abstract_variables(new)).items()
  }
  changed = {path for path in after if after[path] is not before.get(path)}
  assert f"params/{model.head}/kernel" in changed
  assert all(model.head in path for path in changed)
  assert all(np.isfinite(after[path]).all() for path in changed)


def test_a_head_for_a_network_without_one():
  model = tiny("resnet_tiny", BcosOps())
  variables = abstract_variables(model)
  variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
  del variables["params"]["head"]
  _, made = start.new_head(model, variables, 4, jax.random.key(0))
  assert made["params"]["head"]["kernel"].shape[-1] == 4
  del variables["params"]["bn1"]
  with pytest.raises(InputError, match="params/bn1/scale is missing"):
    start.new_head(model, variables, 4, jax.random.key(0))


@pytest.mark.parametrize(
  "count, batch, steps",
  [
    (1, 8, 300),
    (10, 8, 300),
    (159, 8, 397),
    (320, 32, 300),
    (1000, 64, 312),
    (99_999, 64, 31_249),
    (1_281_167, 256, 50_000),
  ],
)
def test_choices_by_the_size_of_the_data(count, batch, steps):
  found = finetune.sizes(count)
  assert found == {"batch_size": batch, "steps": steps, "eval_every": max(steps // 20, 1)}
  assert finetune.sizes(count, 6)["batch_size"] % 6 == 0


def run(workdir, *arguments):
  """Runs the command; returns its exit code."""
  return cli.main(["train", "--config=finetune", f"--workdir={workdir}", *QUICK, *arguments])


def test_one_command_for_one_label(tmp_path, capsys, conventional, one_label):
  arguments = (f"--config.init={conventional}", f"--config.data.folder={one_label}")
  assert run(tmp_path, *arguments) == 0
  said = capsys.readouterr().out
  bundle = bcos_jax.load(tmp_path / "bundle")
  assert bundle.labels == shapes.SHAPES and bundle.model.num_classes == 4
  assert bundle.model.ops == BcosOps() and bundle.preprocess.size == (16, 16)
  measures = json.loads((tmp_path / "evaluation.json").read_text())
  assert measures["count"] == 4 and set(measures["by_class"]) == set(shapes.SHAPES)
  by_class = [row["accuracy"] for row in measures["by_class"].values()]
  assert np.mean(by_class) == pytest.approx(measures["accuracy"])
  assert f"{measures['accuracy']:.1%}" in said
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  rows = {row["step"]: row["eval/accuracy"] for row in lines if "eval/accuracy" in row}
  assert set(rows) == {2, 4} and rows[measures["step"]] == max(rows.values())
  report = (tmp_path / "report.html").read_text()
  held_out = folders.read_folder(one_label).held_out
  assert all(name in report for name in held_out)
  assert report.count("<h2>Wrong: ") + report.count("<h2>Right: ") == 4
  # The B-cos network that came out is taken as it is.
  again = (f"--config.init={tmp_path / 'bundle'}", *arguments[1:])
  _, (model, variables) = finetune.resolve(configs.load_config("finetune", again))
  assert model == bundle.model
  np.testing.assert_array_equal(
    variables["params"]["conv1"]["kernel"], bundle.variables["params"]["conv1"]["kernel"]
  )
  assert run(tmp_path / "refused", *again, "--config.ops.family=standard") == 2


@pytest.mark.slow
def test_one_command_for_several_labels(tmp_path, capsys, conventional, several_labels):
  assert (
    run(
      tmp_path,
      f"--config.init={conventional}",
      f"--config.data.folder={several_labels}",
      "--config.data.labels=labels.csv",
    )
    == 0
  )
  assert "mean average precision" in capsys.readouterr().out
  measures = json.loads((tmp_path / "evaluation.json").read_text())
  precisions = [row["average_precision"] for row in measures["by_class"].values() if row["count"]]
  assert np.mean(precisions) == pytest.approx(measures["mean_average_precision"], rel=1e-4)
  assert (tmp_path / "report.html").read_text().count("<article>") >= 1


def test_what_is_chosen(conventional, one_label):
  spec = [f"--config.init={conventional}", f"--config.data.folder={one_label}"]
  config, (model, _) = finetune.resolve(configs.load_config("finetune", spec))
  assert config.model.to_dict() == {"name": "resnet_tiny", "num_classes": 4}
  assert config.loss.name == "uniform_off_label_bce" and config.data.image_size == 16
  assert model.ops == BcosOps() and config.ops.encoding.pairing == "negated"
  assert config.steps == 300 and config.checkpoint_every == config.eval_every == 15
  kept, (model, _) = finetune.resolve(
    configs.load_config("finetune", [*spec, "--config.ops.family=standard", "--config.steps=7"])
  )
  assert kept.loss.name == "cross_entropy" and kept.steps == 7
  assert isinstance(model.ops, StandardOps)


def test_mistakes(conventional, one_label):
  def resolve(*overrides):
    return finetune.resolve(configs.load_config("finetune", overrides))

  with pytest.raises(InputError, match="needs a network"):
    resolve(f"--config.data.folder={one_label}")
  with pytest.raises(InputError, match="No folder"):
    resolve(f"--config.init={conventional}", "--config.data.folder=elsewhere")
  with pytest.raises(InputError, match="Neither folder nor name"):
    resolve(f"--config.init={conventional}")
  with pytest.raises(InputError, match="batch_size=-1"):
    resolve("--config.data.batch_size=-1")


def test_what_the_bundle_or_the_data_decide_is_not_asked_for(tmp_path, conventional, one_label):
  bundle = bcos_jax.load(conventional)
  twin = bcos_jax.bcosify(bundle.model, bundle.variables, ops=BcosOps())
  bcos = bcos_jax.save(tmp_path / "twin", *twin, preprocess=bundle.preprocess)
  for init, override, message in (
    (conventional, "model.num_classes=7", "has 4"),
    (conventional, "model.name=resnet8", "holds 'resnet_tiny'"),
    (conventional, "model.width=64", "has width="),
    (conventional, "data.resize=20", "data.image_size set"),
    (bcos, "ops.b=1.5", "ops.b=1.5 does nothing"),
    (bcos, "fold_mean=false", "fold_mean=False does nothing"),
  ):
    overrides = (f"--config.init={init}", f"--config.data.folder={one_label}")
    with pytest.raises(InputError, match=message):
      finetune.resolve(configs.load_config("finetune", [*overrides, f"--config.{override}"]))


@pytest.mark.slow
def test_runlocal_trains(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  arguments = ("--config.steps=4", "--config.mesh.data=1", "--config.data.image_size=16")
  workdir = f"--workdir={tmp_path / 'run'}"
  assert cli.main(["train", "--config=finetune:runlocal", workdir, *arguments]) == 0
  assert bcos_jax.load(tmp_path / "run/bundle").labels == tuple("0123456789")

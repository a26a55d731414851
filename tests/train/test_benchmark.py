"""The command `benchmark`: results that are recomputed, resumed, and refused."""

import json

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, cli, metrics
from bcos_jax.errors import InputError
from bcos_jax.train.data import part_scenes
from bcos_jax.train.evaluation import signed, suite

from ..common import filled, tiny

SMALL = {"num_images": 12, "num_slow": 8, "num_tuning": 40, "num_grids": 2, "steps": 2}
SAID = ("--dataset=digits", "--scores=road", "--methods=own", "--num_images=24")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A network that was never trained, whose labels were made those that it predicts."""
  folder = tmp_path_factory.mktemp("benchmark")
  for name, ops in (("net", BcosOps()), ("other", StandardOps())):
    encoding = bcos_jax.Encoding((0.3,), (0.4,), "none" if name == "other" else "negated")
    model = tiny("resnet_tiny", ops.__class__(encoding=encoding), num_classes=10, image_size=16)
    preprocess = bcos_jax.Preprocess(size=(16, 16), resize=0, colors=1)
    bcos_jax.save(folder / name, model, filled(model), preprocess=preprocess)
  return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
  """Runs the command; pictures count as classified rightly by whatever network."""
  monkeypatch.chdir(folder)
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  read = suite.read

  def lenient(bundle, examples, choices):
    images = np.stack([examples[i]["image"] for i in range(60)])
    predicted = metrics.logits_of(bundle.model, bundle.variables, images).argmax(axis=1)

    class Agreed:
      dataset = examples.dataset

      def __len__(self):
        return 60

      def __getitem__(self, i):
        return {"image": images[i], "label": predicted[i]}

    return read(bundle, Agreed(), choices)

  monkeypatch.setattr(suite, "read", lenient)

  def call(*arguments):
    code = cli.main(["benchmark", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err

  return call


def test_a_result_is_written_checked_and_refused(run, folder):
  code, out, err = run("net", *SAID, "--output=result.json")
  assert code == 0, err
  assert "road_most" in out and "(random)" in out and "written: result.json" in out
  result = json.loads((folder / "result.json").read_text())
  assert result["scores"]["road_most"]["own"]["oracle"] == 0
  assert {"sha256", "name"} <= result["network"].keys() and result["settings"]["seed"] == 0
  code, out, err = run("--check=result.json")
  assert code == 0 and "All scores agree" in out, out + err
  code, _, err = run("other", "--check=result.json")
  assert code == 2 and "is of another network" in err
  code, _, err = run("--check=result.json", "--dataset=digits", "--split=train")
  assert code == 2 and "is of another data" in err
  edited = dict(result, scores={"road_most": {"own": {"mean": 0.0}}})
  (folder / "edited.json").write_text(json.dumps(edited))
  code, _, err = run("--check=edited.json")
  assert code == 2 and "was edited" in err
  forged = signed.sealed({k: v for k, v in edited.items() if k not in ("seal", "kind", "format")})
  (folder / "forged.json").write_text(json.dumps(forged))
  code, out, _ = run("--check=forged.json")
  assert code == 1 and "road_most own mean: 0.0 in the file" in out


def test_an_unfinished_run_goes_on(run, folder, monkeypatch):
  def stopped(measured):
    raise KeyboardInterrupt

  said = ("net", "--dataset=digits", "--methods=own", "--scores=road,grid_pointing")
  sections = dict(suite.SECTIONS)
  monkeypatch.setitem(suite.SECTIONS, "grid_pointing", stopped)
  assert run(*said, "--output=long.json")[0] == 130
  assert (folder / "long.part").is_file() and not (folder / "long.json").exists()
  code, _, err = run(*said, "--seed=1", "--output=long.json")
  assert code == 2 and "unfinished run of other settings" in err
  monkeypatch.setitem(suite.SECTIONS, "grid_pointing", lambda measured: {"grid_pointing": {}})
  monkeypatch.setitem(suite.SECTIONS, "road", stopped)  # not measured again
  code, out, err = run(*said, "--output=long.json")
  assert code == 0 and "done: road" in out, err
  assert not (folder / "long.part").exists() and sections.keys() == suite.SECTIONS.keys()


def test_what_cannot_be_measured_is_one_line(run, folder):
  for arguments, words in (
    (("net",), "--dataset is missing"),
    (("--dataset=digits",), "BUNDLE is missing"),
    (("net", *SAID, "--output=result.txt"), "ends in .json"),
    (("net", "--dataset=digits", "--scores=iqr"), "'iqr'"),
    (("net", "--dataset=digits", "--methods=graad"), "'graad'"),
    (("net", "--dataset=digits", "--methods=own", "--scores=parts"), "cannot be removed"),
    (("net", "--dataset=shape_scenes"), "12"),
    (("--check=none.json",), "no file"),
    (("--check=net/config.json",), "no result of a benchmark"),
    (("--check=net/model.safetensors",), "JSON"),
  ):
    code, _, err = run(*arguments)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 2, (arguments, err)


def test_every_section_measures_or_says_why(folder):
  bundle = bcos_jax.load(folder / "net")
  random = np.random.default_rng(0)
  images = random.random((60, 16, 16, 1)).astype(np.float32)
  labels = metrics.logits_of(bundle.model, bundle.variables, images).argmax(axis=1)
  choices = suite.SuiteChoices(**SMALL, methods=("own",))
  measured = suite.Measured(
    bundle, choices, images[:12], np.arange(12) % 6, images[12:], labels[12:], "noise"
  )
  found = dict(suite.run(measured))
  assert found.keys() == suite.SECTIONS.keys()
  scores = {name: methods for section in found.values() for name, methods in section.items()}
  named = {"sensitivity_n", "infidelity", "irof", "complexity", "road_most", "road_least"}
  assert named | {"idsds", "difull", "dipart"} <= scores.keys()
  for name, methods in scores.items():
    for summary in methods.values():
      assert {"mean", "random"} <= summary.keys(), name
  assert "parts" in measured.skipped
  plain = signed.sealed({"scores": scores})
  assert plain == json.loads(json.dumps(plain))


def test_hashes_see_every_weight_and_pixel(folder):
  bundle = bcos_jax.load(folder / "net")
  before = signed.hash_of_network(bundle)
  assert before == signed.hash_of_network(bcos_jax.load(folder / "net"))
  path, leaf = jax.tree_util.tree_leaves_with_path(bundle.variables)[-1]
  assert path
  leaf = np.asarray(leaf)
  changed = jax.tree.map(lambda x: x + (x.shape == leaf.shape) * 1e-6, bundle.variables)
  assert signed.hash_of_network(type(bundle)(**{**vars(bundle), "variables": changed})) != before
  image = np.zeros((2, 3), np.float32)
  assert len({signed.hash_of_arrays(x) for x in (image, image + 1e-7, image.T, image[:1])}) == 4


def test_differences_name_the_score():
  before = {"a": {"own": {"mean": 1.0, "n": 3}}, "b": {"own": {"mean": 0.0}}}
  after = {"a": {"own": {"mean": 1.0004, "n": 3}}, "c": {"own": {"mean": 0.0}}}
  found = list(signed.differences(before, after, 1e-3))
  gone = "b own mean: 0.0 in the file, missing now"
  assert found == [gone, "c own mean: missing in the file, 0.0 now"]
  assert len(list(signed.differences(before, after, 1e-5))) == 3


# Scenes with parts.


def test_scenes_without_a_part_differ_there_only():
  scenes = part_scenes.part_scenes(6)
  whole = scenes.pictures[:, scenes.whole].astype(int)
  for part in range(5):
    without = scenes.pictures[:, scenes.whole - (1 << part)].astype(int)
    changed = (whole != without).any(axis=-1)
    for i in range(6):
      mask = scenes.masks[i, part]
      assert changed[i][mask].mean() > 0.9
      rows, columns = np.nonzero(changed[i])
      inside = np.nonzero(mask)
      assert abs(rows.mean() - inside[0].mean()) < 2 and abs(columns.mean() - inside[1].mean()) < 2
  assert not (scenes.masks.sum(axis=1) > 1).any()  # no pixel is of two parts
  assert all(scenes.foils(k) for k in range(12))
  for thing in range(2):
    changed = (scenes.without_thing[:, thing] != whole).any(axis=-1)
    assert changed[scenes.thing_masks[:, thing]].mean() > 0.9
  again = part_scenes.part_scenes(2)
  np.testing.assert_array_equal(again.pictures, scenes.pictures[:2])


def test_training_scenes_keep_what_tells_their_class():
  random = np.random.default_rng(0)
  kept = np.stack([part_scenes._enough(i % 12, random) for i in range(240)])
  classes = part_scenes.CLASSES
  for i, present in enumerate(kept):
    same = classes[:, present] == classes[i % 12, present]
    assert same.all(axis=1).sum() == 1
  assert 0.3 < (~kept).any(axis=1).mean() < 0.7
  with pytest.raises(InputError, match="0 scenes"):
    part_scenes.part_scenes(0)


def test_parts_are_scored_of_a_network_of_scenes():
  model = tiny("resnet_tiny", BcosOps(), num_classes=12)
  bundle = bcos_jax.io.bundles.make_bundle(model, filled(model))
  images = np.zeros((9, 32, 32, 3), np.float32)
  choices = suite.SuiteChoices(**{**SMALL, "num_slow": 12}, methods=("own",), scores=("parts",))
  measured = suite.Measured(
    bundle, choices, images, np.arange(9), images, np.arange(9), "part_scenes:test"
  )
  ((name, found),) = suite.run(measured)
  assert name == "parts" and 0 <= found["parts"]["own"]["completeness"] <= 1
  assert found["parts"]["own"]["oracle"] > found["parts"]["own"]["random"]

"""Files written by bcos_jax 0.1.0: they load, and give the same numbers.

`fixtures/old` holds them, each beside an `expected.npz`: inputs, and the results of 0.1.0. They
are never rewritten: code that cannot read them cannot read the files of users.

  bundles/NAME      networks of images and language models, as `bcos_jax.save` wrote them
  towers            an image tower, a text tower and the tokenizer between them
  names.json        configurations by architecture, among them those that are for tests only
  interrupted/NAME  folders of runs that stopped after step 2 of 4
  features          the cache of `bcos-jax probe --features`
"""

import json
import pathlib
import shutil
import zlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import bcos_jax
from bcos_jax import TextReader, TextTower, zero_shot
from bcos_jax.models import LanguageModel
from bcos_jax.train import config as configs
from bcos_jax.train import loop
from bcos_jax.train.data import Examples, open_dataset, sources
from bcos_jax.train.probes import features

from .common import applied, flat, rel

OLD = pathlib.Path(__file__).parent / "fixtures" / "old"
CLOSE = 1e-5
IMAGES = (
  "resnet_tiny",
  "resnet_bcosified",
  "resnet_v2",
  "vit_aloe",
  "deit",
  "deit_distilled",
)
TEXTS = ("bert", "gpt2")
RUNS = ("scratch", "bcosify", "texts")


@pytest.fixture(autouse=True, scope="module")
def surroundings(tmp_path_factory):
  """Data sets are prepared in a folder of these tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path_factory.mktemp("data")))
    yield


def expected_in(folder):
  with np.load(folder / "expected.npz") as file:
    return dict(file)


def assert_close(found, expected):
  """Compares floats by the norm, and all else exactly."""
  assert found.keys() <= expected.keys()
  for name, value in found.items():
    value, wanted = np.asarray(value), expected[name]
    assert value.dtype == wanted.dtype, name
    if np.issubdtype(wanted.dtype, np.floating):
      assert rel(value, wanted) <= CLOSE, name
    else:
      np.testing.assert_array_equal(value, wanted, name)


# Bundles.


def of_images(bundle, images, target):
  """Returns what a network makes of images, and why it sees the target classes."""
  with jax.default_matmul_precision("highest"):
    logits = applied(bundle.model)(bundle.variables, images)
  ex = bcos_jax.explain(bundle.model, bundle.variables, images, target)
  return {"logits": logits, "value": ex.value, "contributions": ex.contributions}


def of_texts(bundle, texts, target):
  """Returns the tokens of texts, what a language model makes of them, and why."""
  ex = TextReader.load(bundle, length=12).explain([str(text) for text in texts], target)
  found = {name: getattr(ex, name) for name in ("ids", "logits", "value", "contributions")}
  return found | {f"part/{name}": part for name, part in ex.parts.items()}


@pytest.mark.parametrize("name", IMAGES)
def test_networks_of_images(name):
  folder = OLD / "bundles" / name
  bundle, expected = bcos_jax.load(folder / "bundle"), expected_in(folder)
  assert_close(of_images(bundle, expected["images"], expected["target"]), expected)
  assert bundle.labels == tuple(expected["labels"])
  assert bundle.config["provenance"] == {"source": "fixture", "note": name}
  assert bundle.preprocess.size == (8, 8)


@pytest.mark.parametrize("name", TEXTS)
def test_language_models(name):
  folder = OLD / "bundles" / name
  bundle, expected = bcos_jax.load(folder / "bundle"), expected_in(folder)
  assert_close(of_texts(bundle, expected["texts"], expected["target"]), expected)
  assert bundle.labels == tuple(expected["labels"]) and bundle.preprocess is None


def of_towers(folder, images, texts):
  """Returns features of texts and images, and which pixels are like the texts."""
  image, texts = bcos_jax.load(folder / "image"), [str(text) for text in texts]
  reader = TextTower.load(folder / "text", folder / "tokenizer")
  towers = zero_shot.Towers.of(image, reader)
  ex = bcos_jax.explain_text(image.model, image.variables, images, texts, reader=reader)
  return {
    "texts/features": reader.features(texts),
    "images/features": towers.image_features(images),
    "scale": np.float32(towers.scale),
    "value": ex.value,
    "contributions": ex.contributions,
  }


def test_towers():
  expected = expected_in(OLD / "towers")
  assert_close(of_towers(OLD / "towers", expected["images"], expected["texts"]), expected)


def test_saving_again_changes_no_tensor(tmp_path):
  source = OLD / "towers" / "text"
  bundle = bcos_jax.load(source)
  fields = {"labels": bundle.labels, "extras": bundle.extras}
  again = bcos_jax.load(
    bcos_jax.save(tmp_path / "bundle", bundle.model, bundle.variables, **fields)
  )
  assert again.model == bundle.model and bundle.extras.keys() == {"logit_scale"}
  for tree in ("variables", "extras"):
    jax.tree.map(np.testing.assert_array_equal, getattr(again, tree), getattr(bundle, tree))


# Names.

NAMES = json.loads((OLD / "names.json").read_text(encoding="utf-8"))


def drawn(shapes):
  """Returns tensors that depend on their path and shape alone; none is trivial."""
  tensors = {}
  for path, shape in shapes.items():
    z = np.random.RandomState(zlib.crc32(path.encode())).standard_normal(shape)
    kind = path.rpartition("/")[2]
    if kind == "kernel":
      z = z * np.sqrt(2 / np.prod(shape[:-1]))
    elif kind in ("scale", "var", "logit_scale"):
      z = 1 + 0.1 * np.abs(z)
    else:
      z = 0.3 * z
    tensors[path] = np.asarray(z, np.float32)
  return tensors


def of_name(name, folder, inputs):
  """Returns the outputs of the bundle that 0.1.0 would have written with these tensors."""
  folder.mkdir()
  text = json.dumps({**NAMES["common"], **NAMES["configs"][name]})
  (folder / "config.json").write_text(text, encoding="utf-8")
  save_file(drawn(NAMES["shapes"][name]), folder / "model.safetensors")
  bundle = bcos_jax.load(folder)
  assert bundle.config["architecture"] == name  # What was written stays as it is in memory.
  kind = "images" if bundle.preprocess is not None else "ids"
  with jax.default_matmul_precision("highest"):
    if kind == "images":
      return applied(bundle.model)(bundle.variables, inputs[kind])
    length = slice(None) if isinstance(bundle.model, LanguageModel) else slice(8)
    return jax.jit(bundle.model.apply)(bundle.variables, inputs[kind][:, length])


@pytest.mark.parametrize("name", NAMES["configs"])
def test_names_in_configurations(tmp_path, name):
  expected = expected_in(OLD)
  assert_close({name: of_name(name, tmp_path / "bundle", expected)}, expected)


def test_published_names():
  """Names of one and the same network included."""
  for name, other in NAMES["published"].items():
    model = bcos_jax.create(name, ops=bcos_jax.StandardOps())
    assert model == bcos_jax.create(other, ops=bcos_jax.StandardOps()), name


# Runs that stopped.


def recipe(name):
  about = json.loads((OLD / "interrupted" / name / "run.json").read_text(encoding="utf-8"))
  return configs.load_config(about["spec"], about["overrides"])


def of_run(name, workdir, **fields):
  """Returns what a run ends with."""
  result = loop.train(recipe(name), workdir=workdir, progress=False, **fields)
  measures = ("step", "loss", "accuracy")
  history = {f"history/{key}": np.float32([row[key] for row in result.history]) for key in measures}
  found = {**history, **flat(jax.device_get(result.variables))}
  if result.state.average:  # Else what it ends with is its last state.
    last = flat(jax.device_get(result.state.params))
    found |= {f"last/{path}": leaf for path, leaf in last.items()}
  return found


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_stopped_goes_on(tmp_path, name, monkeypatch):
  """From step 3 on, with the same state, order of examples and random numbers."""
  monkeypatch.chdir(OLD)  # Recipes name folders relative to it.
  workdir, seen = tmp_path / "run", []
  shutil.copytree(OLD / "interrupted" / name / "workdir", workdir)
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
  found = of_run(name, workdir, hooks=[lambda step, _: seen.append(step)])
  expected = expected_in(OLD / "interrupted" / name)
  assert seen == [3, 4] and found.keys() == expected.keys()
  assert_close(found, expected)
  assert (workdir / "metrics.jsonl").read_text(encoding="utf-8").startswith(lines)
  assert not (workdir / "damaged").exists()


# Features.


def of_digits(folder=None):
  """Returns features of a few digits, those in the folder if there are any."""
  bundle = bcos_jax.load(OLD / "bundles" / "resnet_bcosified" / "bundle")
  examples = Examples(open_dataset("digits", "test[:13]"), bundle.preprocess)
  return features.extract(bundle.model, bundle.variables, examples, folder=folder, batch_size=8)


def test_kept_features_are_taken_again(tmp_path):
  """They are of the same network, whatever its modules are called now, and not computed anew."""
  place = tmp_path / json.loads((OLD / "features" / "name.json").read_text(encoding="utf-8"))
  shutil.copytree(OLD / "features" / "kept", place)
  kept = of_digits(tmp_path)
  assert isinstance(kept.values, np.memmap) and [*tmp_path.iterdir()] == [place]
  computed = of_digits()
  assert rel(computed.values, kept.values) <= CLOSE
  np.testing.assert_array_equal(computed.labels, kept.labels)
  np.testing.assert_array_equal(computed.examples, kept.examples)

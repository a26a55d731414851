"""Features: each example once, cached once, never mixed up between networks or data."""

import contextlib
import dataclasses
import io
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, InputError, StandardOps
from bcos_jax.inputs import Preprocess
from bcos_jax.train import sharding
from bcos_jax.train.data import Dataset, Examples, open_dataset
from bcos_jax.train.probes import feature_files, features
from bcos_jax.variables import abstract_variables

from ..common import ROOT, TINY, filled, rel, tiny

GREY = Encoding((0.3,), (0.4,), "negated")
SIDE = 8


@pytest.fixture(scope="module")
def network():
  model = bcos_jax.create(
    "resnet_tiny", ops=BcosOps(encoding=GREY), image_size=SIDE, stages=(1,), width=4
  )
  return model, filled(model)


def grey(count, seed=0):
  """Grey pictures, uint8 [count, SIDE, SIDE]."""
  return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), np.uint8)


def examples_of(pictures, damaged=(), name="grey:all", skip=False, **fields):
  def record(i):
    buffer = io.BytesIO()
    Image.fromarray(pictures[i]).save(buffer, format="png")
    return {"image": b"nothing" if i in damaged else buffer.getvalue(), "label": i % 3}

  source = [record(i) for i in range(len(pictures))]
  dataset = Dataset(name, source, ("a", "b", "c"), **fields)
  return Examples(dataset, Preprocess((SIDE, SIDE), resize=0, colors=1), skip_damaged=skip)


def expected(network, pictures):
  model, variables = features.headless(*network)
  return model.apply(variables, model.ops.encoding(pictures[..., None] / np.float32(255)))


@pytest.mark.parametrize("count, batch", [(13, 8), (13, 5), (16, 16), (3, 64)])
def test_every_example_is_there_once(network, count, batch):
  pictures = grey(count)
  found = features.extract(*network, examples_of(pictures), batch_size=batch)
  assert rel(found.values, expected(network, pictures)) <= 1e-6
  assert found.values.dtype == np.float32 and found.labels.dtype == np.int32
  np.testing.assert_array_equal(found.labels, np.arange(count) % 3)
  np.testing.assert_array_equal(found.examples, np.arange(count))
  assert found.damaged == 0 and found.label_names == ("a", "b", "c")


def test_the_mesh_makes_no_difference(network):
  meshes = [sharding.make_mesh({"data": count, "fsdp": 1}) for count in (1, 4)]
  one, four = (
    features.extract(*network, examples_of(grey(9)), batch_size=4, mesh=mesh).values
    for mesh in meshes
  )
  assert rel(four, one) <= 1e-6


TWO = """
import argparse, sys
import numpy as np
import bcos_jax
from bcos_jax.train import hosts
from bcos_jax.train.data import Examples, open_dataset
from bcos_jax.train.probes import features

parser = argparse.ArgumentParser()
parser.add_argument("--coordinator")
for name in ("num_processes", "process_id", "join_timeout"):
  parser.add_argument("--" + name, type=int, default=300)
parser.add_argument("folder")
options = parser.parse_args()
hosts.join(argparse.Namespace(distributed=False, **vars(options)))
bundle = bcos_jax.load(options.folder + "/bundle")
examples = Examples(open_dataset("digits", "test[:13]", options.folder), bundle.preprocess)
features.extract(
  bundle.model, bundle.variables, examples, folder=options.folder + "/kept", batch_size=4
)
"""


@pytest.mark.slow
def test_two_processes_share_the_work(network, tmp_path):
  bundle = bcos_jax.load(bcos_jax.save(tmp_path / "bundle", *network))
  examples = Examples(open_dataset("digits", "test[:13]", str(tmp_path)), bundle.preprocess)
  alone = features.extract(bundle.model, bundle.variables, examples)
  with contextlib.closing(socket.socket()) as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  together = ("--num_processes=2", f"--coordinator=localhost:{port}")
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", TWO, str(tmp_path), *together, f"--process_id={number}"],
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  for process in processes:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
  kept = features.extract(bundle.model, bundle.variables, examples, folder=tmp_path / "kept")
  assert isinstance(kept.values, np.memmap)
  assert rel(kept.values, alone.values) <= 1e-6
  np.testing.assert_array_equal(kept.labels, alone.labels)


def test_pictures_that_cannot_be_read(network, tmp_path):
  pictures = grey(7)
  with pytest.raises(InputError, match="Example 2"):
    features.extract(*network, examples_of(pictures, damaged=(2, 6)))
  with pytest.warns(UserWarning, match="skipped"):
    found = features.extract(
      *network, examples_of(pictures, damaged=(2, 6), skip=True), folder=tmp_path, batch_size=4
    )
  assert found.damaged == 2 and len(found) == 5
  np.testing.assert_array_equal(found.examples, [0, 1, 3, 4, 5])
  np.testing.assert_array_equal(found.labels, [0, 1, 0, 1, 2])
  assert rel(found.values, expected(network, pictures)[found.examples]) <= 1e-6


def test_what_is_kept_is_used_again(network, tmp_path, monkeypatch):
  examples = examples_of(grey(11))
  first = features.extract(*network, examples, folder=tmp_path, batch_size=8)
  monkeypatch.setattr(features, "_rows", None)
  # Neither the batch nor the head has anything to do with it.
  again = features.extract(*network, examples, folder=tmp_path, batch_size=3)
  headless = features.extract(*features.headless(*network), examples, folder=tmp_path)
  for other in (again, headless):
    assert isinstance(other.values, np.memmap)
    for name in feature_files.ARRAYS:
      np.testing.assert_array_equal(getattr(other, name), getattr(first, name))
  (kept,) = tmp_path.iterdir()
  assert np.load(kept / "values.npy").shape == (11, 4)


def test_what_was_interrupted_is_not_there(network, tmp_path):
  examples = examples_of(grey(11), damaged=(9,))
  with pytest.raises(InputError, match="Example 9"):
    features.extract(*network, examples, folder=tmp_path, batch_size=8)
  assert not list(tmp_path.iterdir())


def test_a_file_cut_short_is_no_file(network, tmp_path):
  examples = examples_of(grey(11))
  features.extract(*network, examples, folder=tmp_path)
  (kept,) = tmp_path.iterdir()
  whole = (kept / "values.npy").read_bytes()
  (kept / "values.npy").write_bytes(whole[:-40])
  with pytest.raises(InputError, match="no features"):
    features.extract(*network, examples, folder=tmp_path)
  (kept / "values.npy").write_bytes(whole)
  np.save(kept / "labels.npy", np.zeros(3, np.int32))
  with pytest.raises(InputError, match="rows"):
    features.extract(*network, examples, folder=tmp_path)
  (kept / "about.json").unlink()
  with pytest.raises(InputError, match="no features"):
    features.extract(*network, examples, folder=tmp_path)


def test_features_of_something_else_are_refused(network, tmp_path):
  model, variables = network
  features.extract(model, variables, examples_of(grey(6)), folder=tmp_path)
  other = jax.tree.map(lambda leaf: leaf * 1.5, variables)
  with pytest.raises(InputError, match="network is"):
    features.extract(model, other, examples_of(grey(6)), folder=tmp_path)
  with pytest.raises(InputError, match="examples is 6, expected 7"):
    features.extract(model, variables, examples_of(grey(7)), folder=tmp_path)
  bigger = examples_of(grey(6))
  bigger.prepare = dataclasses.replace(bigger.prepare, resize=9)
  with pytest.raises(InputError, match="preprocess is"):
    features.extract(model, variables, bigger, folder=tmp_path)
  half = model.clone(ops=dataclasses.replace(model.ops, dtype="bfloat16"))
  with pytest.raises(InputError, match="other features"):
    features.extract(half, variables, examples_of(grey(6)), folder=tmp_path)
  # Another split has a place of its own, whatever signs its name has.
  features.extract(model, variables, examples_of(grey(6), name="a/b:x[:5%]"), folder=tmp_path)
  assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written(network, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="Cannot write features"):
    features.extract(*network, examples_of(grey(3)), folder=tmp_path / "file" / "x")


def test_several_labels_per_picture(network):
  with pytest.raises(InputError, match="several labels"):
    features.extract(*network, examples_of(grey(3), multi_label=True))


def test_a_feature_that_is_not_finite_names_its_example(network):
  model, variables = network
  model = model.clone(ops=BcosOps.v2(encoding=GREY))  # ReLU makes zeros of NaN.
  broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), variables)
  with pytest.raises(InputError, match="example 0 of grey:all are not finite"):
    features.extract(model, broken, examples_of(grey(3)))


def test_networks_without_features():
  text = bcos_jax.create("clip_text_test", ops=StandardOps())
  with pytest.raises(InputError, match="reads token ids"):
    features.headless(text, {})
  unpooled = tiny("clip_resnet_test", StandardOps(), pooling="none")
  shapes = abstract_variables(unpooled)
  with pytest.raises(InputError, match=r"expected \[1, features\]"):
    features.headless(unpooled, shapes)
  model = tiny("resnet_tiny", StandardOps())
  with pytest.raises(InputError, match="do not fit"):
    features.headless(model, {"params": {}})


@pytest.mark.parametrize("name", TINY)
def test_every_image_network_has_features(name):
  model = tiny(name, BcosOps())
  headless, variables = features.headless(model, abstract_variables(model))
  assert model.head is None or model.head not in variables["params"]
  shape = jax.eval_shape(headless.apply, variables, headless.input_spec).shape
  assert shape[0] == 1 and len(shape) == 2


def test_the_digest_is_of_the_network_alone():
  model = tiny("resnet_tiny", BcosOps())
  variables = filled(model)
  own = features.digest(model, variables)
  assert own == features.digest(model.clone(num_classes=0), variables)
  assert own != features.digest(tiny("resnet_tiny", BcosOps(b=1.5)), variables)
  variables["params"]["conv1"]["kernel"][0, 0, 0, 0] += 1e-6
  assert own != features.digest(model, variables)


def test_about_is_plain(network, tmp_path):
  found = features.extract(*network, examples_of(grey(3)), folder=tmp_path)
  (kept,) = tmp_path.iterdir()
  about = json.loads((kept / "about.json").read_text())
  assert about == {**found.about, "shape": [3, 4]}

"""Exported folders: what they compute, and what is refused."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, cli, export
from bcos_jax.errors import InputError, RunError
from bcos_jax.export import checks
from bcos_jax.render import rgba

from ..common import SIDE, TINY, filled, photos, suggestion, tiny

LABELS = ("ant", "bee", "cat", "dog", "elk")


def network(name, ops):
  """Returns a small network with random weights, as it would be read from a bundle."""
  if name.endswith("_lm") or "bert" in name or "gpt" in name or "llama" in name:
    classes = {} if name.startswith(("gpt2", "llama")) else {"num_classes": 5}
    model = bcos_jax.create(name, ops=ops, depth=1, context_length=12, **classes)
  else:
    model = tiny(name, ops)
  return _loaded(model)


def _loaded(model):
  from bcos_jax.io.bundles import make_bundle
  from bcos_jax.network import Network

  labels = LABELS if getattr(model, "num_classes", 0) == len(LABELS) else ()
  return Network.of(make_bundle(model, filled(model), labels=labels))


@pytest.fixture(scope="module")
def net():
  return network("resnet_tiny", BcosOps())


@pytest.fixture(scope="module")
def stablehlo(net, tmp_path_factory):
  return export.save(net, tmp_path_factory.mktemp("exports") / "stablehlo")


@pytest.fixture(scope="module")
def onnx(net, tmp_path_factory):
  return export.save(net, tmp_path_factory.mktemp("exports") / "onnx", to="onnx")


@pytest.fixture(params=["stablehlo", "onnx"])
def folder(request):
  return request.getfixturevalue(request.param)


def test_results_are_those_of_explain(net, folder):
  run = export.load(folder)
  images, target = photos(3), np.array([4, 0, 2])
  found = run(images, target)
  ex = bcos_jax.explain(net.model, net.variables, images, target)
  assert found.keys() == {each["name"] for each in run.manifest["outputs"]}
  np.testing.assert_array_equal(found["explained"], target)
  largest = np.abs(ex.contributions).max()
  for name in ("logits", "value", "contributions", "residual"):
    size = max(largest, np.abs(getattr(ex, name)).max())
    assert np.abs(found[name] - getattr(ex, name)).max() <= 1e-5 * size, name
  assert np.abs(found["picture"] - rgba(ex, ex.options.smooth)).max() <= 1e-3
  sums = found["contributions"].sum((1, 2)) + found["residual"]
  np.testing.assert_allclose(sums, found["value"], atol=1e-5 * np.abs(found["value"]).max())
  np.testing.assert_array_equal(run(images)["explained"], found["logits"].argmax(1))
  np.testing.assert_allclose(found["probabilities"], jax.nn.sigmoid(ex.logits), atol=1e-6)
  assert run.labels == LABELS and run.preprocess == net.preprocess


def test_stablehlo_is_the_network_bit_for_bit(net, stablehlo):
  run = export.load(stablehlo)
  assert set(run.manifest["checked"].values()) == {0.0}
  assert run.manifest["platforms"] == ["cpu", "cuda", "tpu"]
  program = export.program_of(net, export.PARTS[:3])
  images, target = photos(2, seed=1), np.array([1, -1], np.int32)
  expected = jax.jit(program.function)(images, target)
  for name, value in run.run(images, target).items():
    np.testing.assert_array_equal(value, expected[name], name)


NETWORKS = {
  "resnet_tiny_bottleneck": BcosOps.v2(),
  "resnext_tiny": BcosOps(),
  "resnet_tiny": StandardOps(),  # max pooling
  "convnext_test": BcosOps(),
  "swin_test": BcosOps(),
  "vit_test": StandardOps(),
  "simple_vit_tiny": BcosOps.v2(),
  "bert_tiny": BcosOps.lm(b=1.5),
  "gpt2_tiny": BcosOps.lm_plain(b=1.1),
  "llama_tiny": BcosOps.lm_decoder(),
}


def agrees(net, **options):
  """Checks that onnxruntime computes what the network does; `save` compares them."""
  program = export.program_of(net, ("logits", "map"), **options)
  from bcos_jax.export import onnx_file

  content, _ = onnx_file.written(program, {})
  inputs = checks.example(program, net.model)
  run = onnx_file.reader(content)
  found = checks.compared(program, run, inputs, exact=False, where="onnxruntime")
  assert 0 < found["contributions"] <= checks.TOLERANCE  # it was computed by something else


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_explains(name):
  agrees(network(name, NETWORKS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("ops", [BcosOps(), StandardOps()], ids=["bcos", "standard"])
@pytest.mark.parametrize("name", [name for name in TINY if name != "clip_resnet_test"])
def test_onnxruntime_explains_every_architecture(name, ops):
  agrees(network(name, ops))


def test_texts_are_explained_by_their_tokens(tmp_path):
  net = network("bert_tiny", BcosOps.lm(b=1.5))
  net = dataclasses.replace(net, tokenizer={"tokenizer.json": b"{}"})
  run = export.load(export.save(net, tmp_path / "texts", length=8))
  assert (tmp_path / "texts" / "tokenizer" / "tokenizer.json").read_bytes() == b"{}"
  ids = np.random.default_rng(0).integers(3, 60, (3, 8))
  mask = np.arange(8) < [[8], [5], [3]]
  found = run(ids, 1, mask=mask)
  ex = bcos_jax.explain(net.model, net.variables, ids, 1, mask=mask)
  np.testing.assert_allclose(found["contributions"], ex.contributions, atol=1e-6)
  assert not found["contributions"][~mask].any()


def test_parts_batch_and_size(net, tmp_path):
  run = export.load(export.save(net, tmp_path / "logits", parts=["logits"], batch=2))
  assert run(photos(2)).keys() == {"logits", "probabilities"}
  assert [each["shape"] for each in run.manifest["inputs"]] == [[2, SIDE, SIDE, 3]]
  with pytest.raises(InputError, match=r"has shape \(3, 16, 16, 3\), expected \[2, 16, 16, 3\]"):
    run(photos(3))
  with pytest.raises(InputError, match="holds logits alone"):
    run(photos(2), 1)
  run = export.load(
    export.save(net, tmp_path / "map", parts=["map", "weights"], image_size=(24, 32))
  )
  found = run(np.zeros((1, 24, 32, 3), np.float32))
  assert found["weights"].shape == (1, 24, 32, 6) and "logits" not in found
  assert run.preprocess.size == (24, 32)


def test_the_page_runs_without_this_package(folder):
  page = (folder / "README.md").read_text()
  assert "16 x 16 pixels" in page and "sum(contributions) + residual" in page
  code = (
    page.split("```python\n")[1].split("```")[0]
    + "import sys\nassert 'bcos_jax' not in sys.modules\n"
  )
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env=environment,
    cwd=folder,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  value, total = (float(text.strip("[] \n")) for text in done.stdout.split("] ["))
  assert value == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(
  ("options", "cause"),
  [
    ({"to": "onxn"}, "Unknown kind of export 'onxn'"),
    ({"targets": ["cpu", "gpu"]}, "Unknown target platform 'gpu'"),
    ({"targets": []}, "No target platform"),
    ({"to": "onnx", "targets": ["cpu"]}, "targets are platforms of StableHLO"),
    ({"parts": ["maps"]}, suggestion("map")),
    ({"parts": []}, "Nothing is asked for"),
    ({"batch": 0}, "batch is 0"),
    ({"length": 5}, "length is for texts"),
  ],
)
def test_what_cannot_be_exported_is_named(net, tmp_path, options, cause):
  with pytest.raises(InputError, match=cause):
    export.save(net, tmp_path / "new", **options)
  assert not (tmp_path / "new").exists()


def test_networks_without_colours_or_classes(tmp_path):
  with pytest.raises(InputError, match="no complement channels"):
    export.save(network("resnet_tiny", StandardOps()), tmp_path / "x", parts=["picture"])
  with pytest.raises(InputError, match="no classes to explain"):
    export.save(_loaded(tiny("clip_test", BcosOps(), num_classes=0)), tmp_path / "x")
  with pytest.raises(InputError, match="'picture' is of pictures"):
    export.save(network("bert_tiny", BcosOps.lm()), tmp_path / "x", parts=["picture"])


def test_damaged_and_other_versions_are_refused(stablehlo, tmp_path):
  folder = shutil.copytree(stablehlo, tmp_path / "copy")
  with (folder / "explanation.stablehlo").open("r+b") as file:
    file.seek(100)
    file.write(b"?")
  with pytest.raises(InputError, match=r"stablehlo in .* is damaged"):
    export.load(folder)
  (folder / "explanation.stablehlo").unlink()
  with pytest.raises(InputError, match="is missing"):
    export.load(folder)
  manifest = json.loads((folder / "manifest.json").read_text())
  (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
  with pytest.raises(InputError, match="has export format 99, expected 1"):
    export.load(folder)
  (folder / "manifest.json").write_text("{")
  with pytest.raises(InputError, match=r"Cannot read manifest\.json"):
    export.load(folder)
  with pytest.raises(InputError, match=r"it has no manifest\.json"):
    export.load(tmp_path)


def test_only_new_empty_and_exported_folders_are_written(net, stablehlo, tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "notes.txt").write_text("kept")
  with pytest.raises(InputError, match="exists and is not an export"):
    export.save(net, tmp_path / "mine")
  folder = shutil.copytree(stablehlo, tmp_path / "old")
  export.save(net, folder, parts=["logits"])
  assert not (folder / "explanation.onnx").exists() and export.load(folder)
  (folder / "notes.txt").write_text("kept")
  with pytest.raises(InputError, match="exists and is not an export"):
    export.save(net, folder)


def test_bad_inputs_are_refused(stablehlo):
  run = export.load(stablehlo)
  with pytest.raises(InputError, match="classes from 0 to 4"):
    run(photos(2), 5)
  with pytest.raises(InputError, match="classes from 0 to 4"):
    run(photos(2), np.array([-1, 0]))
  with pytest.raises(InputError, match="expected floats"):
    run(np.uint8(255 * photos(2)))


@pytest.mark.parametrize(
  ("kind", "found", "written"),
  [
    ("stablehlo", [1e-9], False),
    ("onnx", [2e-5, 2e-6], False),  # by more than the network itself if colours are rounded
    ("onnx", [2e-5, 3e-5], True),
    ("onnx", [float("nan"), 0.0], False),
  ],
)
def test_an_export_that_differs_is_not_written(net, tmp_path, monkeypatch, kind, found, written):
  left = iter(found)
  monkeypatch.setattr(checks, "gaps", lambda *_: {"contributions": next(left)})
  with contextlib.nullcontext() if written else pytest.raises(RunError, match="contributions dif"):
    export.save(net, tmp_path / "new", to=kind)
  assert (tmp_path / "new").exists() == written


def test_the_command_exports(net, tmp_path, capsys):
  bundle = bcos_jax.save(tmp_path / "bundle", net.model, net.variables, labels=LABELS)
  command = ["export", str(bundle), str(tmp_path / "out")]
  assert cli.main([*command, "--to=onnx", "--with=logits,map", "--batch=1", "--image_size=24"]) == 0
  assert "explanation.onnx" in capsys.readouterr().out
  run = export.load(tmp_path / "out")
  assert [each["shape"] for each in run.manifest["inputs"]] == [[1, 24, 24, 3], [1]]
  assert cli.main([*command, "--batch=many"]) == 2
  assert "or 'dynamic'" in capsys.readouterr().err
  assert cli.main([*command, "--targets=cpu,gpu"]) == 2
  assert "Unknown target platform 'gpu'" in capsys.readouterr().err

"""Pages for browsers: their files, and what is refused. tests/app opens them in one."""

import base64
import gzip
import json
import re
import tarfile

from PIL import Image
import pytest

import bcos_jax
from bcos_jax import BcosOps, export
from bcos_jax.errors import InputError
from bcos_jax.export import web_page

from ..common import filled, tiny

FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture
def runtime(tmp_path):
  """A folder like that of the npm package."""
  folder = tmp_path / "package"
  (folder / "dist").mkdir(parents=True)
  about = {"name": web_page.RUNTIME, "version": web_page.VERSION}
  (folder / "package.json").write_text(json.dumps(about))
  for name in FILES:
    (folder / "dist" / name).write_bytes(f"content of {name}".encode())
  return folder


@pytest.fixture(scope="module")
def net(tmp_path_factory):
  folder = tmp_path_factory.mktemp("bundle")
  Image.new("L", (1000, 20), 7).save(folder / "stripe.png")
  model = tiny("resnet_tiny", BcosOps(), num_classes=2)
  bcos_jax.save(
    folder / "net",
    model,
    filled(model),
    labels=("</script>", "b"),
    examples=[folder / "stripe.png"],
  )
  return bcos_jax.load(folder / "net")


def script(path):
  """Returns the value that a script defines."""
  return json.loads(re.fullmatch(r"const \w+ = (.*);\n", path.read_text(), re.DOTALL)[1])


def unpacked(parts):
  return gzip.decompress(b"".join(map(base64.b64decode, parts)))


def test_the_page_holds_network_runtime_and_examples(net, runtime, tmp_path, monkeypatch):
  monkeypatch.setattr(web_page, "_CHUNK", 3000)
  with tarfile.open(tmp_path / "ort.tgz", "w:gz") as archive:
    archive.add(runtime, "package")
  folder = export.save(net, tmp_path / "web", to="web", runtime=tmp_path / "ort.tgz")
  again = export.save(net, tmp_path / "again", to="web", runtime=runtime)
  (tmp_path / "node_modules").mkdir()
  runtime.rename(tmp_path / "node_modules" / web_page.RUNTIME)
  third = export.save(net, tmp_path / "third", to="web", runtime=tmp_path)
  for path in folder.rglob("*.*"):
    other, last = ((each / path.relative_to(folder)).read_bytes() for each in (again, third))
    assert path.read_bytes() == other == last, path
  page = script(folder / "network.js")
  run = export.onnx.session(unpacked(page["model"]))
  assert len(page["model"]) > 1 and run.get_inputs()[0].shape == [1, 16, 16, 3]
  assert page["manifest"]["labels"] == list(net.labels)
  (example,) = page["examples"]
  assert example["name"] == "stripe" and example["url"].startswith("data:image/png;base64,")
  ready = script(folder / "runtime" / "files.js")
  assert unpacked(ready["wasm"]) == b"content of ort-wasm-simd-threaded.wasm"
  assert "nothing is sent anywhere" in (folder / "README.md").read_text()
  with pytest.raises(InputError, match=r"for 'web'.*index\.html"):
    export.load(folder)


@pytest.mark.parametrize(
  ("options", "cause"),
  [
    ({}, "and none is given"),
    ({"runtime": "package", "parts": ["logits"]}, "parts are given for a page"),
    ({"runtime": "package", "batch": 2}, "batch is given for a page"),
    ({"runtime": "nothing"}, "is not the npm package onnxruntime-web"),
    ({"runtime": "package/package.json"}, "Cannot read"),
    ({"runtime": "package", "to": "onnx"}, "runtime is for a page"),
  ],
)
def test_pages_that_cannot_be_made(net, runtime, tmp_path, monkeypatch, options, cause):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(InputError, match=cause):
    export.save(net, "new", **{"to": "web", **options})
  assert not (tmp_path / "new").exists()


def test_another_version_of_the_runtime_is_refused(net, runtime, tmp_path):
  about = {"name": web_page.RUNTIME, "version": "1.2.3"}
  (runtime / "package.json").write_text(json.dumps(about))
  with pytest.raises(InputError, match=r"onnxruntime-web 1\.2\.3, expected onnxruntime-web 1\.30"):
    export.save(net, tmp_path / "new", to="web", runtime=runtime)


def test_texts_have_no_page(runtime, tmp_path):
  model = bcos_jax.create("bert_tiny", ops=BcosOps.lm(), depth=1, context_length=12, num_classes=2)
  bcos_jax.save(tmp_path / "texts", model, filled(model))
  with pytest.raises(InputError, match="pages explain pictures"):
    export.save(bcos_jax.load(tmp_path / "texts"), tmp_path / "new", to="web", runtime=runtime)

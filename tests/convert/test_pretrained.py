"""Bundles: exact round trips, and atomic writes."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, Encoding, Preprocess, StandardOps
from bcos_jax.errors import InputError
from bcos_jax.functional import Guard
from bcos_jax.io import bundles
from bcos_jax.io.bundles import check_writable, make_bundle
from bcos_jax.variables import abstract_variables

from ..common import CLASSES, PRESETS, TINY, filled, flat, shapes, suggestion, tiny, unflat

MODEL = tiny("resnet_tiny", BcosOps())
LABELS = ["a", "b", "ü", "d e", "日"]


def _assert_same(variables, expected):
  variables, expected = flat(variables), flat(expected)
  assert variables.keys() == expected.keys()
  for path, leaf in expected.items():
    assert variables[path].dtype == leaf.dtype and variables[path].shape == leaf.shape, path
    assert np.asarray(variables[path]).tobytes() == np.asarray(leaf).tobytes(), path


MODELS = {
  **{preset: tiny("resnet_tiny", ops) for preset, ops in PRESETS.items()},
  **{name: tiny(name, StandardOps()) for name in TINY},
  "learned B": tiny("vitc_tiny", BcosOps(learn_b=True, use_bias=True)),
  "bfloat16 parameters": tiny("resnet_tiny", BcosOps(param_dtype="bfloat16", dtype="bfloat16")),
  "grey": tiny("resnet_tiny", StandardOps(encoding=Encoding((0.5,), (0.25,)))),
  "other guards": tiny("resnet_tiny", BcosOps(conv_guard=Guard(1e-4, True, 0.0))),
  "other stages": tiny("resnet_tiny", BcosOps(), stages=(1, 2, 1), block="bottleneck"),
  "a stem": tiny("vitc_tiny", BcosOps.v2(), conv_stem=(8, 12), depth=1),
}


@pytest.mark.parametrize("case", MODELS)
def test_round_trip(tmp_path, case):
  model = MODELS[case]
  variables = filled(model)
  labels = LABELS if model.num_classes else ()
  folder = bcos_jax.save(
    tmp_path / "net", model, variables, labels=labels, provenance={"source": "test", "steps": 3}
  )
  bundle = bcos_jax.load(folder)
  # An equal model also shares compiled functions.
  assert bundle.model == model and hash(bundle.model) == hash(model)
  _assert_same(bundle.variables, variables)
  assert bundle.labels == tuple(labels)
  assert bundle.config["provenance"] == {"source": "test", "steps": 3}
  assert bundle.preprocess.colors == model.ops.encoding.colors


def test_variables_of_jax_and_detached_models(tmp_path):
  """Explanation mode is not a property of a saved network."""
  variables = jax.tree.map(jnp.asarray, filled(MODEL))
  bundle = bcos_jax.load(
    bcos_jax.save(tmp_path / "net", MODEL.clone(ops=MODEL.ops.detached()), variables)
  )
  assert bundle.model == MODEL
  _assert_same(bundle.variables, variables)


def test_preprocessing_and_extras_travel(tmp_path):
  preprocess = Preprocess((20, 24), resize=30, interpolation="bicubic")
  extras = {
    "bn1.num_batches_tracked": np.array(7, np.int64),
    "bn1.running_mean": np.arange(3, dtype=np.float32),
  }
  bundle = bcos_jax.load(
    bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), preprocess=preprocess, extras=extras)
  )
  assert bundle.preprocess == preprocess
  _assert_same(bundle.extras, extras)
  assert bundle.labels == ()


@pytest.mark.parametrize(
  "name, size, resize",
  [
    ("resnet18", (224, 224), 256),
    ("resnet20", (32, 32), 0),
    ("simple_vit_ti_patch16_224", (224, 224), 256),
  ],
)
def test_default_preprocessing_is_the_published_evaluation(name, size, resize):
  model = bcos_jax.create(
    name,
    ops=BcosOps.v2(),
    **(
      {}
      if name == "resnet20"
      else {"width": 8} | ({"num_heads": 2, "depth": 1} if "vit" in name else {"stages": (1,)})
    ),
  )
  zeros = unflat({path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes(model).items()})
  assert make_bundle(model, zeros).preprocess == Preprocess(size, resize=resize)


def test_configuration_is_plain_and_complete(tmp_path):
  folder = bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), labels=LABELS)
  assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
  config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  assert config["format"] == 1 and config["architecture"] == "resnet_tiny"
  assert config["fields"] == {"num_classes": CLASSES, "image_size": 16}
  assert config["ops"]["family"] == "bcos" and config["ops"]["b"] == 2.0
  assert config["labels"] == LABELS


# Whole, or not there.


def _snapshot(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@pytest.mark.parametrize(
  "crash",
  [
    OSError(28, "No space left on device"),
    KeyboardInterrupt(),
  ],
  ids=repr,
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_crash_while_writing_leaves_what_was_there(tmp_path, monkeypatch, crash, existing):
  folder = tmp_path / "net"
  if existing:
    bcos_jax.save(folder, MODEL, filled(MODEL), labels=LABELS)
  before = _snapshot(tmp_path)

  def half(path, tensors):
    pathlib.Path(path).write_bytes(b"half a file")
    raise crash

  monkeypatch.setattr(bundles, "write_safetensors", half)
  expected = KeyboardInterrupt if isinstance(crash, KeyboardInterrupt) else InputError
  with pytest.raises(expected):
    bcos_jax.save(folder, MODEL, filled(MODEL, seed=1))
  monkeypatch.undo()
  assert _snapshot(tmp_path) == before
  assert list(tmp_path.iterdir()) == ([folder] if existing else [])


def test_a_crash_while_replacing_leaves_the_old_bundle(tmp_path, monkeypatch):
  """The new folder is complete, the old one just moved away, and then the move fails."""
  folder = bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), labels=LABELS)
  before, rename = _snapshot(tmp_path), pathlib.Path.rename

  def failing(path, target):
    if pathlib.Path(target) == folder and path.name == "bundle":
      raise OSError(5, "Input/output error")
    return rename(path, target)

  monkeypatch.setattr(pathlib.Path, "rename", failing)
  with pytest.raises(InputError, match="Input/output error"):
    bcos_jax.save(folder, MODEL, filled(MODEL, seed=1))
  monkeypatch.undo()
  assert _snapshot(tmp_path) == before


def test_replacing_leaves_nothing_of_the_old_bundle(tmp_path):
  folder = bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), labels=LABELS)
  bcos_jax.save(folder, MODEL, filled(MODEL, seed=1))
  assert {path.name for path in tmp_path.iterdir()} == {"net"}
  assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
  _assert_same(bcos_jax.load(folder).variables, filled(MODEL, seed=1))


# Refusals when saving.


def test_a_bundle_with_something_of_the_users_is_left_alone(tmp_path):
  folder = bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), labels=LABELS)
  (folder / "notes.txt").write_text("mine")
  with pytest.raises(InputError, match=r"exists.*bundle"):
    bcos_jax.save(folder, MODEL, filled(MODEL, seed=1))
  assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  with pytest.raises(InputError, match=r"exists.*bundle"):
    bcos_jax.save(tmp_path, MODEL, filled(MODEL))
  with pytest.raises(InputError, match=r"exists.*bundle"):
    bcos_jax.save(tmp_path / "thesis.tex", MODEL, filled(MODEL))
  assert _snapshot(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
  (tmp_path / "empty").mkdir()
  for folder in ("empty", "some/where/deep"):
    bcos_jax.load(bcos_jax.save(tmp_path / folder, MODEL, filled(MODEL)))


def test_a_place_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  for function in (lambda folder: bcos_jax.save(folder, MODEL, filled(MODEL)), check_writable):
    with pytest.raises(InputError, match=r"Cannot write.*file/net") as caught:
      function(tmp_path / "file" / "net")
    assert caught.value.fix


def test_check_writable_leaves_no_trace(tmp_path):
  assert check_writable(tmp_path / "new") == tmp_path / "new"
  assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("count", [1, 4, 6])
def test_labels_must_fit(tmp_path, count):
  with pytest.raises(InputError, match=f"{count} labels for 5 classes"):
    bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), labels=["x"] * count)
  assert list(tmp_path.iterdir()) == []


def test_variables_must_fit(tmp_path):
  leaves = dict(flat(filled(MODEL)))
  del leaves["params/conv1/kernel"]
  leaves["params/head/kernel"] = leaves["params/head/kernel"][:, :3]
  leaves["params/extra"] = np.zeros(1)
  with pytest.raises(InputError) as caught:
    bcos_jax.save(tmp_path / "net", MODEL, unflat(leaves))
  for part in (
    "params/conv1/kernel is missing",
    "params/extra is unexpected",
    "(16, 3)",
    "(16, 5)",
    "resnet_tiny",
  ):
    assert part in caught.value.cause
  assert list(tmp_path.iterdir()) == []


def test_a_wrong_network_gets_a_short_message(tmp_path):
  other = bcos_jax.create("vitc_tiny", ops=MODEL.ops)
  with pytest.raises(InputError, match=r"; and \d+ more problems\.") as caught:
    bcos_jax.save(tmp_path / "net", MODEL, filled(other))
  assert caught.value.cause.count("is missing") == 5


# Refusals when loading.


@pytest.fixture
def folder(tmp_path):
  return bcos_jax.save(tmp_path / "net", MODEL, filled(MODEL), labels=LABELS)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_truncated_weights(folder, share):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
  with pytest.raises(InputError, match=r"Cannot read model\.safetensors.*net"):
    bcos_jax.load(folder)


def test_missing_files(folder, tmp_path):
  (folder / "model.safetensors").unlink()
  with pytest.raises(InputError, match=r"Cannot read model\.safetensors"):
    bcos_jax.load(folder)
  (folder / "config.json").unlink()
  for place in (folder, tmp_path / "nowhere"):
    with pytest.raises(InputError, match=r"bundle.*config\.json|no file or folder"):
      bcos_jax.load(place)


@pytest.mark.parametrize(
  "text", ["", "{", "[]", "3", "null", '{"architecture": "resnet18"}', "\x00\xff"]
)
def test_damaged_configuration(folder, text):
  (folder / "config.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(InputError, match=r"Cannot read config\.json") as caught:
    bcos_jax.load(folder)
  assert caught.value.fix


def _edited(folder, edit):
  path = folder / "config.json"
  config = json.loads(path.read_text(encoding="utf-8"))
  edit(config)
  path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("key", ["architecture", "ops", "fields", "preprocess", "labels"])
def test_incomplete_configuration(folder, key):
  _edited(folder, lambda config: config.pop(key))
  with pytest.raises(InputError, match=f"incomplete.*{key}"):
    bcos_jax.load(folder)


@pytest.mark.parametrize(
  "edit, message",
  [
    (lambda c: c.update(architecture="resnet_tiny_bottleneck"), r"do not fit.*layer1_0/conv3"),
    (lambda c: c.update(architecture="resnet_tinny"), "which is not registered"),
    (
      lambda c: (c["fields"].update(num_classes=6), c.update(labels=[])),
      r"head/kernel has shape \(16, 5\).*\(16, 6\)",
    ),
    (lambda c: c["fields"].update(num_clases=6), suggestion("num_classes")),
    (lambda c: c["ops"].update(family="standard", b=1), "field of the 'standard' ops"),
    (lambda c: c["ops"].update(bb=2), suggestion("b")),
    (lambda c: c["ops"].update(use_bias=True), "params/bn1/bias"),
    (lambda c: c["ops"]["encoding"].update(pairing="none"), r"conv1/kernel.*\(7, 7, 3, 8\)"),
    (lambda c: c["preprocess"].update(interpolation="cubic"), suggestion("bicubic")),
    (lambda c: c["preprocess"].update(sise=3), "sise"),
    (lambda c: c.update(format=2), "format 2, expected 1"),
    (lambda c: c.update(labels=["only one"]), "1 labels.*5 classes"),
  ],
)
def test_bundle_of_something_else(folder, edit, message):
  _edited(folder, edit)
  with pytest.raises(InputError, match=message) as caught:
    bcos_jax.load(folder)
  assert caught.value.fix


def test_abstract_variables_compute_nothing():
  tree = flat(abstract_variables(bcos_jax.create("resnet152", ops=StandardOps())))
  assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in tree.values())

"""Damaged checkpoints of every kind: a clear error, and no partial output."""

import json
import random
import struct

import numpy as np
import pytest

from bcos_jax import StandardOps, cli, convert
from bcos_jax.cli import conversion
from bcos_jax.errors import InputError
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import write_safetensors

from .. import torch_files
from ..common import filled, tiny
from ..torch_files import Call, Name

NAME = "resnet_tiny"
CONFIG = {
  "architectures": ["ResNetForImageClassification"],
  "model_type": "resnet",
  "embedding_size": 8,
  "hidden_sizes": [8, 16],
  "depths": [1, 1],
  "layer_type": "basic",
  "id2label": {str(i): f"class {i}" for i in range(5)},
}


def _state(source):
  model = tiny(NAME, StandardOps(), image_size=224)
  bundle = make_bundle(model, filled(model), provenance={"source": source})
  return {key: np.array(tensor) for key, tensor in convert.to_state_dict(bundle, source).items()}


STATE, HUGGING_FACE = _state("torchvision"), _state("huggingface")


def refused(checkpoint, target, **choices):
  """Converts; it must be refused, with a cause and a fix, and leave nothing."""
  choices = conversion.ConversionChoices(**{"architecture": NAME} | choices)
  with pytest.raises(InputError) as caught:
    conversion.convert(checkpoint, target, choices, say=lambda line: None)
  assert caught.value.cause and caught.value.fix
  assert not target.exists()
  assert not [path for path in target.parent.iterdir() if path.name.startswith(f".{target.name}")]
  return str(caught.value)


def safetensors(folder, state):
  path = folder / "model.safetensors"
  write_safetensors(path, state)
  return path


def test_the_sound_files_convert(tmp_path):
  sound = safetensors(tmp_path, STATE)
  conversion.convert(
    sound, tmp_path / "a", conversion.ConversionChoices(architecture=NAME), say=print
  )
  torch_files.save(tmp_path / "model.pth", torch_files.state(STATE), STATE)
  pth = conversion.convert(
    tmp_path / "model.pth",
    tmp_path / "b",
    conversion.ConversionChoices(architecture=NAME),
    say=print,
  )
  assert {path.name for path in pth.iterdir()} == {"config.json", "model.safetensors"}
  assert _repository(tmp_path / "repository").is_dir()
  conversion.convert(
    tmp_path / "repository",
    tmp_path / "c",
    conversion.ConversionChoices(default_preprocess=True),
    say=print,
  )


# ------------------------------------------------------------ keys, shapes, numbers
def changed(key, array, state=STATE):
  return {**state, key: array}


KEYS = sorted(key for key in STATE if not key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key(key, tmp_path):
  state = {k: v for k, v in STATE.items() if k != key}
  assert key in refused(safetensors(tmp_path, state), tmp_path / "target")


@pytest.mark.parametrize("key", KEYS[::2])
def test_a_renamed_key_names_the_nearest(key, tmp_path):
  typo = key[:-2] + key[-1]
  state = {typo if k == key else k: v for k, v in STATE.items()}
  message = refused(safetensors(tmp_path, state), tmp_path / "target")
  assert repr(typo) in message and repr(key) in message


@pytest.mark.parametrize("key", ["layer3.0.conv1.weight", "optimizer", "bn1.wieght", "model", "0"])
def test_an_unexpected_key(key, tmp_path):
  source = safetensors(tmp_path, changed(key, np.ones((2, 2), np.float32)))
  assert repr(key) in refused(source, tmp_path / "target")


SHAPES = {
  "longer": lambda x: np.concatenate([x, x]),
  "flat": lambda x: x.reshape(-1) if x.ndim > 1 else x[None],
  "turned": lambda x: np.ascontiguousarray(x.T) if x.ndim > 1 else x[:, None],
  "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("how", SHAPES)
@pytest.mark.parametrize("key", ["conv1.weight", "bn1.bias", "layer1.0.bn2.running_var"])
def test_a_wrong_shape_names_both(key, how, tmp_path):
  array = SHAPES[how](STATE[key])
  message = refused(safetensors(tmp_path, changed(key, array)), tmp_path / "target")
  assert str(list(array.shape)) in message and repr(key) in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", KEYS[::4])
def test_a_number_that_is_not_finite(key, value, tmp_path):
  array = STATE[key].copy()
  array.reshape(-1)[array.size // 2] = value
  message = refused(safetensors(tmp_path, changed(key, array)), tmp_path / "target")
  assert repr(key) in message and "NaN" in message


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "bool"])
def test_numbers_of_a_kind_that_no_weight_has(dtype, tmp_path):
  source = safetensors(tmp_path, changed("conv1.weight", STATE["conv1.weight"].astype(dtype)))
  assert "conv1.weight" in refused(source, tmp_path / "target")


@pytest.mark.parametrize("classes", [0, -3])
def test_a_wrong_number_of_classes(classes, tmp_path):
  assert "num_classes" in refused(
    safetensors(tmp_path, STATE), tmp_path / "target", num_classes=classes
  )


@pytest.mark.parametrize(
  "choices, near",
  [
    ({"architecture": "resnet_50"}, "resnet50"),
    ({"layout": "torchvison"}, "torchvision"),
    ({"dtype": "float23"}, "float32"),
    ({"to": "bundel"}, "bundle"),
  ],
)
def test_misspelt_choices(choices, near, tmp_path):
  assert f"'{near}'" in refused(safetensors(tmp_path, STATE), tmp_path / "target", **choices)


# -------------------------------------------------------------------- safetensors
def damaged(path, seed):
  """Cuts a file short, or flips a bit of its header."""
  content, rng = bytearray(path.read_bytes()), random.Random(seed)
  (length,) = struct.unpack("<Q", content[:8])
  if seed % 2:
    path.write_bytes(content[: rng.randrange(len(content))])
  else:
    place = rng.randrange(8 + length)
    content[place] ^= 1 << rng.randrange(7)
    path.write_bytes(content)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_safetensors_file(seed, tmp_path):
  source = safetensors(tmp_path, STATE)
  damaged(source, seed)
  refused(source, tmp_path / "target")


HEADERS = {
  "overlap": lambda h: h["bn1.bias"].update(data_offsets=h["bn1.weight"]["data_offsets"]),
  "backwards": lambda h: h["bn1.bias"]["data_offsets"].reverse(),
  "beyond": lambda h: h["bn1.bias"].update(data_offsets=[10**9, 10**9 + 32]),
  "negative": lambda h: h["bn1.bias"].update(data_offsets=[-32, 0]),
  "dtype": lambda h: h["bn1.bias"].update(dtype="F8_SOMETHING"),
  "no dtype": lambda h: h["bn1.bias"].pop("dtype"),
  "no shape": lambda h: h["bn1.bias"].pop("shape"),
  "negative shape": lambda h: h["bn1.bias"].update(shape=[-8]),
  "text": lambda h: h.update({"bn1.bias": "not an entry"}),
  "hole": lambda h: h.pop("bn1.bias"),
}


@pytest.mark.parametrize("how", HEADERS)
def test_a_header_that_contradicts_itself(how, tmp_path):
  source = safetensors(tmp_path, STATE)
  content = source.read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  header = json.loads(content[8 : 8 + length])
  HEADERS[how](header)
  text = json.dumps(header).encode()
  source.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
  refused(source, tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 8, b"\xff" * 64, struct.pack("<Q", 2**40)])
def test_no_safetensors_at_all(content, tmp_path):
  source = tmp_path / "model.safetensors"
  source.write_bytes(content)
  refused(source, tmp_path / "target")


# ------------------------------------------------------------------- repositories
def _repository(folder, config=CONFIG, state=HUGGING_FACE):
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(config))
  safetensors(folder, state)
  return folder


@pytest.mark.parametrize(
  "change, word",
  [
    ({"model_type": "resnett"}, "resnet"),
    ({"model_type": None}, "model_type"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"downsample_in_bottleneck": True}, "downsample_in_bottleneck"),
    ({"num_channels": 1}, "num_channels"),
    ({"layer_type": "botleneck"}, "bottleneck"),
    ({"depths": [1, 2]}, "layers.1"),
    ({"hidden_sizes": [8, 24]}, "24"),
    ({"norm_style": "new"}, "norm_style"),
    ({"architectures": ["ResNetForSomething"]}, "ResNetForSomething"),
    ({"architectures": ["ResNetModel"]}, "classifier"),
    ({"id2label": {"0": "one", "1": "two"}}, "num_classes"),
  ],
)
def test_a_configuration_that_is_not_understood(change, word, tmp_path):
  source = _repository(tmp_path / "repository", {**CONFIG, **change})
  message = refused(source, tmp_path / "target", architecture=None, default_preprocess=True)
  assert word in message


@pytest.mark.parametrize("text", ["", "{", "[]", '"resnet"', "null", "\x00\x01"])
def test_a_configuration_that_cannot_be_read(text, tmp_path):
  source = _repository(tmp_path / "repository")
  (source / "config.json").write_text(text)
  refused(source, tmp_path / "target", architecture=None)


def _sharded(folder):
  """A repository of two shards and their index."""
  folder = _repository(folder)
  (folder / "model.safetensors").unlink()
  names = sorted(HUGGING_FACE)
  parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
  for file, keys in parts.items():
    write_safetensors(folder / file, {key: HUGGING_FACE[key] for key in keys})
  index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
  return folder, index


INDEXES = {
  "absent key": lambda m: m.update({"nothing.weight": "a.safetensors"}),
  "absent shard": lambda m: m.update(dict.fromkeys(list(m)[:1], "c.safetensors")),
  "unindexed key": lambda m: m.pop(next(iter(m))),
  "wrong shard": lambda m: m.update(dict.fromkeys(list(m)[:1], "b.safetensors")),
  "outside": lambda m: m.update(dict.fromkeys(list(m)[:1], "../../a.safetensors")),
  "no name": lambda m: m.update(dict.fromkeys(list(m)[:1], 3)),
}


@pytest.mark.parametrize("how", INDEXES)
def test_an_index_that_does_not_fit_its_shards(how, tmp_path):
  source, index = _sharded(tmp_path / "repository")
  INDEXES[how](index["weight_map"])
  (source / "model.safetensors.index.json").write_text(json.dumps(index))
  refused(source, tmp_path / "target", architecture=None, default_preprocess=True)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "b.safetensors", "all"])
def test_a_repository_without(missing, tmp_path):
  source, index = _sharded(tmp_path / "repository")
  (source / "model.safetensors.index.json").write_text(json.dumps(index))
  for file in source.iterdir():
    weights = "config" not in file.name
    if missing in (file.name, "all") or (missing == "model.safetensors" and weights):
      file.unlink()
  refused(source, tmp_path / "target", architecture=None)


# ------------------------------------------------------------------------ pickles
HOSTILE = [
  ("os", "system"),
  ("posix", "system"),
  ("nt", "system"),
  ("subprocess", "Popen"),
  ("subprocess", "check_output"),
  ("builtins", "eval"),
  ("builtins", "exec"),
  ("__builtin__", "eval"),
  ("builtins", "getattr"),
  ("builtins", "__import__"),
  ("builtins", "open"),
  ("importlib", "import_module"),
  ("pickle", "loads"),
  ("functools", "partial"),
  ("operator", "attrgetter"),
  ("types", "FunctionType"),
  ("codecs", "encode"),
  ("runpy", "run_path"),
  ("shutil", "rmtree"),
  ("torch", "load"),
  ("torch.hub", "load"),
  ("torch.nn.modules.conv", "Conv2d"),
  ("torch._utils", "_rebuild_device_tensor_from_numpy"),
  ("torch.storage", "_load_from_bytes"),
  ("numpy.core.multiarray", "_reconstruct"),
  ("argparse.Namespace", "__init__"),
  ("collections", "OrderedDict.__init__.__globals__"),
  ("my.project", "Config"),
]


@pytest.mark.parametrize("module, name", HOSTILE)
def test_a_pickle_that_would_run_something(module, name, tmp_path):
  trace = tmp_path / "trace"
  command = f"touch {trace}"
  value = {**torch_files.state(STATE), "meta": Call(Name(module, name), command)}
  torch_files.save(tmp_path / "model.pth", value, STATE)
  message = refused(tmp_path / "model.pth", tmp_path / "target")
  assert f"{module}.{name}" in message
  assert not trace.exists()


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_pytorch_file(seed, tmp_path):
  source, rng = tmp_path / "model.pth", random.Random(seed)
  torch_files.save(source, torch_files.state(STATE), STATE)
  content = bytearray(source.read_bytes())
  if seed % 2:
    source.write_bytes(content[: rng.randrange(len(content))])
  else:
    place = rng.choice([content.find(b"\x80\x02"), content.find(STATE["conv1.weight"].tobytes())])
    content[place + rng.randrange(1500)] ^= 1 << rng.randrange(8)
    source.write_bytes(content)
  refused(source, tmp_path / "target")


TENSORS = {
  "storage too short": {"size": (8, 3, 7, 9)},
  "negative size": {"size": (-8, 3, 7, 7)},
  "strides beyond": {"strides": (1470, 49, 7, 1)},
  "negative stride": {"strides": (147, 49, 7, -1)},
  "quantised": {"kind": "QInt8Storage"},
  "other numbers": {"kind": "LongStorage"},
}


@pytest.mark.parametrize("how", TENSORS)
def test_a_tensor_that_does_not_fit_its_storage(how, tmp_path):
  array = STATE["conv1.weight"]
  value = torch_files.state(STATE)
  number = str(list(STATE).index("conv1.weight"))
  value["conv1.weight"] = torch_files.tensor(number, array, **TENSORS[how])
  torch_files.save(tmp_path / "model.pth", value, STATE)
  refused(tmp_path / "model.pth", tmp_path / "target")


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"PK", b"not a checkpoint"])
def test_no_pytorch_file_at_all(content, tmp_path):
  source = tmp_path / "model.pth"
  source.write_bytes(content)
  refused(source, tmp_path / "target")


@pytest.mark.parametrize("value", [3, "text", [1, 2], {}, {"epoch": 3}, None])
def test_a_pickle_without_weights(value, tmp_path):
  torch_files.save(tmp_path / "model.pth", value, {})
  refused(tmp_path / "model.pth", tmp_path / "target")


# ------------------------------------------------------------------------ targets
def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  source = safetensors(tmp_path, STATE)
  monkeypatch.setattr("bcos_jax.io.bundles.write_safetensors", interrupted)
  with pytest.raises(KeyboardInterrupt):
    conversion.convert(
      source, tmp_path / "target", conversion.ConversionChoices(architecture=NAME), say=print
    )
  assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors"}


def test_the_command_line_says_cause_and_fix_without_a_traceback(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  source = safetensors(tmp_path, changed("bn1.bais", np.ones(3, np.float32)))
  assert cli.main(["convert", str(source), str(tmp_path / "x"), f"--architecture={NAME}"]) == 2
  said = capsys.readouterr().err
  assert "'bn1.bais'" in said and "fix:" in said and "Traceback" not in said

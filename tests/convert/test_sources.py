"""Sources as people have them: prefixes, settings in pickles, adapters, quantised files."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

import bcos_jax
from bcos_jax import StandardOps, convert, models
from bcos_jax.convert import detect, porting, state_dict, stated
from bcos_jax.convert.files import vocabulary
from bcos_jax.convert.plan import plan
from bcos_jax.convert.sources import Checkpoint
from bcos_jax.errors import InputError
from bcos_jax.io.bundles import make_bundle
from bcos_jax.io.tensor_files import write_safetensors

from .. import torch_files
from ..common import filled, flat, suggestion, tiny


def resnet():
  model = tiny("resnet_tiny", StandardOps())
  return make_bundle(model, filled(model))


def state(prefix=""):
  tensors = convert.to_state_dict(resnet(), "torchvision")
  return {prefix + key: tensor for key, tensor in tensors.items()}


def same(bundle):
  ours, theirs = flat(bundle.variables), flat(resnet().variables)
  return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


# Prefixes.


@pytest.mark.parametrize(
  "prefix", ["backbone.", "encoder.", "module.model.", "net.image.trunk.", "_orig_mod.module."]
)
def test_a_common_prefix_is_found_and_said(tmp_path, prefix):
  write_safetensors(tmp_path / "net.safetensors", state(prefix))
  made = plan(tmp_path / "net.safetensors", "resnet_tiny")
  assert same(made.bundle())
  said = " ".join(note for note in made.notes if "without the prefix" in note)
  assert all(word in said for word in prefix.strip(".").split("."))


def test_a_given_prefix_leaves_the_other_keys_out_and_lists_them(tmp_path):
  tensors = state("student.net.") | {"head.weight": np.zeros(3, np.float32)}
  write_safetensors(tmp_path / "net.safetensors", tensors)
  with pytest.raises(InputError, match="do not fit"):
    plan(tmp_path / "net.safetensors", "resnet_tiny")
  made = plan(tmp_path / "net.safetensors", "resnet_tiny", prefix="student.net.")
  assert same(made.bundle())
  skipped = {row.sources[0]: row.skipped for row in made.rows if row.skipped}
  assert skipped["head.weight"] == "outside the prefix 'student.net.'"
  with pytest.raises(InputError, match=r"No key .* begins with 'teacher\.'.*student"):
    plan(tmp_path / "net.safetensors", "resnet_tiny", prefix="teacher.")


# Settings of training runs.


def checkpoint(path, settings, **entries):
  arrays = state()
  namespace = torch_files.Built(torch_files.Name("argparse", "Namespace"), settings)
  value = {"model": torch_files.state(arrays), "args": namespace, "epoch": 3, **entries}
  torch_files.save(path, value, arrays)
  return path


def test_a_namespace_is_read_as_plain_values(tmp_path):
  folder = torch_files.Call(torch_files.Name("pathlib", "PosixPath"), "/data", "run")
  device = torch_files.Call(torch_files.Name("torch", "device"), "cuda", 0)
  path = checkpoint(tmp_path / "net.pth", {"lr": 0.1, "out": folder, "device": device})
  made = plan(path, "resnet_tiny")
  assert same(made.bundle())
  assert "'args': argparse.Namespace, read as plain values" in made.notes


def test_other_objects_stay_refused(tmp_path):
  system = torch_files.Call(torch_files.Name("posix", "system"), "touch /tmp/owned")
  with pytest.raises(InputError, match=r"posix\.system.*nothing of it was executed"):
    plan(checkpoint(tmp_path / "net.pth", {"hook": system}), "resnet_tiny")


# Which architecture it is.


def test_a_file_that_states_another_architecture(tmp_path):
  path = checkpoint(tmp_path / "net.pth", {"model": "resnetaa50"})
  with pytest.raises(InputError, match=r"states the architecture 'resnetaa50', given is 'resnet_"):
    plan(path, "resnet_tiny")
  path = checkpoint(tmp_path / "net2.pth", {}, arch="resnet_tiny")
  assert same(plan(path, "resnet_tiny").bundle())


def test_a_bare_file_proves_nothing(tmp_path):
  write_safetensors(tmp_path / "net.safetensors", state())
  made = plan(tmp_path / "net.safetensors", "resnet_tiny")
  assert any("nothing in the file proves" in note for note in made.notes)
  assert any("--verify" in note for note in made.notes)


def test_an_entry_is_chosen_by_the_prefix(tmp_path):
  arrays = state()
  held = torch_files.state(arrays)
  torch_files.save(tmp_path / "net.pth", {"student": held, "teacher": held}, arrays)
  with pytest.raises(InputError, match="--prefix=student"):
    plan(tmp_path / "net.pth", "resnet_tiny")
  assert same(plan(tmp_path / "net.pth", "resnet_tiny", prefix="teacher.").bundle())


# Adapters.

LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "use_dora": False, "bias": "none"}
NAME = "base_model.model.layer1.0.conv1"


def adapter(path, base, **changed):
  path.mkdir()
  rng = np.random.default_rng(0)
  shape = state()["layer1.0.conv1.weight"].shape
  tensors = {
    f"{NAME}.lora_A.weight": rng.standard_normal((2, *shape[1:]), np.float32),
    f"{NAME}.lora_B.weight": rng.standard_normal((shape[0], 2, 1, 1), np.float32),
    "base_model.model.fc.bias": np.full(len(state()["fc.bias"]), 7, np.float32),
  }
  write_safetensors(path / "adapter_model.safetensors", tensors)
  about = {**LORA, "base_model_name_or_path": str(base), **changed}
  (path / "adapter_config.json").write_text(json.dumps(about))
  return path, tensors


def base(path):
  path.mkdir()
  write_safetensors(path / "model.safetensors", state())
  (path / "config.json").write_text("{}")
  return path


@pytest.mark.parametrize(
  "changed, scale",
  [
    ({}, 3.0),
    ({"use_rslora": True}, 6 / 2**0.5),
    ({"alpha_pattern": {"layer1.0.conv1": 4}}, 2.0),
  ],
)
def test_an_adapter_is_merged(tmp_path, changed, scale):
  source, tensors = adapter(tmp_path / "lora", base(tmp_path / "base"), **changed)
  made = plan(source, "resnet_tiny")
  got = convert.to_state_dict(made.bundle())
  weight = state()["layer1.0.conv1.weight"]
  a, b = (tensors[f"{NAME}.lora_{part}.weight"] for part in "AB")
  update = scale * (b.reshape(len(b), 2) @ a.reshape(2, -1)).reshape(weight.shape)
  np.testing.assert_allclose(got["layer1.0.conv1.weight"], weight + update, rtol=1e-5, atol=1e-5)
  assert (got["fc.bias"] == 7).all()
  assert np.array_equal(got["conv1.weight"], state()["conv1.weight"])
  assert any("an adapter of 3 tensors is merged into 1" in note for note in made.notes)


@pytest.mark.parametrize(
  "changed, said",
  [
    ({"use_dora": True}, "use_dora is True"),
    ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
    ({"r": 0}, "no usable r"),
  ],
)
def test_other_adapters_are_refused_by_name(tmp_path, changed, said):
  source, _ = adapter(tmp_path / "lora", base(tmp_path / "base"), **changed)
  with pytest.raises(InputError, match=said):
    plan(source, "resnet_tiny")


def test_an_adapter_without_its_base(tmp_path):
  source, _ = adapter(tmp_path / "lora", tmp_path / "nowhere")
  with pytest.raises(InputError, match=r"adapter of .*nowhere.*beside it"):
    plan(source, "resnet_tiny")


# Quantised.


@pytest.mark.parametrize(
  "about, said",
  [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"bitsandbytes \(4 bits\)"),
    ({"quant_method": "gptq", "bits": 4}, r"gptq \(4 bits\)"),
    ({"quant_method": "awq", "bits": 4}, "awq"),
    ({"quant_method": "fp8"}, "fp8"),
  ],
)
def test_a_quantised_folder(tmp_path, about, said):
  folder = base(tmp_path / "net")
  (folder / "config.json").write_text(json.dumps({"quantization_config": about}))
  with pytest.raises(InputError, match=f"quantised by {said}.*Convert the network it was made"):
    plan(folder, "resnet_tiny")


@pytest.mark.parametrize(
  "key, said", [("fc.qweight", "GPTQ or AWQ"), ("fc.weight.absmax", "4 bits"), ("a.SCB", "8 bits")]
)
def test_a_quantised_file(tmp_path, key, said):
  tensors = state() | {key: np.zeros(4, np.uint8)}
  write_safetensors(tmp_path / "net.safetensors", tensors)
  with pytest.raises(InputError, match=said):
    plan(tmp_path / "net.safetensors", "resnet_tiny")


@pytest.mark.parametrize("name, said", [("a.gguf", "GGUF"), ("a.onnx", "ONNX"), ("a.h5", "Keras")])
def test_files_of_other_formats(tmp_path, name, said):
  (tmp_path / name).write_bytes(b"GGUF....")
  with pytest.raises(InputError, match=f"format {said}"):
    plan(tmp_path / name)


# Damaged.


def test_a_deeply_nested_header(tmp_path):
  text = b"[" * 200_000
  text += b" " * (-len(text) % 8)
  (tmp_path / "net.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 16)
  with pytest.raises(InputError, match="is not a complete safetensors file"):
    plan(tmp_path / "net.safetensors", "resnet_tiny")


@pytest.mark.parametrize(
  "changed, said",
  [
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_hidden_layers": 1_000_000}, "1,000,000 layers, the weights 1 tensors"),
  ],
)
def test_sizes_that_no_file_holds(tmp_path, changed, said):
  about = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, **changed}
  (tmp_path / "config.json").write_text(json.dumps({"intermediate_size": 64, **about}))
  write_safetensors(tmp_path / "model.safetensors", {"a": np.zeros(3, np.float32)})
  with pytest.raises(InputError, match=said):
    plan(tmp_path)


def test_an_unknown_key_of_a_bundle(tmp_path):
  bundle = resnet()
  folder = bcos_jax.save(tmp_path / "net", bundle.model, bundle.variables)
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps({**config, "labells": []}))
  with pytest.raises(InputError, match=suggestion("labels")):
    bcos_jax.load(folder)


def test_layouts_that_work_are_named():
  with pytest.raises(InputError, match=r"Layouts that work: .*torchvision"):
    convert.to_state_dict(resnet(), "bcos_v2")


# Tokenizers and tables.


@pytest.mark.parametrize(
  "name, content",
  [
    ("vocab.txt", "\n".join("abcdefghijk").encode()),
    ("vocab.json", json.dumps({word: i for i, word in enumerate("abcdefghijk")}).encode()),
    (
      "tokenizer.json",
      json.dumps(
        {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 10, "content": "<x>"}]}
      ).encode(),
    ),
    ("tokenizer.json", json.dumps({"model": {"vocab": [["a", 0.0]] * 11}}).encode()),
  ],
)
def test_every_id_needs_a_row_and_more_rows_are_fine(name, content):
  for rows in (11, 12, 60):
    vocabulary.check({name: content}, rows)
  with pytest.raises(InputError, match="has 11 ids, the network 10"):
    vocabulary.check({name: content}, 10)


# Files that say no name, and such that say another.


def bare(path, name, layout):
  """A state dict alone, of a network of 3 classes and random weights: (path, bundle)."""
  model = bcos_jax.create(name, ops=StandardOps(), num_classes=3)
  bundle = make_bundle(model, filled(model))
  write_safetensors(path, convert.to_state_dict(bundle, layout))
  return path, bundle


def only(monkeypatch, *names):
  """Leaves the architectures of these names: detection tries every variant of all."""
  found = models.architecture(names[0])
  kept = dataclasses.replace(found, variants={name: found.variants[name] for name in names})
  monkeypatch.setattr(models, "architectures", lambda: (kept,))


def test_the_plain_one_of_several_is_taken_and_said(tmp_path, monkeypatch):
  """An anti-aliased ResNet has the keys and shapes of a ResNet."""
  path, _ = bare(tmp_path / "net.safetensors", "resnetblur18", "timm")
  only(monkeypatch, "resnetblur18", "resnet18", "resnet34", "resnet50_long")
  made = plan(path)
  note = "nothing proves the architecture; check with --verify: 'resnet18' is the plain one"
  assert any(line.startswith(note) and "'resnetblur18'" in line for line in made.notes)
  assert stated.is_unproven(made.notes)
  assert made.model.variant == "resnet18" and made.model.downsampling == "stride"


@pytest.mark.parametrize(
  "names, layout",
  [
    (("vit_base_patch32_clip_quickgelu_224", "vit_base_patch32_clip_224"), "timm"),
    (("dinov2_vits14", "vit_small_patch14_dinov2"), "timm"),
    (("swinv2_tiny_window16_256", "swinv2_tiny_window8_256"), "timm"),
  ],
)
def test_several_of_different_functions_are_listed(tmp_path, monkeypatch, names, layout):
  tensors: Any = lazy_state(names[0], layout)
  only(monkeypatch, *names)
  with pytest.raises(InputError) as error:
    detect.detect(Checkpoint("net", tensors), None)
  assert all(name in error.value.cause for name in names)
  assert "--architecture" in error.value.fix


def lazy_state(name, layout):
  """The keys and shapes of a network, without its numbers."""
  model = bcos_jax.create(name, ops=StandardOps())
  leaves = {
    path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in porting.wanted(model).items()
  }
  tables = state_dict.keys_of(model, layout)
  keys = max(tables, key=lambda keys: state_dict._written(keys, leaves))
  return porting.export(leaves, keys.table, {})


def test_a_given_architecture_that_the_configuration_contradicts(tmp_path):
  (tmp_path / "net").mkdir()
  write_safetensors(tmp_path / "net" / "model.safetensors", state())
  config = {"model_type": "clip_vision_model", "hidden_act": "gelu", "projection_dim": 512}
  (tmp_path / "net" / "config.json").write_text(json.dumps(config))
  with pytest.raises(InputError, match=r"contradicts .*activation 'gelu' for 'quick_gelu'"):
    plan(tmp_path / "net", "clip_vit_base_patch32")
  with pytest.raises(InputError, match=r"contradicts .*a VisionTransformer for a ResNet"):
    plan(tmp_path / "net", "resnet_tiny")


# Folders without a configuration, averages, labels.


@pytest.mark.parametrize("name", ["model.safetensors", "anything.safetensors"])
def test_a_folder_without_configuration_needs_a_name(tmp_path, name):
  (tmp_path / "net").mkdir()
  write_safetensors(tmp_path / "net" / name, state())
  with pytest.raises(InputError, match=r"no config\.json.*--architecture"):
    plan(tmp_path / "net")
  made = plan(tmp_path / "net", "resnet_tiny")
  assert same(made.bundle())
  assert any("no config.json" in note for note in made.notes)
  assert any("how pictures are read" in note for note in made.notes)
  write_safetensors(tmp_path / "net" / "another.safetensors", state())
  if name.startswith("any"):
    with pytest.raises(InputError, match=r"another\.safetensors, anything\.safetensors"):
      plan(tmp_path / "net", "resnet_tiny")


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema", "ema", "ema inside"])
def test_averages_in_entries(tmp_path, entry):
  averaged = state()
  last = {key: tensor * 0 for key, tensor in averaged.items()}
  arrays = {**last, **{f"ema.{key}": tensor for key, tensor in averaged.items()}}
  saved = torch_files.state(arrays)
  mean = {k.removeprefix("ema."): value for k, value in saved.items() if k.startswith("ema.")}
  held = {"module": mean, "updates": 5} if entry == "ema inside" else mean
  name = entry.partition(" ")[0]
  value = {"state_dict": {key: saved[key] for key in last}, name: held}
  torch_files.save(tmp_path / "net.pth", value, arrays)
  made = plan(tmp_path / "net.pth", "resnet_tiny", ema=True)
  assert same(made.bundle()) and f"weights from the entry {name!r}" in made.notes
  made = plan(tmp_path / "net.pth", "resnet_tiny")
  assert not same(made.bundle()) and "weights from the entry 'state_dict'" in made.notes
  assert f"averaged weights are in the entry {name!r}, taken with --ema" in made.notes


@pytest.mark.parametrize("prefix", ["ema.module.", "model_ema.module.", "ema_model.", "ema."])
def test_averages_beside_the_last_weights(tmp_path, prefix):
  averaged = state()
  both = {key: tensor * 0 for key, tensor in averaged.items()}
  both |= {prefix + key: tensor for key, tensor in averaged.items()}
  both[prefix.partition(".")[0] + ".n_averaged"] = np.zeros((), np.int64)
  write_safetensors(tmp_path / "net.safetensors", both)
  assert same(plan(tmp_path / "net.safetensors", "resnet_tiny", ema=True).bundle())
  made = plan(tmp_path / "net.safetensors", "resnet_tiny")
  assert not same(made.bundle())
  skipped = {row.sources[0]: row.skipped for row in made.rows if row.skipped}
  assert skipped[f"{prefix}conv1.weight"] == "averaged weights, taken with --ema"


@pytest.mark.parametrize("ema", [True, False])
def test_an_average_alone(tmp_path, ema):
  tensors = state("module.") | {"n_averaged": np.zeros((), np.int64)}
  write_safetensors(tmp_path / "net.safetensors", tensors)
  made = plan(tmp_path / "net.safetensors", "resnet_tiny", ema=ema)
  assert same(made.bundle())
  assert any("AveragedModel" in note for note in made.notes)
  write_safetensors(tmp_path / "plain.safetensors", state())
  if ema:
    with pytest.raises(InputError, match="holds no averaged weights"):
      plan(tmp_path / "plain.safetensors", "resnet_tiny", ema=True)


def test_labels_are_declined(tmp_path):
  model = tiny("resnet_tiny", StandardOps(), num_classes=1000)
  tensors = convert.to_state_dict(make_bundle(model, filled(model)), "torchvision")
  write_safetensors(tmp_path / "net.safetensors", tensors)
  made = plan(tmp_path / "net.safetensors", "resnet_tiny")
  assert made.bundle().labels[0] == "tench" and any("--no_labels" in n for n in made.notes)
  made = plan(tmp_path / "net.safetensors", "resnet_tiny", labels=False)
  assert made.bundle().labels == () and not any("ImageNet" in note for note in made.notes)

"""The lines of "one line" on folders as timm and transformers save them."""

import json

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from ..network import one_line  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
LABELS = ("cat", "dog", "bird")


def test_a_timm_folder(tmp_path):
  live.torchvision()
  import timm

  torch.manual_seed(0)
  network = live.stirred(timm.create_model("resnet18", num_classes=3))
  timm.models.save_for_hf(
    network, tmp_path / "timm", model_config={"label_names": list(LABELS), "num_classes": 3}
  )
  config = json.loads((tmp_path / "timm" / "config.json").read_text())
  (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
  net = one_line.check(tmp_path / "timm", "dog", tmp_path)
  assert net.labels == LABELS and net.name == "resnet18"


def test_a_transformers_folder(tmp_path):
  live.torchvision()
  import transformers

  torch.manual_seed(0)
  config = transformers.ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
    id2label=dict(enumerate(LABELS)),
    label2id={name: i for i, name in enumerate(LABELS)},
  )
  folder = tmp_path / "hub"
  live.stirred(transformers.ViTForImageClassification(config)).save_pretrained(folder)
  transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
  assert one_line.check(folder, "bird", tmp_path).labels == LABELS
  file = folder / "model.safetensors"  # beside its config
  assert one_line.check(file, "bird", tmp_path / "again").labels == LABELS

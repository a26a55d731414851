"""`bcos-jax convert --to=huggingface`: folders that transformers opens, and computes the same."""

import json

import numpy as np
from PIL import Image
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import StandardOps, cli  # noqa: E402
from bcos_jax.convert.readers import writing  # noqa: E402
from bcos_jax.errors import InputError  # noqa: E402
from bcos_jax.inputs import Preprocess  # noqa: E402
from bcos_jax.io.bundles import make_bundle  # noqa: E402

from ..common import applied, filled, photos, rel  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
LABELS = ("ant", "bee", "cat", "dog", "elk")
SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 32}
BLOCKS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
NAMES = {
  "id2label": {i: f"class {i}" for i in range(3)},
  "label2id": {f"class {i}": i for i in range(3)},
}
FROM_TRANSFORMERS = {
  "ViTForImageClassification": (SMALL | BLOCKS, "ViTImageProcessor"),
  "ResNetForImageClassification": (
    {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    "ConvNextImageProcessor",
  ),
  "ConvNextForImageClassification": (
    {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 32},
    "ConvNextImageProcessor",
  ),
  "SwinForImageClassification": (
    {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
    | {"window_size": 4},
    "ViTImageProcessor",
  ),
}
OURS = {
  "resnet_tiny": {},
  "resnet18": {"num_classes": 5, "image_size": 64},
  "resnet50": {"num_classes": 5, "image_size": 64},
  "vit_tiny_patch16_224": {"num_classes": 5, "image_size": 32, "depth": 2},
  "convnext_tiny": {"num_classes": 5, "image_size": 64, "stages": (1, 1, 2, 1)},
}


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
  monkeypatch.setattr(cli, "keep_compiled", lambda: None)
  torch.manual_seed(0)


def transformers():
  live.torchvision()
  import transformers

  return transformers


def opened(folder, path):
  """Returns the logits and class names that transformers makes of a picture file."""
  auto = transformers()
  network, about = auto.AutoModelForImageClassification.from_pretrained(
    folder, output_loading_info=True
  )
  assert not about["missing_keys"] and not about["unexpected_keys"], about
  with Image.open(path) as picture, torch.no_grad():
    pixels = auto.AutoImageProcessor.from_pretrained(folder, backend="pil")(
      picture.convert("RGB"), return_tensors="pt"
    )
    return network.eval()(**pixels).logits.numpy(), tuple(network.config.id2label.values())


def assert_same(bundle, folder, tmp_path):
  """Compares what both make of a picture file, whose margins are even."""
  path = tmp_path / "picture.png"
  Image.fromarray(np.uint8(255 * photos(1, 96)[0])).save(path)
  logits, labels = opened(folder, path)
  image = bcos_jax.inputs.of_pictures(bundle.preprocess)(path)[None]
  own = applied(bundle.model)(bundle.variables, image)
  assert rel(own, logits) < 1e-4
  assert labels == (bundle.labels or tuple(f"LABEL_{i}" for i in range(bundle.model.num_classes)))


@pytest.mark.parametrize("name", FROM_TRANSFORMERS)
def test_what_came_from_transformers_goes_back_with_other_classes(name, tmp_path):
  """As a fine-tuning leaves it: another head, and the origin that its bundle records."""
  auto = transformers()
  fields, processor = FROM_TRANSFORMERS[name]
  cls = getattr(auto, name)
  network = live.stirred(cls(cls.config_class(**fields, **NAMES)))
  network.save_pretrained(tmp_path / "theirs")
  getattr(auto, processor)(
    size={"shortest_edge": 32} if "Next" in processor else {"height": 32, "width": 32}
  ).save_pretrained(tmp_path / "theirs")
  assert cli.main(["convert", str(tmp_path / "theirs"), str(tmp_path / "bundle")]) == 0
  bundle = bcos_jax.load(tmp_path / "bundle")
  assert (
    cli.main(["convert", str(tmp_path / "bundle"), str(tmp_path / "same"), "--to=huggingface"]) == 0
  )
  assert_same(bundle, tmp_path / "same", tmp_path)
  for file in ("config.json", "preprocessor_config.json"):
    theirs, ours = (json.loads((tmp_path / f / file).read_text()) for f in ("theirs", "same"))
    assert {k: v for k, v in theirs.items() if ours.get(k) != v} == {}
  model = bundle.model.clone(num_classes=5)
  head = filled(model)["params"][model.head]
  variables = {**bundle.variables, "params": {**bundle.variables["params"], model.head: head}}
  tuned = make_bundle(
    model,
    variables,
    preprocess=bundle.preprocess,
    labels=LABELS,
    provenance={"recipe": "finetune", "init": bundle.config["provenance"]},
  )
  folder = bcos_jax.convert.targets.write(tuned, tmp_path / "tuned", "huggingface")
  assert_same(tuned, folder, tmp_path)


@pytest.mark.parametrize(
  ("name", "resize"),
  [*((name, 0) for name in OURS), ("resnet18", 128), ("resnet18", (128, 128))],
)
def test_networks_of_other_origin_get_a_configuration_of_their_own(name, resize, tmp_path):
  model = bcos_jax.create(name, ops=StandardOps(), **OURS[name])
  read = Preprocess((model.image_size,) * 2, resize, "bicubic")
  bundle = make_bundle(model, filled(model), preprocess=read)
  folder = bcos_jax.convert.targets.write(bundle, tmp_path / name, "huggingface")
  assert_same(bundle, folder, tmp_path)


def test_networks_that_transformers_lacks_get_no_configuration(tmp_path):
  fields = {"num_classes": 5, "average_shortcut": True, "image_size": 64}
  model = bcos_jax.create("resnet18", ops=StandardOps(), **fields)
  assert writing.config_of(make_bundle(model, filled(model))) is None
  with pytest.raises(InputError):
    bcos_jax.convert.targets.write(
      make_bundle(model, filled(model)), tmp_path / "new", "huggingface"
    )
  assert not (tmp_path / "new").exists()

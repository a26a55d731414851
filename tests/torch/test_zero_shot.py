"""Image-text similarities of random Hugging Face towers, against the originals."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from bcos_jax import TextTower, convert, zero_shot  # noqa: E402

from .. import tokenizers  # noqa: E402
from ..common import photos, rel  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch

TOWER = {
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
}
TEXT = {**TOWER, "vocab_size": 50, "max_position_embeddings": 16}
PATCH = 8
IMAGE = {**TOWER, "image_size": 32, "patch_size": PATCH}
CASES = {
  "clip": (
    "CLIP",
    tokenizers.clip,
    {"bos_token_id": 48, "eos_token_id": tokenizers.CLIP_END},
    {"projection_dim": 20},
  ),
  "siglip": ("Siglip", tokenizers.words, {"eos_token_id": tokenizers.SIGLIP_END}, {}),
  # Those of a fixed size have SigLIP's configuration; this one takes patches.
  "siglip2": ("Siglip2", tokenizers.words, {"eos_token_id": tokenizers.SIGLIP_END}, {}),
}
PROMPTS = ["a photo of a dog", "the red car", "sky"]


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)
  torch.manual_seed(0)


def _network(name, folder):
  live.torchvision()
  import transformers

  prefix, save_tokenizer, ends, fields = CASES[name]
  vision = dict(IMAGE)
  if name == "siglip2":
    vision["num_patches"] = (vision.pop("image_size") // PATCH) ** 2
  config = getattr(transformers, f"{prefix}Config")(
    text_config={**TEXT, **ends}, vision_config=vision, **fields
  )
  network = live.stirred(getattr(transformers, f"{prefix}Model")(config))
  network.save_pretrained(folder)
  return network, save_tokenizer(folder / "tokenizer")


def _pixels(name, pixels):
  """Returns the pixels [N, C, H, W] as a network takes them."""
  if name != "siglip2":
    return {"pixel_values": pixels}
  n, c, h, w = pixels.shape
  patches = pixels.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 3, 5, 1)
  patches = patches.reshape(n, -1, c * PATCH**2)
  return {
    "pixel_values": patches,
    "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long),
    "spatial_shapes": torch.tensor([[h // PATCH, w // PATCH]] * n),
  }


@pytest.mark.parametrize("name", CASES)
def test_similarities_are_those_of_the_original(name, tmp_path):
  network, folder = _network(name, tmp_path)
  image = convert.from_pretrained(tmp_path, default_preprocess=True)
  text = convert.from_pretrained(tmp_path, f"{name.rstrip('2')}_text_test")
  towers = zero_shot.Towers.of(image, TextTower.load(text, folder))
  assert towers.sigmoid == name.startswith("siglip")
  images = photos(3, side=32)
  ids = towers.text.tokenizer(PROMPTS)
  encoded = np.asarray(image.model.ops.encoding(images)).transpose(0, 3, 1, 2).copy()
  with torch.no_grad():
    expected = network(
      input_ids=torch.from_numpy(ids.astype(np.int64)), **_pixels(name, torch.from_numpy(encoded))
    ).logits_per_image.numpy()
  found = towers.logits(towers.image_features(images), towers.text_features(PROMPTS))
  assert rel(found, expected) <= 1e-5
  # The bias hides differences between images: without it too, and as the classifier has it.
  bare = dataclasses.replace(towers, bias=0.0)
  classifier = bare.classifier(PROMPTS, ["{}"])
  assert rel(classifier.classify(images).logits, expected - towers.bias) <= 1e-5

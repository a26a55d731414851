"""Swin Transformers of Hugging Face, torchvision and timm: every layer, and files both ways."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, convert  # noqa: E402
from bcos_jax.convert.architectures import swin  # noqa: E402
from bcos_jax.errors import InputError  # noqa: E402

from ..common import applied, photos, rel  # noqa: E402
from . import live  # noqa: E402

pytestmark = pytest.mark.torch
SIDE, OTHER = (32, 32), (40, 52)  # windows of 3 divide neither 8 x 8 nor 10 x 13 patches


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)
  torch.manual_seed(0)


@functools.cache
def _transformers():
  live.torchvision()
  import transformers

  return transformers


SIZES = {
  "image_size": 32,
  "embed_dim": 16,
  "depths": [2, 1],
  "num_heads": [2, 4],
  "window_size": 3,
  "mlp_ratio": 2.0,
}
# Class of the network, its configuration, and what differs from the sizes above.
HUGGING_FACE = {
  "swin": ("SwinForImageClassification", "SwinConfig", {}),
  "swin_model": ("SwinModel", "SwinConfig", {"qkv_bias": False, "hidden_act": "quick_gelu"}),
  "swin_one_window": (
    "SwinForImageClassification",
    "SwinConfig",
    {"depths": [1, 2], "window_size": 5, "layer_norm_eps": 1e-3},
  ),
  "swinv2": ("Swinv2ForImageClassification", "Swinv2Config", {}),
  "swinv2_model": (
    "Swinv2Model",
    "Swinv2Config",
    {"qkv_bias": False, "pretrained_window_sizes": [5, 4]},
  ),
  "swinv2_one_window": (
    "Swinv2ForImageClassification",
    "Swinv2Config",
    {"depths": [1, 2], "window_size": 5},
  ),
}


def _hugging_face(name, folder):
  """A random network, saved and read again by the package: (network, file, bundle)."""
  from safetensors.numpy import load_file

  transformers = _transformers()
  network, config, fields = HUGGING_FACE[name]
  config = getattr(transformers, config)(**{**SIZES, **fields}, num_labels=5)
  network = live.stirred(getattr(transformers, network)(config))
  network.save_pretrained(folder)
  given = network.config.to_diff_dict()
  attributes = {**network.config.to_dict(), "architectures": [type(network).__name__]}
  reader = swin.READERS[config.model_type]
  state = load_file(folder / "model.safetensors")
  bundle = convert.from_state_dict(
    state, reader.architecture, "huggingface", fields=reader.read(attributes, given)
  )
  return network, state, bundle


def _inputs(*shapes):
  seeded = np.random.RandomState(0)
  return [seeded.standard_normal((2, *shape, 3)).astype(np.float32) for shape in shapes]


def _assert_written_back(bundle, state):
  written = convert.to_state_dict(bundle)
  assert written.keys() == state.keys()
  for key, tensor in state.items():
    assert written[key].dtype == tensor.dtype and written[key].shape == tensor.shape, key
    assert written[key].tobytes() == np.ascontiguousarray(tensor).tobytes(), key


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_hugging_face(name, tmp_path):
  network, state, bundle = _hugging_face(name, tmp_path)
  layout = name.removesuffix("_one_window")
  assert bundle.config["provenance"] == {"source": "huggingface", "layout": layout}
  # Large images first: Hugging Face's V1 never shifts again once it saw a single window.
  shapes = (OTHER, SIDE) if name in ("swin", "swinv2") else (OTHER,)
  live.assert_computes_the_same(network, bundle, _inputs(*shapes))
  _assert_written_back(bundle, state)


def test_hugging_face_configuration_beside_the_file(tmp_path):
  _, _, expected = _hugging_face("swinv2", tmp_path)
  bundle = convert.from_pretrained(tmp_path, default_preprocess=True)
  assert bundle.model == expected.model


STAGES = {"depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 4), "mlp_ratio": 2.0}
TEST = {1: "swin_test", 2: "swin_v2_test"}


def _torchvision(version):
  swin_transformer = live.torchvision().models.swin_transformer
  kinds = {
    1: (swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging),
    2: (swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2),
  }
  block, merging = kinds[version]
  sizes = ([4, 4], 8, list(STAGES["depths"]), list(STAGES["num_heads"]), [3, 3], 2.0)
  network = swin_transformer.SwinTransformer(
    *sizes, num_classes=5, block=block, downsample_layer=merging
  )
  coordinates = {k: t.clone() for k, t in network.state_dict().items() if "coords_table" in k}
  live.stirred(network).load_state_dict(coordinates, strict=False)
  for key, tensor in network.state_dict().items():
    if version == 2 and key.endswith("qkv.bias"):
      tensor.chunk(3)[1].zero_()  # as torchvision starts and keeps it
  return network


@pytest.mark.parametrize("version", TEST)
def test_torchvision(version):
  network = _torchvision(version)
  state = live.numpy_state(network)
  bundle = convert.from_state_dict(state, TEST[version], fields={"width": 8, **STAGES})
  assert bundle.config["provenance"]["source"] == "torchvision"
  # Maps of 5 x 10 patches, and of 3 x 5, whose second axis alone holds several windows.
  live.assert_computes_the_same(network, bundle, _inputs((20, 40)))
  _assert_written_back(bundle, state)


def test_key_biases_that_torchvision_ignores():
  state = live.numpy_state(_torchvision(2))
  state["features.1.0.attn.qkv.bias"][9] = 1
  with pytest.raises(InputError, match="biases of keys other than zero"):
    convert.from_state_dict(state, TEST[2], fields={"width": 8, **STAGES})


@pytest.mark.parametrize("version", TEST)
def test_timm(version):
  live.torchvision()
  from timm.models import swin_transformer, swin_transformer_v2

  cls = (swin_transformer.SwinTransformer, swin_transformer_v2.SwinTransformerV2)[version - 1]
  network = live.stirred(cls(img_size=96, window_size=3, num_classes=5, embed_dim=8, **STAGES))
  assert [layer.blocks[-1].window_size[0] for layer in network.layers] == [3, 3, 3, 3]
  assert network.layers[1].blocks[1].shift_size == (1, 1)
  fields = {**STAGES, "width": 8, "image_size": 96, "window_rule": "fixed"}
  bundle = convert.from_state_dict(live.numpy_state(network), TEST[version], "timm", fields=fields)
  live.assert_computes_the_same(network, bundle, _inputs((96, 96)))
  _assert_written_back(bundle, live.numpy_state(network))


def test_b_1_equals_pytorch_and_explains(tmp_path):
  network, _, bundle = _hugging_face("swinv2", tmp_path)
  model, variables = bcos_jax.bcosify(bundle.model, bundle.variables, ops=BcosOps.equivalent())
  images = photos(2, side=32)
  seen = np.asarray(bundle.model.ops.encoding(images)).transpose(0, 3, 1, 2)
  with torch.no_grad():
    expected = network(torch.from_numpy(seen.copy())).logits.numpy()
  assert rel(applied(model)(variables, images), expected) <= 1e-5
  assert bcos_jax.explain(model, variables, images).completeness_error.max() <= 1e-5

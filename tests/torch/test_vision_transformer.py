"""Vision transformers of Hugging Face, timm and torchvision: every layer, and files both ways."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

import bcos_jax  # noqa: E402
from bcos_jax import BcosOps, convert  # noqa: E402
from bcos_jax.convert.architectures import vision_transformer  # noqa: E402

from ..common import applied, filled, flat, photos, rel, tiny  # noqa: E402
from . import aloe_oracle, live  # noqa: E402

pytestmark = pytest.mark.torch
SIDE, OTHER = 32, (48, 24)  # the table's size; one that shrinks and stretches it


@pytest.fixture(autouse=True, scope="module")
def _few_threads():
  torch.set_num_threads(2)
  torch.manual_seed(0)


@functools.cache
def _transformers():
  live.torchvision()
  import transformers

  return transformers


SMALL = {
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "image_size": SIDE,
  "patch_size": 8,
}
MLP = {**SMALL, "intermediate_size": 48}
TEXT = {
  "hidden_size": 16,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "intermediate_size": 16,
  "vocab_size": 20,
  "bos_token_id": 1,
  "eos_token_id": 2,
}
NAFLEX = {key: value for key, value in MLP.items() if key != "image_size"} | {"num_patches": 16}
TOWERS = {"vision_config": MLP, "text_config": TEXT}

# Class of the network, its configuration, and what differs from the family's default.
HUGGING_FACE = {
  "vit": ("ViTForImageClassification", "ViTConfig", MLP),
  "vit_model": ("ViTModel", "ViTConfig", {**MLP, "pooler_output_size": 24}),
  "deit": ("DeiTForImageClassification", "DeiTConfig", {**MLP, "qkv_bias": False}),
  "deit_teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", MLP),
  "vit_msn": ("ViTMSNForImageClassification", "ViTMSNConfig", MLP),
  "ijepa": ("IJepaForImageClassification", "IJepaConfig", MLP),
  "metaclip_2": ("MetaClip2Model", "MetaClip2Config", {**TOWERS, "projection_dim": 24}),
  "metaclip_2_classifier": ("MetaClip2ForImageClassification", "MetaClip2Config", TOWERS),
  "beit": (
    "BeitForImageClassification",
    "BeitConfig",
    {**MLP, "use_relative_position_bias": True, "layer_scale_init_value": 0.5},
  ),
  "data2vec_vision": (
    "Data2VecVisionForImageClassification",
    "Data2VecVisionConfig",
    {**MLP, "use_relative_position_bias": True},
  ),
  "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**SMALL, "mlp_ratio": 2}),
  "dinov2_model": ("Dinov2Model", "Dinov2Config", {**SMALL, "use_swiglu_ffn": True}),
  "dinov2_with_registers": (
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersConfig",
    {**SMALL, "num_register_tokens": 3},
  ),
  "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**MLP, "num_register_tokens": 2}),
  "dinov3_gated": (
    "DINOv3ViTModel",
    "DINOv3ViTConfig",
    {**MLP, "num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"},
  ),
  "siglip_model": ("SiglipVisionModel", "SiglipVisionConfig", {**MLP, "image_size": 35}),
  "siglip": ("SiglipModel", "SiglipConfig", TOWERS),
  "siglip_classifier": ("SiglipForImageClassification", "SiglipConfig", TOWERS),
  "siglip2_naflex_model": ("Siglip2VisionModel", "Siglip2VisionConfig", NAFLEX),
  "clip": ("CLIPModel", "CLIPConfig", {**TOWERS, "projection_dim": 24}),
  "clip_vision": (
    "CLIPVisionModelWithProjection",
    "CLIPVisionConfig",
    {**MLP, "projection_dim": 24},
  ),
  "clip_model": ("CLIPVisionModel", "CLIPVisionConfig", MLP),
  "clip_classifier": ("CLIPForImageClassification", "CLIPConfig", TOWERS),
}


def _hugging_face(name, folder):
  """A random network, saved and read again by the package: (network, file, bundle)."""
  from safetensors.numpy import load_file

  transformers = _transformers()
  network, config, fields = HUGGING_FACE[name]
  config = getattr(transformers, config)(**fields, num_labels=5)
  network = live.stirred(getattr(transformers, network)(config))
  network.save_pretrained(folder)
  given = network.config.to_diff_dict()
  attributes = {**network.config.to_dict(), "architectures": [type(network).__name__]}
  reader = vision_transformer.READERS[config.model_type]
  state = load_file(folder / "model.safetensors")
  bundle = convert.from_state_dict(
    state, reader.architecture, "huggingface", fields=reader.read(attributes, given)
  )
  return network, state, bundle


def _ready(network):
  """Makes the network take any image size, as its own code provides for."""
  kind, forward = type(network).__name__, network.forward
  if kind in ("SiglipModel", "CLIPModel", "MetaClip2Model"):
    forward = network.get_image_features
  if kind.startswith(
    ("ViT", "DeiT", "Siglip", "CLIP", "MetaClip2", "IJepa")
  ) and not kind.startswith("Siglip2"):
    forward = functools.partial(forward, interpolate_pos_encoding=True)
  if kind.startswith("Siglip2"):
    forward = functools.partial(_naflex, forward)
  network.forward = forward
  return network


def _naflex(forward, pixels):
  n, c, h, w = pixels.shape
  patches = pixels.reshape(n, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1)
  patches = patches.reshape(n, (h // 8) * (w // 8), -1)
  return forward(
    patches,
    pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
    spatial_shapes=torch.tensor([[h // 8, w // 8]] * n),
  )


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
  # MetaCLIP 2 has CLIP's keys.
  layout = "clip" if name == "clip_vision" else name.replace("metaclip_2", "clip")
  assert bundle.config["provenance"] == {"source": "huggingface", "layout": layout}
  # Of relative positions at other sizes, transformers resizes twice.
  sizes = ((SIDE, SIDE),) if bundle.model.positions == "relative" else ((SIDE, SIDE), OTHER)
  live.assert_computes_the_same(_ready(network), bundle, _inputs(*sizes))
  _assert_written_back(bundle, state)


TIMM = {
  "vit": {"init_values": None},
  "vit_mean": {"global_pool": "avg", "fc_norm": False},
  "deit": {},
  "dinov2": {"init_values": 1.0, "num_classes": 0},
  "dinov2_reg": {"init_values": 1.0, "reg_tokens": 3, "no_embed_class": True},
  "siglip": {"class_token": False, "global_pool": "map", "num_classes": 0},
  "deit3": {"init_values": 1.0, "no_embed_class": True},
  "clip": {"pre_norm": True, "act_layer": "gelu"},
  "clip_quickgelu": {"pre_norm": True, "act_layer": "quick_gelu"},
  "fc_norm": {"global_pool": "avg"},
  "max": {"global_pool": "max"},
  "avgmax": {"global_pool": "avgmax", "fc_norm": False},
  "reg_gap": {"class_token": False, "reg_tokens": 2, "global_pool": "avg", "qkv_bias": False},
  "swiglu": {"init_values": 1.0, "mlp_ratio": 3.0},
}
TIMM_FIELDS = {
  "vit_mean": {"pool": "mean"},
  "dinov2": {"layer_scale": 1.0, "num_classes": 0},
  "dinov2_reg": {"layer_scale": 1.0, "registers": 3, "prefix_positions": False},
  "siglip": {"class_token": False, "pool": "map", "num_classes": 0},
  "deit3": {"layer_scale": 1.0, "prefix_positions": False},
  "clip": {"pre_norm": True, "patch_bias": False},
  "clip_quickgelu": {"pre_norm": True, "patch_bias": False, "activation": "quick_gelu"},
  "fc_norm": {"pool": "mean", "norm_after_pool": True},
  "max": {"pool": "max", "norm_after_pool": True},
  "avgmax": {"pool": "mean_max"},
  "reg_gap": {
    "class_token": False,
    "registers": 2,
    "register_positions": True,
    "pool": "mean",
    "norm_after_pool": True,
    "qkv_bias": False,
  },
  "swiglu": {"layer_scale": 1.0, "gated_mlp": True, "activation": "silu", "mlp_dim": 48},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
  live.torchvision()
  import timm.layers
  from timm.models import deit
  from timm.models import vision_transformer as vit

  sizes = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
  fields = {"num_classes": 5, "mlp_ratio": 2, **TIMM[name]}
  if name == "swiglu":
    fields |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
  network = deit.VisionTransformerDistilled if name == "deit" else vit.VisionTransformer
  network = live.stirred(network(**sizes, dynamic_img_size=True, **fields))
  architecture = "deit_test" if name == "deit" else "vit_test"
  bundle = convert.from_state_dict(
    live.numpy_state(network),
    architecture,
    "timm",
    fields={"position_resize": "bicubic_antialias", **TIMM_FIELDS.get(name, {})},
  )
  live.assert_computes_the_same(network, bundle, _inputs((SIDE, SIDE), OTHER))
  _assert_written_back(bundle, live.numpy_state(network))


def test_timm_beit():
  live.torchvision()
  from timm.models import beit

  network = beit.Beit(
    img_size=SIDE,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=2,
    num_classes=5,
    mlp_ratio=2,
    use_abs_pos_emb=False,
    use_rel_pos_bias=True,
    init_values=0.5,
  )
  state = live.numpy_state(live.stirred(network))
  bundle = convert.from_state_dict(state, "beit_test", "timm")
  live.assert_computes_the_same(network, bundle, _inputs((SIDE, SIDE)))
  _assert_written_back(bundle, state)


@pytest.mark.parametrize("published", [False, True])
def test_torchvision(published):
  from torch.nn import LayerNorm

  network = live.torchvision().models.VisionTransformer(
    SIDE, 8, 2, 2, 32, 64, num_classes=5, norm_layer=functools.partial(LayerNorm, eps=1e-6)
  )
  state = live.numpy_state(live.stirred(network))
  if published:  # the names of the files that torchvision hosts
    for old, new in (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")):
      state = {key.replace(old, new): tensor for key, tensor in state.items()}
  bundle = convert.from_state_dict(state, "vit_test")
  assert bundle.config["provenance"]["source"] == "torchvision"
  live.assert_computes_the_same(network, bundle, _inputs((SIDE, SIDE)))
  _assert_written_back(bundle, state)


def test_b_1_equals_pytorch_and_explains(tmp_path):
  network, _, bundle = _hugging_face("clip", tmp_path)
  model, variables = bcos_jax.bcosify(bundle.model, bundle.variables, ops=BcosOps.equivalent())
  images = photos(2, side=SIDE)
  seen = np.asarray(bundle.model.ops.encoding(images)).transpose(0, 3, 1, 2)
  with torch.no_grad():
    expected = _ready(network)(torch.from_numpy(seen.copy())).pooler_output.numpy()
  assert rel(applied(model)(variables, images), expected) <= 1e-5
  ex = bcos_jax.explain(model, variables, images, target=lambda features: features[:, 0])
  assert ex.completeness_error.max() <= 1e-5


def test_openai_layout(tmp_path):
  """Written from Hugging Face's network: the same leaves come back, under OpenAI's names."""
  _, _, bundle = _hugging_face("clip_vision", tmp_path)
  state = convert.to_state_dict(bundle, "openai_clip")
  assert state["visual.proj"].shape == (32, 24)
  assert state["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (96, 32)
  text = {"transformer.resblocks.0.ln_1.weight": np.ones(4, np.float32), "logit_scale": np.ones(())}
  fields = {key: getattr(bundle.model, key) for key in bundle.config["fields"]}
  again = convert.from_state_dict(
    {**state, **text}, bundle.config["architecture"], "openai_clip", fields=fields
  )
  # The file does not say how pictures are read: as CLIP's are.
  assert again.model == bundle.model.clone(ops=again.model.ops)
  assert again.model.ops.encoding.mean == (0.48145466, 0.4578275, 0.40821073)
  expected, leaves = flat(bundle.variables), flat(again.variables)
  assert all(np.array_equal(leaves[path], leaf) for path, leaf in expected.items())
  assert convert.to_state_dict(again).keys() == {*state, *text}
  visual = {key.removeprefix("visual."): tensor for key, tensor in state.items()}
  bare = convert.from_state_dict(visual, bundle.config["architecture"], "open_clip", fields=fields)
  assert convert.to_state_dict(bare).keys() == visual.keys()


@pytest.mark.parametrize(
  "fields",
  [
    {"registers": 3, "positions": "rotary", "layer_scale": 1.0},
    {"class_token": False, "pool": "map"},
    {"norm_eps": 1e-5},
  ],
  ids=["dinov3", "siglip2", "vit"],
)
def test_students_of_aloe(fields):
  model = tiny("aloe_test", BcosOps.aloe(), **{"image_size": 16, "norm_eps": 1e-5, **fields})
  variables, images = filled(model), photos(2, side=16)
  state = convert.to_state_dict(bcos_jax.io.bundles.make_bundle(model, variables), "aloe")
  seen = torch.from_numpy(np.asarray(model.ops.encoding(images)).transpose(0, 3, 1, 2).copy())
  expected = aloe_oracle.logits(state, seen).numpy()
  logits, bias = applied(model)(variables, images), np.log(4)
  assert rel(np.asarray(logits) + bias, expected + bias) <= 1e-5

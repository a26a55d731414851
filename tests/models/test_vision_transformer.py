"""Vision transformers: positions, tokens, pooling, explanations, configurations, ALOE's files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bcos_jax
from bcos_jax import BcosOps, StandardOps, convert, layers
from bcos_jax import functional as F
from bcos_jax.convert import porting
from bcos_jax.convert.architectures.vision_transformer import READERS
from bcos_jax.convert.tables.axes import PATCHES
from bcos_jax.errors import InputError
from bcos_jax.io.bundles import make_bundle
from bcos_jax.models import vision_transformer_variants
from bcos_jax.models.blocks import positions

from ..common import (
  CLASSES,
  PRESETS,
  SIDE,
  TINY,
  applied,
  filled,
  photos,
  rel,
  shapes,
  suggestion,
  tiny,
)

NAMES = [name for name in TINY if name in vision_transformer_variants.TEST_VARIANTS]
IMAGES = photos(2)


# Sizes.

# Millions of parameters: torchvision, timm and Meta as they publish them; CLIP and SigLIP as in
# open_clip; the students of ALOE as the Hub shows them (facts).
MILLIONS = {
  "vit_b_16": (StandardOps(), 86.568),
  "deit_tiny_distilled_patch16_224": (StandardOps(), 5.911),
  "dinov2_vitb14": (StandardOps(), 86.580),
  "siglip_base_patch16_224": (StandardOps(), 92.884),
  "clip_vit_base_patch32": (StandardOps(), 87.849),
  "aloe_dinov3_vits16": (BcosOps.aloe(), 23.7),
  "aloe_vit_base_patch16_224": (BcosOps.aloe(), 87.8),
  "aloe_siglip2_base_patch16_224": (BcosOps.aloe(), 94.9),
}


@pytest.mark.parametrize("name", MILLIONS)
def test_sizes_of_published_networks(name):
  ops, millions = MILLIONS[name]
  count = sum(leaf.size for leaf in shapes(bcos_jax.create(name, ops=ops)).values()) / 1e6
  assert count == pytest.approx(millions, abs=0.051 if millions == round(millions, 1) else 6e-4)


# Positions.


@pytest.mark.parametrize("old, new", [(4, 7), (7, 4), (5, 5), (3, 16)])
def test_antialiased_tables_are_jaxs(old, new):
  table = np.random.RandomState(0).standard_normal((old * old, 3)).astype(np.float32)
  for kind, method in (("bicubic_antialias", "cubic"), ("bilinear_antialias", "linear")):
    grid = table.reshape(old, old, 3)
    expected = jax.image.resize(grid, (new, new, 3), method, antialias=True).reshape(-1, 3)
    value = positions.resize_table(jnp.asarray(table), (old, old), (new, new), kind)
    assert rel(value, expected) <= 1e-6


def test_bicubic_tables_are_pytorchs():
  """Numbers of torch.nn.functional.interpolate(mode='bicubic', align_corners=False)."""
  ramp = jnp.asarray([[0.0], [0.0], [1.0], [4.0]])
  value = positions.resize_table(ramp, (4, 1), (6, 1), "bicubic")
  expected = [0.0, -0.09375, 0.09143496, 0.59606475, 2.59375, 4.26041651]
  assert np.allclose(value[:, 0], expected, atol=1e-6)


def test_tables_stay_where_nothing_changes():
  table = jnp.ones((6, 2))
  assert positions.resize_table(table, (2, 3), (2, 3), "bicubic") is table
  with pytest.raises(InputError, match=r"bicubc.*" + suggestion("bicubic")):
    positions.resize_table(table, (2, 3), (3, 2), "bicubc")


def test_rotary_attention_depends_on_distance_alone():
  """Products of turned queries and keys are the same for all pairs one step apart."""
  cos, sin = positions.rotary_angles(positions.patch_places((1, 4)), 8, 100.0)
  assert cos.shape == (4, 8)
  seeded = np.random.RandomState(0)
  q, k = (jnp.tile(seeded.standard_normal((1, 1, 1, 8)), (1, 5, 1, 1)) for _ in range(2))
  turned = F.rotate(q, cos, sin)
  assert np.array_equal(turned[:, 0], q[:, 0])  # the class token has no position
  products = np.asarray(turned[0, :, 0] @ F.rotate(k, cos, sin)[0, :, 0].T)
  for step in range(3):
    diagonal = np.diagonal(products[1:, 1:], step)
    assert np.allclose(diagonal, diagonal[0], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_any_image_size(name):
  model = tiny(name, StandardOps())

  def logits(height, width):
    x = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return jax.eval_shape(model.apply, filled(model), x)

  for height, width in ((24, 40), (SIDE + 3, SIDE)):
    assert logits(height, width).shape == (1, CLASSES)
  if model.patch_size > 1:
    with pytest.raises(InputError, match=r"2x32|32x2"):
      logits(2, 32)


def test_pixels_that_fill_no_patch_are_not_seen():
  model = tiny("vit_test", StandardOps())
  variables, images = filled(model), photos(1, side=20)[:, :18]
  expected = applied(model)(variables, images[:, :16])
  assert rel(applied(model)(variables, images), expected) <= 1e-6


# Tokens, pooling, explanations.

RESIDUALS = {
  "vit_test": {"cls_token", "position", "bias"},
  "vit_reg_gap_test": {"register_tokens", "position", "bias"},
  "vit_max_test": {"cls_token", "position", "bias"},
  "beit_test": {"cls_token", "bias"},
  "deit_test": {"cls_token", "distillation_token", "position", "bias"},
  "dinov2_test": {"cls_token", "register_tokens", "position", "bias"},
  "dinov3_test": {"cls_token", "register_tokens", "bias"},
  "siglip_test": {"position", "bias"},
  "clip_test": {"cls_token", "position", "bias"},
  "aloe_test": {"cls_token", "position", "bias"},
}


@pytest.mark.parametrize("name", NAMES)
def test_explanations_are_complete_with_every_constant_named(name):
  model = tiny(name, BcosOps(use_bias=True))
  ex = bcos_jax.explain(model, filled(model), IMAGES)
  assert ex.completeness_error.max() <= 1e-5
  assert set(ex.residuals) == {*RESIDUALS[name], "logit_bias", "unexplained"}
  for source in RESIDUALS[name]:
    assert np.abs(ex.residuals[source]).min() > 1e-6, source


@pytest.mark.parametrize(
  "name, preset", [("siglip_test", "standard"), ("dinov2_test", "standard"), ("aloe_test", "aloe2")]
)
def test_explanations_in_other_families(name, preset):
  model = tiny(name, PRESETS[preset])
  ex = bcos_jax.explain(model, filled(model), IMAGES)
  assert ex.completeness_error.max() <= 1e-5
  assert ("bias" in ex.residuals) == (preset == "standard")


@pytest.mark.parametrize("name", ["deit_test", "dinov2_test", "siglip_test", "clip_test"])
def test_without_classes_there_are_features(name):
  model = tiny(name, BcosOps(), num_classes=0)
  width = {"dinov2_test": 64, "clip_test": 16}.get(name, 32)
  features = jax.eval_shape(applied(model), filled(model), IMAGES)
  assert features.shape == (2, width) and features.dtype == jnp.float32
  assert not any("head" in path for path in shapes(model))


def test_what_is_bcos_is_what_is_requested():
  """A learned B stands in every B-cos map: never in queries, keys and values."""
  learned = tiny("siglip_test", BcosOps(learn_b=True), gated_mlp=True)
  found = {path.removesuffix("/b") for path in shapes(learned) if path.endswith("/b")}
  block = "params/encoder_0"
  assert found == {
    "params/embeddings/patch_embedding",
    *(f"{block}/{name}" for name in ("attn/out", "mlp/gate", "mlp/up", "mlp/down")),
    *(f"params/pool/{name}" for name in ("attn/out", "mlp/linear1", "mlp/linear2")),
    "params/head",
  }


def test_hidden_states_can_be_captured():
  model = tiny("dinov2_test", StandardOps(), depth=2)

  def run(variables, images):
    return model.apply(variables, images, capture_intermediates=True, mutable=["intermediates"])

  _, state = jax.eval_shape(run, filled(model), model.ops.encoding(IMAGES))
  tokens = 1 + 2 + (SIDE // 4) ** 2
  for name in ("embeddings", "encoder_0", "encoder_1", "norm"):
    assert state["intermediates"][name]["__call__"][0].shape == (2, tokens, 32)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"pool": "cls", "class_token": False}, "'cls'.*'mean'"),
    ({"distillation_head": True}, "distillation_head True"),
    ({"pool": "average"}, "pool 'average'"),
    ({"activation": "gelo"}, suggestion("gelu")),
    ({"positions": "rotary", "num_heads": 16}, "multiple of 4"),
    ({"num_heads": 5}, "32.*5 heads"),
    ({"position_resize": "cubic", "image_size": 64}, "position_resize"),
  ],
)
def test_fields_that_do_not_go_together(fields, message):
  model = tiny("vit_test", StandardOps(), **fields)
  with pytest.raises(InputError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))


def test_layer_scale_keeps_the_dtype():
  layer = layers.LayerScale(0.5)
  x = jnp.ones((2, 3), jnp.bfloat16)
  y, variables = layer.init_with_output(jax.random.key(0), x)
  assert y.dtype == x.dtype and np.allclose(y.astype(np.float32), 0.5)
  assert variables["params"]["scale"].dtype == jnp.float32


# Configurations.

VIT = {
  "model_type": "vit",
  "architectures": ["ViTForImageClassification"],
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 48,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-12,
  "image_size": [32, 32],
  "patch_size": 8,
  "num_channels": 3,
  "qkv_bias": True,
}
CLIP_VISION = {key: VIT[key] for key in VIT if key not in ("model_type", "qkv_bias")} | {
  "model_type": "clip_vision_model",
  "architectures": None,
  "hidden_act": "quick_gelu",
  "top_k": 50,
}


def _read(config):
  reader = READERS[config["model_type"]]
  fields = reader.read(config, config)
  bcos_jax.create(reader.architecture, ops=StandardOps(), **fields)  # every field exists
  return fields


def test_configurations_become_fields():
  fields = _read(VIT)
  assert fields["width"] == 32 and fields["image_size"] == 32 and fields["mlp_dim"] == 48
  assert _read({**VIT, "architectures": ["ViTModel"]})["pooler"] == 32
  clip = {"model_type": "clip", "projection_dim": 8, "vision_config": CLIP_VISION}
  assert _read({**clip, "architectures": ["CLIPModel"]})["projection"] == 8
  classifier = _read({**clip, "architectures": ["CLIPForImageClassification"]})
  assert (classifier["pool"], classifier["final_norm"]) == ("mean", False)
  naflex = {**CLIP_VISION, "model_type": "siglip2_vision_model", "num_patches": 16}
  del naflex["image_size"]
  assert _read(naflex)["image_size"] == 32


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"num_channels": 1}, "num_channels is 1"),
    ({"image_size": [32, 48]}, "expected a square"),
    ({"hidden_act": "mish"}, "hidden_act"),
    ({"architectures": ["ViTForMaskedImageModeling"]}, "ViTForMaskedImageModeling"),
    ({"pooler_act": "relu"}, "pooler_act is 'relu'"),
    ({"window_size": 7}, "window_size is 7"),
    ({"model_type": "siglip2_vision_model", "num_patches": 15, "architectures": None}, "square"),
    (
      {
        "model_type": "dinov3_vit",
        "architectures": None,
        "query_bias": True,
        "key_bias": False,
        "value_bias": False,
      },
      "query_bias",
    ),
  ],
)
def test_configurations_that_are_not_understood(changes, message):
  with pytest.raises(InputError, match=message):
    _read({**VIT, **changes})


# ALOE.

ALOE = {
  "model_type": "aloe_dinov3_vision",
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 64,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-5,
  "image_size": 32,
  "patch_size": 16,
  "num_channels": 6,
  "num_labels": 5,
  "rope_theta": 100.0,
  "aloe_rope_theta": 10000.0,
  "aloe_add_conv_stem": [8, 16, 16, 32],
  "aloe_num_registers": 4,
  "aloe_cls_token": True,
  "aloe_use_layer_scale": True,
  "aloe_b_linear": 2.0,
  "aloe_bcos_impl": "v2",
}
# Shapes of facts, section 5, for these sizes.
ALOE_SHAPES = {
  "vision_model.embeddings.conv_stem.stem.0.conv.linear.weight": (8, 6, 3, 3),
  "vision_model.embeddings.conv_stem.stem.3.norm.weight": (32,),
  "vision_model.embeddings.patch_embedding.linear.weight": (32, 32),
  "vision_model.encoder.layers.1.self_attn.qkv_proj.weight": (96, 32),
  "vision_model.encoder.layers.1.self_attn.out_proj.linear.weight": (32, 32),
  "vision_model.encoder.layers.1.mlp.fc1.linear.weight": (64, 32),
  "vision_model.encoder.layers.1.layer_norm2.weight": (32,),
  "vision_model.post_layernorm.weight": (32,),
  "classifier.linear.weight": (5, 32),
}
ALOE_OWN = {
  "vit": {
    "vision_model.embeddings.cls_token": (1, 1, 32),
    "vision_model.embeddings.pos_embedding.embedding.weight": (17, 32),
  },
  "dinov3": {
    "vision_model.embeddings.register_tokens.tokens": (1, 4, 32),
    "vision_model.encoder.layers.0.layer_scale2.lambda1": (32,),
  },
  "siglip2": {
    "vision_model.embeddings.pos_embedding.embedding.weight": (16, 32),
    "vision_model.head.probe": (1, 1, 32),
    "vision_model.head.attention.q_proj.weight": (32, 32),
    "vision_model.head.attention.kv_proj.weight": (64, 32),
    "vision_model.head.mlp.fc2.linear.weight": (32, 64),
  },
}


def _aloe_fields(family):
  config = {**ALOE, "model_type": f"aloe_{family}_vision"}
  if family != "dinov3":
    config |= {"aloe_use_layer_scale": False, "aloe_num_registers": 0}
  if family == "siglip2":
    config |= {"aloe_cls_token": False, "hidden_act": "gelu_pytorch_tanh"}
  config["image_size"] = 32
  reader = READERS[config["model_type"]]
  return reader.architecture, reader.read(config, config)


@pytest.mark.parametrize("family", ALOE_OWN)
def test_students_of_aloe_round_trip(family):
  architecture, fields = _aloe_fields(family)
  assert fields["activation"] == "gelu"
  model = bcos_jax.create(architecture, ops=BcosOps.aloe(), num_classes=5, **fields)
  state = convert.to_state_dict(make_bundle(model, filled(model)), "aloe")
  for key, shape in (ALOE_SHAPES | ALOE_OWN[family]).items():
    # Three of the four stages of this stem widen: 32 pixels make 4 x 4 positions.
    assert state[key].shape == shape, key
  assert not any(key.endswith("bias") for key in state)
  bundle = convert.from_state_dict(state, architecture, fields=fields)
  assert bundle.model == model and bundle.config["provenance"]["source"] == "aloe"
  again = convert.to_state_dict(bundle)
  assert again.keys() == state.keys()
  assert all(again[key].tobytes() == tensor.tobytes() for key, tensor in state.items())


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"aloe_bcos_impl": "v1"}, "aloe_bcos_impl is 'v1'"),
    ({"model_type": "aloe_vit_vision", "aloe_bcos_impl": None}, "aloe_bcos_impl"),
    ({"aloe_add_conv_stem": False}, "stem"),
    ({"aloe_b_linear": 1.5}, "aloe_b_linear is 1.5"),
    ({"aloe_logit_bias": -3.0}, "aloe_logit_bias is -3.0"),
    ({"aloe_surprise": 1}, "aloe_surprise is 1"),
  ],
)
def test_students_of_aloe_that_are_refused(changes, message):
  config = {key: v for key, v in {**ALOE, **changes}.items() if v is not None}
  with pytest.raises(InputError, match=message):
    READERS[config["model_type"]].read(config, config)


def test_the_stem_of_aloe_makes_one_position_of_16_pixels():
  for name, side, grid in (
    ("aloe_vit_base_patch16_224", 224, 14),
    ("aloe_siglip2_so400m_patch16_432", 432, 27),
  ):
    model = bcos_jax.create(name, ops=BcosOps.aloe())
    assert model.image_size == side and model.conv_stem == vision_transformer_variants.ALOE_STEM
    rows = grid * grid + model.class_token
    assert shapes(model)["params/embeddings/position"].shape[0] == rows


# Tables.


def test_whole_parts_can_be_skipped():
  table = (
    convert.Rule("visual.w", "params/w"),
    convert.Skip("text.{rest*}", "another tower", beside="params/w", optional=True),
  )
  state = {"visual.w": np.ones(3), "text.layer.0.w": np.ones(2), "text.b": np.zeros((), np.int64)}
  leaves, skipped = porting.port(state, table, {"params/w": np.zeros(3)})
  assert skipped.keys() == {"text.layer.0.w", "text.b"}
  assert porting.export(leaves, table, skipped).keys() == state.keys()
  assert porting.export(leaves, table, {}).keys() == {"visual.w"}
  with pytest.raises(InputError, match=r"'texts\.w' \[1\].*0 rules"):
    porting.port({**state, "texts.w": np.ones(1)}, table, {"params/w": np.zeros(3)})


def test_patch_embeddings_of_any_channels_round_trip():
  for channels in (1, 2, 3, 6):
    kernel = np.random.RandomState(0).standard_normal((5, channels, 4, 4)).astype(np.float32)
    flax = PATCHES.to_flax(kernel)
    assert flax.shape == (16 * channels, 5)
    assert flax[channels * 6 : channels * 7, 2].tolist() == kernel[2, :, 1, 2].tolist()
    assert np.array_equal(PATCHES.to_torch(flax), kernel)


def test_the_text_tower_is_kept_for_the_way_back():
  model = tiny("clip_test", StandardOps(), num_classes=0)
  state = convert.to_state_dict(make_bundle(model, filled(model)), "huggingface")
  assert "vision_model.pre_layrnorm.weight" in state
  state["text_model.final_layer_norm.weight"] = np.ones(7, np.float32)
  fields = {k: getattr(model, k) for k in ("depth", "patch_size", "image_size", "num_classes")}
  bundle = convert.from_state_dict(state, "clip_test", fields=fields)
  assert bundle.extras.keys() == {"text_model.final_layer_norm.weight"}
  assert convert.to_state_dict(bundle).keys() == state.keys()

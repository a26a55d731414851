"""Configurations of Hugging Face's vision transformers and of ALOE's students."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from bcos_jax.errors import InputError, unknown_name
from bcos_jax.models.vision_transformer_variants import ALOE_STEM

from ..readers.hf_config import (
  ACTIVATIONS,
  BARE,
  GENERATION,
  Config,
  ConfigReader,
  Fields,
  Setting,
  activation,
  by_class,
  side,
)


def _activation(value: str, config: Config) -> Fields:
  # DINOv2's gated units have an activation of their own.
  fields = activation(value, config)
  return {"activation": "silu"} if config.get("use_swiglu_ffn") else fields


_BLOCKS: dict[str, Setting] = {
  "hidden_size": "width",
  "num_hidden_layers": "depth",
  "num_attention_heads": "num_heads",
  "hidden_act": _activation,
  "layer_norm_eps": "norm_eps",
  "image_size": side("image_size"),
  "patch_size": side("patch_size"),
}
_COLORS = {"num_channels": (3,), "pruned_heads": ({}, None)}
_PRETRAINING = "masked pretraining only"
_BACKBONE = dict.fromkeys(
  ("apply_layernorm", "reshape_hidden_states", "out_features", "out_indices", "stage_names"),
  "form of the outputs of a backbone",
)


def _vit_model(config: Config) -> Fields:
  pooler = config.get("pooler_output_size") or config["hidden_size"]
  return {"num_classes": 0, "pooler": pooler}


def _vit(architecture: str, classes: Mapping[str | None, Any], **only) -> ConfigReader:
  return ConfigReader(
    architecture,
    fields={
      **_BLOCKS,
      "intermediate_size": "mlp_dim",
      "qkv_bias": "qkv_bias",
      "architectures": by_class(classes),
      # timm's networks of these names resize with anti-aliasing.
      "model_type": lambda value, config: {"position_resize": "bicubic"},
    },
    only={**_COLORS, "pooler_act": ("tanh",), **only},
    ignored={
      "encoder_stride": _PRETRAINING,
      "pooler_output_size": "read with the class of the network",
      **GENERATION,
    },
  )


_DISTILLED = {"distillation_token": True, "distillation_head": True}
_VIT = _vit(
  "vit_base_patch16_224",
  {None: _vit_model, "ViTModel": _vit_model, "ViTForImageClassification": {}},
)
_DEIT = _vit(
  "deit_base_distilled_patch16_224",
  {
    None: lambda config: {**_vit_model(config), "distillation_head": False},
    "DeiTModel": lambda config: {**_vit_model(config), "distillation_head": False},
    "DeiTForImageClassification": {"distillation_head": False},
    "DeiTForImageClassificationWithTeacher": _DISTILLED,
  },
)


def _dinov2_hidden(value: float, config: Config) -> Fields:
  hidden = int(config["hidden_size"] * value)
  if config["use_swiglu_ffn"]:
    # Two thirds, rounded up to a multiple of 8.
    hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
  return {"mlp_dim": hidden}


def _dinov2(architecture: str, name: str, **more: Setting) -> ConfigReader:
  return ConfigReader(
    architecture,
    fields={
      **_BLOCKS,
      "mlp_ratio": _dinov2_hidden,
      "use_swiglu_ffn": "gated_mlp",
      "qkv_bias": "qkv_bias",
      "layerscale_value": "layer_scale",
      "architectures": by_class(
        {None: BARE, f"{name}Model": BARE, f"{name}ForImageClassification": {"pool": "cls_mean"}}
      ),
      **more,
    },
    only=_COLORS,
    ignored={"use_mask_token": _PRETRAINING, **_BACKBONE, **GENERATION},
  )


def _qkv_bias(value: bool, config: Config) -> Fields:
  if value != config["value_bias"] or (config["key_bias"] and not value):
    raise InputError(
      f"query_bias, key_bias and value_bias are {value}, {config['key_bias']} and "
      f"{config['value_bias']}.",
      "Supported are biases of queries and values together, and of keys only with them.",
    )
  return {"qkv_bias": value}


_DINOV3 = ConfigReader(
  "dinov3_vits16",
  fields={
    **_BLOCKS,
    "intermediate_size": "mlp_dim",
    "use_gated_mlp": "gated_mlp",
    "query_bias": _qkv_bias,
    "key_bias": "key_bias",
    "layerscale_value": "layer_scale",
    "num_register_tokens": "registers",
    "rope_theta": "rope_theta",
    "architectures": by_class({None: BARE, "DINOv3ViTModel": BARE}),
  },
  only={**_COLORS, "proj_bias": (True,), "mlp_bias": (True,)},
  ignored={
    "value_bias": "read with query_bias",
    **dict.fromkeys(
      ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"), "augments while training"
    ),
    **_BACKBONE,
    **GENERATION,
  },
)


def _nested(model_type: str) -> Setting:
  """Reads the vision part of a configuration of two towers."""

  def read(value: Config, config: Config) -> Fields:
    # Its own class says nothing: the whole network's class decides.
    own = {k: v for k, v in value.items() if k != "architectures"}
    return READERS[model_type].read({**own, "model_type": model_type}, own)

  return read


def _naflex_side(value: int, config: Config) -> Fields:
  count = math.isqrt(value)
  if count * count != value:
    raise InputError(
      f"num_patches is {value}, expected a square number.", "Only square tables are supported."
    )
  return {"image_size": count * side("patch_size")(config["patch_size"], config)["patch_size"]}


def _siglip_vision(architecture: str, name: str, **size: Setting) -> ConfigReader:
  blocks = {**_BLOCKS, **size}
  if "num_patches" in size:
    del blocks["image_size"]
  return ConfigReader(
    architecture,
    fields={
      **blocks,
      "intermediate_size": "mlp_dim",
      "architectures": by_class({None: BARE, f"{name}VisionModel": BARE}),
    },
    only={**_COLORS, "vision_use_head": (True,)},
    ignored=GENERATION,
  )


_TWO_TOWERS = {
  "text_config": "the text tower is a network of its own",
  "text_config_dict": "the text tower is a network of its own",
  "vision_config_dict": "repeats vision_config",
  "logit_scale_init_value": "initialisation",
  **GENERATION,
}


def _siglip(architecture: str, name: str, model_type: str) -> ConfigReader:
  return ConfigReader(
    architecture,
    fields={
      "vision_config": _nested(model_type),
      "architectures": by_class(
        {
          None: BARE,
          f"{name}Model": BARE,
          f"{name}VisionModel": BARE,
          f"{name}ForImageClassification": {"pool": "mean"},
        }
      ),
    },
    ignored=_TWO_TOWERS,
  )


def _projected(config: Config) -> Fields:
  return {"num_classes": 0, "projection": config["projection_dim"]}


_CLIP_VISION = ConfigReader(
  "clip_vit_base_patch32",
  fields={
    **_BLOCKS,
    "intermediate_size": "mlp_dim",
    "architectures": by_class(
      {
        None: {"num_classes": 0, "projection": 0},
        "CLIPVisionModel": {"num_classes": 0, "projection": 0},
        "CLIPVisionModelWithProjection": _projected,
      }
    ),
  },
  only=_COLORS,
  ignored={"projection_dim": "read with the class of the network", **GENERATION},
)
_CLIP = ConfigReader(
  "clip_vit_base_patch32",
  fields={
    "vision_config": _nested("clip_vision_model"),
    "architectures": by_class(
      {
        None: _projected,
        "CLIPModel": _projected,
        "CLIPVisionModelWithProjection": _projected,
        "CLIPForImageClassification": {"pool": "mean", "final_norm": False, "projection": 0},
      }
    ),
  },
  ignored={"projection_dim": "read with the class of the network", **_TWO_TOWERS},
)


# ALOE writes configurations of its own: base attributes, and `aloe_*` for what it changed.


def _aloe_type(default: str) -> Setting:
  def read(value: str, config: Config) -> Fields:
    implementation = config.get("aloe_bcos_impl", default)
    if implementation != "v2":
      raise InputError(
        f"aloe_bcos_impl is {implementation!r}; published students compute v2, regardless of their "
        "files, and the two differ by the length of every weight.",
        "If it is v2, write 'v2' into config.json; else read with 'v2' and pass "
        "ops=BcosOps.aloe(implementation=1).",
      )
    return {}

  return read


def _aloe_stem(value: bool | list[int], config: Config) -> Fields:
  if value is False:
    raise InputError(
      "aloe_add_conv_stem is False; only students with a convolutional stem are supported.",
      "Convert a published student: all of them have the stem.",
    )
  return {"conv_stem": ALOE_STEM if value is True else tuple(value), "patch_size": 1}


def _aloe_logit_bias(value: float | None, config: Config) -> Fields:
  expected = -math.log(max(config.get("num_labels", 2) - 1, 1))
  if value is not None and not math.isclose(value, expected, rel_tol=1e-5):
    raise InputError(
      f"aloe_logit_bias is {value}, expected -log(classes - 1) = {expected:.6f}.",
      f"Pass ops=BcosOps.aloe(logit_bias={value}).",
    )
  return {}


def _aloe_activation(value: str, config: Config) -> Fields:
  # Its layers compute the exact GELU under either name.
  return {"activation": {"gelu_tanh": "gelu"}.get(ACTIVATIONS.get(value, value), value)}


def _aloe_pool(value: str | None, config: Config) -> Fields:
  known = {None: "cls", "cls": "cls", "map": "map", "attention": "map", "head": "map"}
  if value not in known:
    raise unknown_name("aloe_pooler_type", value, [k for k in known if k])
  return {"pool": known[value]} if value else {}


def _aloe(architecture: str, implementation: str, **only) -> ConfigReader:
  """One family of students.

  The default implementation is that of the configuration class, which holds where the file is
  silent.
  """
  elsewhere = "read off the architecture"
  return ConfigReader(
    architecture,
    fields={
      "model_type": _aloe_type(implementation),
      "hidden_size": "width",
      "num_hidden_layers": "depth",
      "num_attention_heads": "num_heads",
      "intermediate_size": "mlp_dim",
      "hidden_act": _aloe_activation,
      "layer_norm_eps": "norm_eps",
      "image_size": side("image_size"),
      "aloe_add_conv_stem": _aloe_stem,
      "aloe_num_registers": "registers",
      "aloe_pooler_type": _aloe_pool,
      "aloe_layer_scale_init": "layer_scale",
      "aloe_logit_bias": _aloe_logit_bias,
      # `aloe_rope_theta` may hold a default of 10000 that its own code never used.
      "rope_theta": "rope_theta",
    },
    only={
      "num_channels": (6,),
      "aloe_in_channels": (6,),
      "aloe_b_conv": (2, 2.0),
      "aloe_b_linear": (2, 2.0),
      "aloe_logit_temperature": (None, 1, 1.0),
      **only,
    },
    ignored={
      "patch_size": "the stem and the patches together",
      "num_patches": "the position table tells",
      "aloe_patch_size": "the stem and the patches together",
      "aloe_feature_dim": elsewhere,
      "aloe_to_patch_embedding_key": elsewhere,
      "aloe_backbone": elsewhere,
      "aloe_rope_theta": "yields to rope_theta",
      "aloe_base_model_name": "the teacher",
      "aloe_bcos_impl": "read with the model type",
      "aloe_use_logit_layer": "the classifier has it",
      "num_register_tokens": "aloe_num_registers counts",
      **GENERATION,
    },
  )


_TABLE = (None, "learned", "absolute", "learnable")
_ALOE = {
  "vit": _aloe(
    "aloe_vit_base_patch16_224",
    "v1",
    aloe_cls_token=(True,),
    aloe_use_layer_scale=(False, None),
    aloe_position_embedding_type=_TABLE,
  ),
  "dinov3": _aloe(
    "aloe_dinov3_vitb16",
    "v2",
    aloe_cls_token=(True,),
    aloe_use_layer_scale=(True,),
    aloe_position_embedding_type=("rope", "rope_2d", None),
  ),
  "siglip2": _aloe(
    "aloe_siglip2_base_patch16_224",
    "v2",
    aloe_cls_token=(False,),
    aloe_use_layer_scale=(False, None),
    aloe_position_embedding_type=_TABLE,
  ),
}

READERS: dict[str, ConfigReader] = {
  "vit": _VIT,
  "deit": _DEIT,
  "dinov2": _dinov2("dinov2_vitb14", "Dinov2"),
  "dinov2_with_registers": _dinov2(
    "dinov2_vitb14_reg", "Dinov2WithRegisters", num_register_tokens="registers"
  ),
  "dinov3_vit": _DINOV3,
  "siglip_vision_model": _siglip_vision("siglip_base_patch16_224", "Siglip"),
  "siglip": _siglip("siglip_base_patch16_224", "Siglip", "siglip_vision_model"),
  "siglip2_vision_model": _siglip_vision(
    "siglip2_base_patch16_naflex", "Siglip2", num_patches=_naflex_side
  ),
  "siglip2": _siglip("siglip2_base_patch16_naflex", "Siglip2", "siglip2_vision_model"),
  "clip_vision_model": _CLIP_VISION,
  "clip": _CLIP,
  **{
    f"aloe_{family}_{kind}": reader
    for family, reader in _ALOE.items()
    for kind in ("vision", "image_classification")
  },
}
"""Model type -> reader."""

"""Configurations of Hugging Face's vision transformers and of ALOE's students."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from bcos_jax.errors import InputError

from ...readers.hf_config import (
  BARE,
  GENERATION,
  Config,
  ConfigReader,
  Fields,
  Setting,
  activation,
  by_class,
  read_side,
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
_MSN = _vit(
  "vit_base_patch16_224", {None: BARE, "ViTMSNModel": BARE, "ViTMSNForImageClassification": {}}
)
_IJEPA = _vit(
  "vit_base_patch16_224",
  {"IJepaForImageClassification": {"class_token": False, "pool": "mean"}},
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
    return HF_READERS[model_type].read({**own, "model_type": model_type}, own)

  return read


def _naflex_side(value: int, config: Config) -> Fields:
  count = math.isqrt(value)
  if count * count != value:
    raise InputError(
      f"num_patches is {value}, expected a square number.", "Only square tables are supported."
    )
  patch = read_side("patch_size", config["patch_size"])
  return {"image_size": count * patch}


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


def _clip_vision(name: str) -> ConfigReader:
  return ConfigReader(
    "clip_vit_base_patch32",
    fields={
      **_BLOCKS,
      "intermediate_size": "mlp_dim",
      "architectures": by_class(
        {
          None: {"num_classes": 0, "projection": 0},
          f"{name}VisionModel": {"num_classes": 0, "projection": 0},
          f"{name}VisionModelWithProjection": _projected,
        }
      ),
    },
    only=_COLORS,
    ignored={"projection_dim": "read with the class of the network", **GENERATION},
  )


def _clip(name: str, model_type: str) -> ConfigReader:
  return ConfigReader(
    "clip_vit_base_patch32",
    fields={
      "vision_config": _nested(model_type),
      "architectures": by_class(
        {
          None: _projected,
          f"{name}Model": _projected,
          f"{name}VisionModelWithProjection": _projected,
          f"{name}ForImageClassification": {"pool": "mean", "final_norm": False, "projection": 0},
        }
      ),
    },
    ignored={"projection_dim": "read with the class of the network", **_TWO_TOWERS},
  )


def _beit(name: str) -> ConfigReader:
  """BEiT and Data2Vec; fine-tuned networks have relative positions and pool by the mean."""
  decoder = ("pool_scales", "semantic_loss_ignore_index", "auxiliary_loss_weight")
  auxiliary = ("use_auxiliary_head", "auxiliary_channels", "auxiliary_num_convs")
  decoder = (*decoder, *auxiliary, "auxiliary_concat_input")
  return ConfigReader(
    "beit_base_patch16_224",
    fields={
      **_BLOCKS,
      "intermediate_size": "mlp_dim",
      "layer_scale_init_value": lambda value, config: {"layer_scale": value or None},
      "architectures": by_class(
        {None: BARE, f"{name}Model": BARE, f"{name}ForImageClassification": {}}
      ),
    },
    only={
      **_COLORS,
      "use_relative_position_bias": (True,),
      "use_shared_relative_position_bias": (False,),
      "use_absolute_position_embeddings": (False,),
      "use_mean_pooling": (True,),
    },
    ignored={
      "use_mask_token": _PRETRAINING,
      "vocab_size": _PRETRAINING,
      "add_fpn": "of segmentation networks",
      **dict.fromkeys(decoder, "of segmentation networks"),
      **_BACKBONE,
      **GENERATION,
    },
  )


HF_READERS: dict[str, ConfigReader] = {
  "vit": _VIT,
  "vit_msn": _MSN,
  "ijepa": _IJEPA,
  "beit": _beit("Beit"),
  "data2vec-vision": _beit("Data2VecVision"),
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
  "clip_vision_model": _clip_vision("CLIP"),
  "clip": _clip("CLIP", "clip_vision_model"),
  "metaclip_2_vision_model": _clip_vision("MetaClip2"),
  "metaclip_2": _clip("MetaClip2", "metaclip_2_vision_model"),
}
"""Model type -> reader."""

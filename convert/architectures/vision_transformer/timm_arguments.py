"""Arguments of timm's vision transformers."""

from __future__ import annotations

from bcos_jax.errors import unknown_name

from ...readers import timm
from ...readers.hf_config import Config, Fields

_POOLS = {"token": "cls", "avg": "mean", "max": "max", "avgmax": "mean_max", "map": "map"}
_PLAIN = ("avg", "avgmax", "max")  # whose norm follows the pooling unless `fc_norm` says otherwise


def _pool(value: str, config: Config) -> Fields:
  if value not in _POOLS:
    raise unknown_name("global_pool of a timm network", value, _POOLS)
  distilled = config["variant"]["distillation_head"]
  if distilled and value != "token":
    raise unknown_name("global_pool of a distilled network", value, ["token"])
  if distilled and config.get("num_classes") == 0:  # no heads to average: timm averages the tokens
    return {"pool": "cls_distilled", "distillation_head": False}
  chosen = config.get("fc_norm")
  return {
    "pool": _POOLS[value],
    "norm_after_pool": value in _PLAIN if chosen is None else chosen,
  }


def _fc_norm(value: bool | None, config: Config) -> Fields:
  return {} if value is None else {"norm_after_pool": value}


def _hidden(value: float, config: Config) -> Fields:
  return {"mlp_dim": int(config.get("embed_dim", config["variant"]["width"]) * value)}


def _width(value: int, config: Config) -> Fields:
  own = config["variant"]
  return {"width": value, "mlp_dim": int(value * config.get("mlp_ratio", _ratio(own)))}


def _ratio(fields: Config) -> float:
  return fields["mlp_dim"] / fields["width"]


def _no_embed_class(value: bool, config: Config) -> Fields:
  # A table without rows for class tokens has none for registers either.
  return {"prefix_positions": not value, "register_positions": not value}


def _registers(value: int, config: Config) -> Fields:
  if "no_embed_class" in config:
    return {"registers": value}
  positions = config["variant"]["prefix_positions"]
  return {"registers": value, "register_positions": positions}


def _pre_norm(value: bool, config: Config) -> Fields:
  return {"pre_norm": value, "patch_bias": not value}


READER = timm.reader(
  {
    "img_size": timm.image_size,
    "patch_size": timm.square("patch_size", "patch_size"),
    "embed_dim": _width,
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": _hidden,
    "qkv_bias": "qkv_bias",
    "init_values": "layer_scale",
    "class_token": "class_token",
    "reg_tokens": _registers,
    "no_embed_class": _no_embed_class,
    "pre_norm": _pre_norm,
    "final_norm": "final_norm",
    "global_pool": _pool,
    "fc_norm": _fc_norm,
    "act_layer": timm.activation,
  },
  only={
    "pos_embed": ("learn",),
    "pool_include_prefix": (False,),
    "qk_norm": (False,),
    "scale_attn_norm": (False,),
    "scale_mlp_norm": (False,),
    "proj_bias": (True,),
    "dynamic_img_pad": (False,),
    "embed_norm_layer": (None,),
    "norm_layer": (None, "layernorm"),
  },
  ignored={
    "dynamic_img_size": "networks of this package take images of any size",
    "strict_img_size": "networks of this package take images of any size",
  },
)

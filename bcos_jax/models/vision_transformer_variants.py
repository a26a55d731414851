"""Published vision transformers, by the names of timm, torchvision, Hugging Face and Meta."""

from __future__ import annotations

from typing import Any

from .vision_transformer_timm import TIMM_VARIANTS

Fields = dict[str, Any]

_TINY = {"width": 192, "num_heads": 3, "mlp_dim": 768}
_SMALL = {"width": 384, "num_heads": 6, "mlp_dim": 1536}
_BASE = {"width": 768, "num_heads": 12, "mlp_dim": 3072}
_LARGE = {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096}
_HUGE = {"width": 1280, "depth": 32, "num_heads": 16, "mlp_dim": 5120}
_SO400M = {"width": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304}
_GIANT_OPT = {"width": 1536, "depth": 40, "num_heads": 16, "mlp_dim": 6144}

_TIMM = {"position_resize": "bicubic_antialias"}


def _vit() -> dict[str, Fields]:
  sizes = {"tiny": _TINY, "small": _SMALL, "base": _BASE, "large": _LARGE}
  timm = (
    *((size, 16, side) for size in sizes for side in (224, 384)),
    *((size, 32, side) for size in ("small", "base", "large") for side in (224, 384)),
    ("small", 8, 224),
    ("base", 8, 224),
  )
  rows = {
    f"vit_{size}_patch{patch}_{side}": {
      **sizes[size],
      **_TIMM,
      "patch_size": patch,
      "image_size": side,
    }
    for size, patch, side in timm
  }
  rows["vit_huge_patch14_224"] = {**_HUGE, **_TIMM, "patch_size": 14}
  torchvision = {"b": _BASE, "l": _LARGE, "h": _HUGE}
  for size, patch in (("b", 16), ("b", 32), ("l", 16), ("l", 32), ("h", 14)):
    rows[f"vit_{size}_{patch}"] = {**torchvision[size], "patch_size": patch}
  return rows


def _deit() -> dict[str, Fields]:
  rows = {}
  for size, fields in (("tiny", _TINY), ("small", _SMALL), ("base", _BASE)):
    for distilled in (False, True):
      name = f"deit_{size}_{'distilled_' if distilled else ''}patch16"
      row = {
        **fields,
        **_TIMM,
        "distillation_token": distilled,
        "distillation_head": distilled,
      }
      rows[f"{name}_224"] = row
      if size == "base":
        rows[f"{name}_384"] = {**row, "image_size": 384}
  return rows


def _dinov2() -> dict[str, Fields]:
  giant = {
    "width": 1536,
    "depth": 40,
    "num_heads": 24,
    "mlp_dim": 4096,
    "gated_mlp": True,
    "activation": "silu",
  }
  rows = {}
  for size, fields in (("s", _SMALL), ("b", _BASE), ("l", _LARGE), ("g", giant)):
    row = {**fields, "patch_size": 14, "image_size": 518, "layer_scale": 1.0, "num_classes": 0}
    rows[f"dinov2_vit{size}14"] = row
    rows[f"dinov2_vit{size}14_reg"] = {
      **row,
      "registers": 4,
      "position_resize": "bicubic_antialias",
    }
  return rows


def _dinov3() -> dict[str, Fields]:
  gated = {"gated_mlp": True, "activation": "silu"}
  sizes = {
    "s16": _SMALL,
    "s16plus": {**_SMALL, **gated},
    "b16": _BASE,
    "l16": _LARGE,
    "h16plus": {**_HUGE, **gated, "num_heads": 20},
    "7b16": {
      "width": 4096,
      "depth": 40,
      "num_heads": 32,
      "mlp_dim": 8192,
      "qkv_bias": False,
      **gated,
    },
  }
  common = {
    "registers": 4,
    "positions": "rotary",
    "key_bias": False,
    "layer_scale": 1.0,
    "norm_eps": 1e-5,
    "num_classes": 0,
  }
  return {f"dinov3_vit{size}": {**fields, **common} for size, fields in sizes.items()}


_MAP = {"class_token": False, "pool": "map", "activation": "gelu_tanh", "num_classes": 0}


def _siglip() -> dict[str, Fields]:
  sizes = {"base": _BASE, "large": _LARGE, "so400m": _SO400M, "giant_opt": _GIANT_OPT}
  published = {
    "siglip": (
      ("base", 16, (224, 256, 384, 512)),
      ("large", 16, (256, 384)),
      ("so400m", 14, (224, 384)),
    ),
    "siglip2": (
      ("base", 32, (256,)),
      ("base", 16, (224, 256, 384, 512)),
      ("large", 16, (256, 384, 512)),
      ("so400m", 14, (224, 384)),
      ("so400m", 16, (256, 384, 512)),
      ("giant_opt", 16, (256, 384)),
    ),
  }
  return {
    f"{family}_{size}_patch{patch}_{side}": {
      **sizes[size],
      **_MAP,
      "patch_size": patch,
      "image_size": side,
    }
    for family, rows in published.items()
    for size, patch, sides in rows
    for side in sides
  } | {
    f"siglip2_{size}_patch16_naflex": {
      **sizes[size],
      **_MAP,
      "image_size": 256,
      "position_resize": "bilinear_antialias",
    }
    for size in ("base", "so400m")
  }


def _clip() -> dict[str, Fields]:
  common = {
    "patch_bias": False,
    "pre_norm": True,
    "activation": "quick_gelu",
    "norm_eps": 1e-5,
    "num_classes": 0,
  }
  base, large = {**_BASE, **common, "projection": 512}, {**_LARGE, **common, "projection": 768}
  return {
    "clip_vit_base_patch32": {**base, "patch_size": 32},
    "clip_vit_base_patch16": base,
    "clip_vit_large_patch14": {**large, "patch_size": 14},
    "clip_vit_large_patch14_336": {**large, "patch_size": 14, "image_size": 336},
  }


ALOE_STEM = (64, 128, 128, 256, 256, 512)
"""Channels of the stem of ALOE's students: 16 pixels become one position."""


def _aloe() -> dict[str, Fields]:
  common = {"conv_stem": ALOE_STEM, "patch_size": 1, "num_classes": 0}
  dinov3 = {
    "registers": 4,
    "positions": "rotary",
    "key_bias": False,
    "layer_scale": 1.0,
    "norm_eps": 1e-5,
  }
  # The tanh approximation of the teachers became the exact GELU in the students.
  siglip2 = {**_MAP, "activation": "gelu"}
  return {
    "aloe_vit_base_patch16_224": {**_BASE, "norm_eps": 1e-12, **common},
    **{
      f"aloe_dinov3_vit{size}16": {**fields, **dinov3, **common}
      for size, fields in (("s", _SMALL), ("b", _BASE), ("l", _LARGE))
    },
    **{
      f"aloe_siglip2_{size}_patch16_{side}": {**fields, **siglip2, **common, "image_size": side}
      for size, side, fields in (
        ("base", 224, _BASE),
        ("large", 256, _LARGE),
        ("so400m", 256, _SO400M),
        ("so400m", 432, _SO400M),
      )
    },
  }


_TEST = {
  "width": 32,
  "depth": 2,
  "num_heads": 2,
  "mlp_dim": 64,
  "patch_size": 8,
  "image_size": 32,
  "num_classes": 10,
}
TEST_VARIANTS: dict[str, Fields] = {
  "vit_test": _TEST,
  "deit_test": {
    **_TEST,
    "distillation_token": True,
    "distillation_head": True,
    "position_resize": "bicubic_antialias",
  },
  "dinov2_test": {
    **_TEST,
    "registers": 2,
    "layer_scale": 1.0,
    "gated_mlp": True,
    "activation": "silu",
    "pool": "cls_mean",
  },
  "vit_reg_gap_test": {
    **_TEST,
    "class_token": False,
    "registers": 2,
    "register_positions": True,
    "pool": "mean",
    "norm_after_pool": True,
  },
  "vit_max_test": {
    **_TEST,
    "layer_scale": 1.0,
    "prefix_positions": False,
    "pool": "mean_max",
    "norm_after_pool": True,
  },
  "beit_test": {
    **_TEST,
    "positions": "relative",
    "key_bias": False,
    "layer_scale": 1.0,
    "pool": "mean",
    "norm_after_pool": True,
  },
  "dinov3_test": {
    **_TEST,
    "registers": 2,
    "layer_scale": 1.0,
    "positions": "rotary",
    "key_bias": False,
    "norm_eps": 1e-5,
  },
  "siglip_test": {**_TEST, "class_token": False, "pool": "map", "activation": "gelu_tanh"},
  "clip_test": {
    **_TEST,
    "patch_bias": False,
    "pre_norm": True,
    "activation": "quick_gelu",
    "projection": 16,
    "norm_eps": 1e-5,
  },
  "aloe_test": {**_TEST, "conv_stem": (8, 16, 16, 32), "patch_size": 1},
}

VARIANTS: dict[str, Fields] = {
  **_vit(),
  **_deit(),
  **_dinov2(),
  **_dinov3(),
  **_siglip(),
  **_clip(),
  **_aloe(),
  **TIMM_VARIANTS,
}
